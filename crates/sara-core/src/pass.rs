//! What one forward pass knows beside its input, what it draws, and what it records.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Bool, Distribution, Tensor};

use crate::seed::Seed;
use crate::site::Site;

/// One forward pass: which tokens count, whether it trains, what it saw.
#[derive(Debug)]
pub struct Pass<B: Backend> {
    /// True where a token counts, `[batch, seq]`; `None` if all do.
    tokens: Option<Tensor<B, 2, Bool>>,
    /// `None` in evaluation.
    noise: Option<Noise>,
    seen: Option<RefCell<Seen<B>>>,
}

/// The micro-batch of a run that a pass trains on: with a path, all that a draw depends on.
///
/// Nothing depends on what was drawn before, so a resumed run draws what an uninterrupted one does, and a block that is
/// computed a second time draws what it drew the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// The seed of the run.
    pub seed: Seed,
    /// The optimizer step, from 0.
    pub step: usize,
    /// The micro-batch of that step, from 0.
    pub micro_batch: usize,
}

impl Default for Noise {
    fn default() -> Self {
        Self { seed: Seed(0), step: 0, micro_batch: 0 }
    }
}

/// Statistics of the passes of one optimizer step, each under a site and a name that the method chose.
#[derive(Debug, Clone, Default)]
pub struct Seen<B: Backend> {
    sums: Statistics<B>,
    maxima: Statistics<B>,
}

type Statistics<B> = BTreeMap<(Site, &'static str), Tensor<B, 1>>;

impl<B: Backend> Seen<B> {
    /// What was recorded as a sum.
    pub fn sum(&self, site: Site, name: &'static str) -> Option<&Tensor<B, 1>> {
        self.sums.get(&(site, name))
    }

    /// What was recorded as a maximum.
    pub fn max(&self, site: Site, name: &'static str) -> Option<&Tensor<B, 1>> {
        self.maxima.get(&(site, name))
    }

    /// True if nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty() && self.maxima.is_empty()
    }

    /// Takes in what another pass of the same step saw: as if both had been one.
    pub fn merge(&mut self, other: Self) {
        for (key, value) in other.sums {
            put(&mut self.sums, key, value, |old, new| old + new);
        }
        for (key, value) in other.maxima {
            put(&mut self.maxima, key, value, Tensor::max_pair);
        }
    }
}

impl<B: AutodiffBackend> Seen<B> {
    /// The same, off the graph.
    pub fn inner(self) -> Seen<B::InnerBackend> {
        let inner = |statistics: Statistics<B>| {
            statistics.into_iter().map(|(key, value)| (key, value.inner())).collect()
        };
        Seen { sums: inner(self.sums), maxima: inner(self.maxima) }
    }
}

fn put<B: Backend>(
    statistics: &mut Statistics<B>,
    key: (Site, &'static str),
    value: Tensor<B, 1>,
    join: impl FnOnce(Tensor<B, 1>, Tensor<B, 1>) -> Tensor<B, 1>,
) {
    let value = match statistics.remove(&key) {
        Some(before) => join(before, value),
        None => value,
    };
    statistics.insert(key, value);
}

impl<B: Backend> Pass<B> {
    /// A pass of evaluation: nothing is dropped, nothing drawn.
    pub fn evaluation() -> Self {
        Self { tokens: None, noise: None, seen: None }
    }

    /// A pass of training.
    pub fn training(noise: Noise) -> Self {
        Self { tokens: None, noise: Some(noise), seen: None }
    }

    /// The same pass, with a record of what the adapter's layers see; for adapters that
    /// [ask for it](crate::Adapter::records).
    pub fn recording(self) -> Self {
        Self { seen: Some(RefCell::default()), ..self }
    }

    /// The same pass, which draws the same and records nothing: for what is computed again later.
    #[must_use]
    pub fn unrecorded(&self) -> Self {
        Self { tokens: self.tokens.clone(), noise: self.noise, seen: None }
    }

    /// Says which tokens count: true in `tokens [batch, seq]`; `None` if all do.
    pub fn set_tokens(&mut self, tokens: Option<Tensor<B, 2, Bool>>) {
        self.tokens = tokens;
    }

    /// True in training.
    pub fn is_training(&self) -> bool {
        self.noise.is_some()
    }

    /// The optimizer step that the pass trains in, from 0; `None` in evaluation.
    pub fn step(&self) -> Option<usize> {
        self.noise.map(|noise| noise.step)
    }

    /// True if inputs are recorded: then every token passes every layer, also where only some are needed.
    pub fn is_recording(&self) -> bool {
        self.seen.is_some()
    }

    /// Inverted dropout with probability `p` of zero; the identity in evaluation.
    ///
    /// `path` tells the draws of a pass apart: a site, or a block and what is dropped there.
    ///
    /// # Panics
    /// If `p` is not in `0..1`.
    pub fn dropout<const D: usize>(&self, x: Tensor<B, D>, p: f64, path: impl Display) -> Tensor<B, D> {
        assert!((0.0..1.0).contains(&p), "a probability of dropout of {p} is not in 0..1");
        if p == 0.0 || !self.seed_device(&x.device(), path) {
            return x;
        }
        let kept = x.random_like(Distribution::Bernoulli(1.0 - p));
        x * kept * (1.0 / (1.0 - p))
    }

    /// Values between 0 and 1, the same for the same `path`; `None` in evaluation.
    pub fn uniform<const D: usize>(
        &self,
        shape: [usize; D],
        path: impl Display,
        device: &B::Device,
    ) -> Option<Tensor<B, D>> {
        self.seed_device(device, path).then(|| Tensor::random(shape, Distribution::Uniform(0.0, 1.0), device))
    }

    /// Makes what the device draws next a function of the run's position and `path`; false in evaluation, where
    /// nothing is to be drawn.
    pub fn seed_device(&self, device: &B::Device, path: impl Display) -> bool {
        let Some(Noise { seed, step, micro_batch }) = self.noise else { return false };
        B::seed(device, seed.of_draw(step, micro_batch, path));
        true
    }

    /// Adds to what this step saw at `site`; does nothing unless the pass is [recording](Self::recording).
    pub fn record_sum(&self, site: Site, name: &'static str, value: impl FnOnce() -> Tensor<B, 1>) {
        if let Some(seen) = &self.seen {
            put(&mut seen.borrow_mut().sums, (site, name), value().detach(), |old, new| old + new);
        }
    }

    /// The same for the largest of each value.
    pub fn record_max(&self, site: Site, name: &'static str, value: impl FnOnce() -> Tensor<B, 1>) {
        if let Some(seen) = &self.seen {
            put(&mut seen.borrow_mut().maxima, (site, name), value().detach(), Tensor::max_pair);
        }
    }

    /// The sum of each feature's values over the tokens that count.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d]`
    /// - returns `[d]`
    pub fn sum_over_tokens(&self, x: Tensor<B, 3>) -> Tensor<B, 1> {
        let [batch, seq, d] = x.dims();
        let x = match &self.tokens {
            Some(tokens) => {
                let padding = tokens.clone().bool_not().unsqueeze_dim::<3>(2).expand([batch, seq, d]);
                x.mask_fill(padding, 0.0)
            }
            None => x,
        };
        x.reshape([batch * seq, d]).sum_dim(0).reshape([d])
    }

    /// What was recorded.
    pub fn into_seen(self) -> Seen<B> {
        self.seen.map(RefCell::into_inner).unwrap_or_default()
    }
}
