//! What one forward pass knows beside its input, and what it records.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Bool, Distribution, Tensor};

use crate::site::Site;

/// One forward pass: which tokens count, whether it trains, what it saw.
#[derive(Debug)]
pub struct Pass<B: Backend> {
    /// True where a token counts, `[batch, seq]`; `None` if all do.
    tokens: Option<Tensor<B, 2, Bool>>,
    is_training: bool,
    seen: Option<RefCell<Seen<B>>>,
}

/// Statistics of one training pass, by site.
#[derive(Debug, Clone, Default)]
pub struct Seen<B: Backend> {
    /// L2 norm of each input feature over the tokens that count, `[d_in]`.
    pub input_norms: BTreeMap<Site, Tensor<B, 1>>,
}

impl<B: Backend> Seen<B> {
    /// Adds what another micro-batch of the same step saw.
    pub fn merge(&mut self, other: Self) {
        for (site, norm) in other.input_norms {
            let sum = match self.input_norms.remove(&site) {
                Some(before) => (before.powi_scalar(2) + norm.powi_scalar(2)).sqrt(),
                None => norm,
            };
            self.input_norms.insert(site, sum);
        }
    }
}

impl<B: Backend> Pass<B> {
    /// A pass of evaluation: nothing is recorded, nothing is dropped.
    pub fn evaluation() -> Self {
        Self { tokens: None, is_training: false, seen: None }
    }

    /// A pass of training. `tokens [batch, seq]` is true where a token counts; `None` if all do.
    pub fn training(tokens: Option<Tensor<B, 2, Bool>>) -> Self {
        Self { tokens, is_training: true, seen: None }
    }

    /// The same pass, with a record of what the adapter's layers see; for adapters that
    /// [ask for it](crate::Adapter::records_inputs).
    pub fn recording(self) -> Self {
        Self { seen: Some(RefCell::new(Seen { input_norms: BTreeMap::new() })), ..self }
    }

    /// True in training.
    pub fn is_training(&self) -> bool {
        self.is_training
    }

    /// True if inputs are recorded: then every token passes every layer, also where only some are needed.
    pub fn is_recording(&self) -> bool {
        self.seen.is_some()
    }

    /// Inverted dropout with probability `p` of zero; the identity in evaluation.
    ///
    /// The noise comes from the device's generator: the training loop seeds it before each micro-batch.
    pub fn dropout<const D: usize>(&self, x: Tensor<B, D>, p: f64) -> Tensor<B, D> {
        if p == 0.0 || !self.is_training() {
            return x;
        }
        let kept = x.random_like(Distribution::Bernoulli(1.0 - p));
        x * kept * (1.0 / (1.0 - p))
    }

    /// Records the norm of each input feature at `site`; `x [batch, seq, d_in]`. Does nothing unless the pass is
    /// [recording](Self::recording).
    pub fn record_input(&self, site: Site, x: &Tensor<B, 3>) {
        let Some(seen) = &self.seen else { return };
        let [batch, seq, d_in] = x.dims();
        let mut square = x.clone().detach().powi_scalar(2);
        if let Some(tokens) = &self.tokens {
            let padding = tokens.clone().bool_not().unsqueeze_dim::<3>(2).expand([batch, seq, d_in]);
            square = square.mask_fill(padding, 0.0);
        }
        let norm = square.reshape([batch * seq, d_in]).sum_dim(0).reshape([d_in]).sqrt();
        seen.borrow_mut().input_norms.insert(site, norm);
    }
}

impl<B: AutodiffBackend> Pass<B> {
    /// What was recorded, off the graph.
    pub fn into_seen(self) -> Seen<B::InnerBackend> {
        let norms = self.seen.map(|seen| seen.into_inner().input_norms).unwrap_or_default();
        Seen { input_norms: norms.into_iter().map(|(site, norm)| (site, norm.inner())).collect() }
    }
}
