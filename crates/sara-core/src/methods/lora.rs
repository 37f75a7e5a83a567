//! LoRA: a low-rank branch of one rank beside every adapted weight.
//!
//! # Idea
//! The change that fine-tuning makes to a weight has a low rank: train only its two thin factors, beside the frozen
//! weight.
//!
//! # Equations
//! `y = x W + b + scaling * (dropout(x) down) up`, with `down [d_in, rank]`, `up [rank, d_out]` and
//! `scaling = alpha / rank`, or `alpha / sqrt(rank)` (rsLoRA). The paper's `A` is `down` transposed, its `B` is `up`
//! transposed.
//!
//! # Start
//! `down` is uniform in `±1 / sqrt(d_in)`, `up = 0`: the adapted model equals the backbone.
//!
//! # Differences from the paper
//! The paper's text says that `A` starts from a normal distribution; the authors' code draws it uniformly, and so do
//! we.
//!
//! # Source
//! Hu et al., 2021, arXiv:2106.09685; Kalajdzievski, 2023, arXiv:2312.03732 for `alpha / sqrt(rank)`.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Trainable};
use crate::delta::Delta;
use crate::error::Result;
use crate::low_rank::{LowRank, linear};
use crate::methods::{Method, probability};
use crate::ops::{LinearOps, TrainOps};
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of every branch. Default 8 (the authors' GLUE scripts).
    pub rank: usize,
    /// Numerator of the scaling. Default 16 (the authors' GLUE scripts).
    pub alpha: f64,
    /// Probability that dropout zeroes an input of the branch in training. Default 0.
    pub dropout: f64,
    /// What `alpha` is divided by. Default the rank.
    pub scaling: LoraScaling,
}

/// What `alpha` is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraScaling {
    /// `alpha / rank`, as in the paper.
    #[default]
    Rank,
    /// `alpha / sqrt(rank)`: rank-stabilised LoRA.
    RootRank,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, scaling: LoraScaling::Rank }
    }
}

/// LoRA at every adapted site.
#[derive(Module, Debug)]
pub struct Lora<B: Backend> {
    layers: SiteMap<B, LoraLayer<B>>,
    dropout: f64,
}

/// The path of a factor in [`AnyAdapter`](crate::AnyAdapter), for adapters that come from elsewhere.
pub(crate) fn path(site: Site, factor: &str) -> String {
    format!("Lora.layers.{site}.{factor}")
}

/// LoRA at one site.
#[derive(Module, Debug)]
struct LoraLayer<B: Backend> {
    /// `[d_in, rank]`.
    down: Param<Tensor<B, 2>>,
    /// `[rank, d_out]`.
    up: Param<Tensor<B, 2>>,
    scaling: f64,
}

impl Method for LoraConfig {
    type Adapter<B: LinearOps> = Lora<B>;

    fn plan<B: SvdOps>(&self, targets: &[Target], _weights: &mut dyn WeightSource<B>) -> Result<RankPlan> {
        RankPlan::constant(targets, self.rank)
    }

    fn init<B: LinearOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Lora<B>> {
        probability("lora.dropout", self.dropout)?;
        let layer = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, rank) = (&planned.target, planned.rank);
            let scaling = match self.scaling {
                LoraScaling::Rank => planned.scaling(self.alpha),
                LoraScaling::RootRank => planned.alpha.unwrap_or(self.alpha) / (rank as f64).sqrt(),
            };
            let down =
                seed.uniform(&format!("{site}.down"), [*d_in, rank], 1.0 / (*d_in as f64).sqrt(), device);
            let up = Param::from_tensor(Tensor::zeros([rank, *d_out], device));
            (*site, LoraLayer { down, up, scaling })
        };
        Ok(Lora { layers: plan.sites.iter().map(layer).collect(), dropout: self.dropout })
    }

    fn count(&self, _shape: ModelShape, plan: &RankPlan) -> usize {
        plan.sites.iter().map(Planned::pair_count).sum()
    }
}

impl<B: Backend> LoraLayer<B> {
    fn low_rank(&self) -> LowRank<B> {
        LowRank { down: self.down.val(), scale: None, up: self.up.val(), scaling: self.scaling }
    }
}

impl<B: LinearOps> Adapter<B> for Lora<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        match self.layers.get(site) {
            Some(layer) => layer.low_rank().project(base, x, self.dropout, pass),
            None => linear(base, x),
        }
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.layers.get(site).map(|layer| Delta { weight: layer.low_rank().change(), bias: None }))
    }
}

impl<B: TrainOps> Trainable<B> for Lora<B> {}
