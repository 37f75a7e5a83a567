//! TAPS: the whole change of a weight, in those layers alone where a trained score says that it is worth it.
//!
//! # Idea
//! Each layer has a change of its weight as large as the weight, and a score. Only layers whose score reaches a threshold
//! are changed; a penalty pulls the scores down, so that a task changes few layers and shares the others.
//!
//! # Equations
//! `y = x (W + [score >= threshold] delta) + b`, with `delta [d_in, d_out]` and `score [1]`. Backward the comparison counts
//! as the score itself (straight through): the score's gradient is the sum of `delta` times that of the changed weight.
//! Penalty: `strength` times the mean of `|score|` over the layers, once `warmup_ratio` of the steps are done.
//!
//! # Start
//! `delta = 0`, `score = initial_score`: every layer is active, and the adapted model equals the backbone.
//!
//! # Differences from the paper
//! The authors' code divides the penalty by 52, the layers of its own model; here by the number of adapted layers. It waits
//! for three epochs of 31; here for a share of the steps. It trains the normalisation layers too; here only the
//! targets. Tasks are trained one after the other.
//!
//! # Source
//! Wallingford et al., 2022, arXiv:2203.16708, and the authors' code.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{self as ops, LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Apart, Figure, Progress, Trainable};
use crate::delta::{Change, Delta};
use crate::error::Result;
use crate::low_rank::linear;
use crate::methods::{Method, finite, fraction, not_negative};
use crate::parameters::host;
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of TAPS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TapsConfig {
    /// Weight of the penalty. Default 1 (the authors' code).
    pub strength: f64,
    /// The score from which on a layer is changed. Default 0.1 (the authors' code).
    pub threshold: f64,
    /// The score of every layer at the start. Default 0.15 (the authors' code).
    pub initial_score: f64,
    /// Share of the steps without a penalty. Default 0.1 (the authors' code: three epochs of 31).
    pub warmup_ratio: f64,
}

impl Default for TapsConfig {
    fn default() -> Self {
        Self { strength: 1.0, threshold: 0.1, initial_score: 0.15, warmup_ratio: 0.1 }
    }
}

/// TAPS at every adapted site.
#[derive(Module, Debug)]
pub struct Taps<B: Backend> {
    layers: SiteMap<B, Gated<B>>,
    #[module(skip)]
    config: TapsConfig,
}

/// The change of one weight, and whether it is worth it.
#[derive(Module, Debug)]
struct Gated<B: Backend> {
    /// `[d_in, d_out]`.
    delta: Param<Tensor<B, 2>>,
    /// `[1]`.
    score: Param<Tensor<B, 1>>,
}

impl<B: Backend> Gated<B> {
    /// 1 where the score reaches the threshold, else 0, with the gradient of the score itself, `[1]`.
    fn gate(&self, threshold: f64) -> Tensor<B, 1> {
        let score = self.score.val();
        let open = score.clone().detach().greater_equal_elem(threshold).float().cast(score.dtype());
        // The difference is an exact zero.
        open + (score.clone() - score.detach())
    }

    /// Decided as the gate is, in its type.
    fn is_active(&self, threshold: f64) -> bool {
        host(self.gate(threshold)).iter().all(|&open| open > 0.0)
    }

    fn score(&self) -> f64 {
        host(self.score.val()).first().map_or(0.0, |&score| f64::from(score))
    }
}

impl Method for TapsConfig {
    type Adapter<B: LayerOps> = Taps<B>;

    const LEARNING_RATE: f64 = 3e-4;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        RankPlan::new("taps", targets, |target| Ok(Planned::new(target, target.d_in.min(target.d_out))))
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        _seed: Seed,
        device: &B::Device,
    ) -> Result<Taps<B>> {
        not_negative("taps.strength", self.strength)?;
        finite("taps.threshold", self.threshold)?;
        finite("taps.initial_score", self.initial_score)?;
        fraction("taps.warmup_ratio", self.warmup_ratio)?;
        let gated = |planned: &Planned| {
            let &Target { d_in, d_out, .. } = &planned.target;
            Gated {
                delta: Param::from_tensor(Tensor::zeros([d_in, d_out], device)),
                score: Param::from_tensor(Tensor::full([1], self.initial_score, device)),
            }
        };
        Ok(Taps { layers: plan.map(gated), config: self.clone() })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        planned.target.d_in * planned.target.d_out + 1
    }
}

impl<B: LayerOps> Adapter<B> for Taps<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, _pass: &Pass<B>) -> Tensor<B, 3> {
        let Some(gated) = self.layers.get(site) else { return linear(base, x) };
        let weight = ops::widened(base.weight.val()).cast(x.dtype());
        let change = gated.delta.val() * gated.gate(self.config.threshold).unsqueeze();
        let changed = weight.clone() + change.cast(weight.dtype());
        ops::linear(x, changed, base.bias.as_ref().map(Param::val))
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        let active = self.layers.get(site).filter(|gated| gated.is_active(self.config.threshold));
        Ok(active.map(|gated| Delta { weight: Change::Dense(gated.delta.val()), bias: None }))
    }

    fn penalty(&self, progress: Progress) -> Option<Tensor<B, 1>> {
        let TapsConfig { strength, warmup_ratio, .. } = self.config;
        if (progress.step as f64) < warmup_ratio * progress.total as f64 {
            return None;
        }
        let scores = self.layers.iter().map(|(_, gated)| gated.score.val().abs());
        Some(scores.reduce(|sum, score| sum + score)? * (strength / self.layers.len() as f64))
    }

    fn report(&self) -> Vec<Figure> {
        let (mut figures, mut active_layers) = (Vec::new(), 0.0);
        for (site, gated) in self.layers.iter() {
            let active = f64::from(u8::from(gated.is_active(self.config.threshold)));
            figures.extend([Figure::at(site, "score", gated.score()), Figure::at(site, "active", active)]);
            active_layers += active;
        }
        figures.push(Figure::of_all("active_share", active_layers / self.layers.len() as f64));
        figures
    }

    fn apart(&self) -> Apart {
        let unused = self.layers.iter().filter(|(_, gated)| !gated.is_active(self.config.threshold));
        Apart { from_base: Vec::new(), unused: unused.map(|(_, gated)| gated.delta.id).collect() }
    }
}

impl<B: TrainOps> Trainable<B> for Taps<B> {}
