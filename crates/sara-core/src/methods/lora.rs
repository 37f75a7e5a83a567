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

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Trainable};
use crate::delta::Delta;
use crate::error::Result;
use crate::low_rank::{Branch, BranchConfig, uniform_down, zero_up};
use crate::methods::Method;
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank of every branch. Default 8 (the authors' GLUE scripts).
    pub rank: usize,
    /// The options of every branch.
    #[serde(flatten)]
    pub branch: BranchConfig,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, branch: BranchConfig::default() }
    }
}

/// LoRA at every adapted site.
#[derive(Module, Debug)]
pub struct Lora<B: Backend> {
    layers: SiteMap<B, Branch<B>>,
}

/// The path of a factor in [`AnyAdapter`](crate::AnyAdapter), for adapters that come from elsewhere.
pub(crate) fn path(site: Site, factor: &str) -> String {
    format!("Lora.layers.{site}.{factor}")
}

impl Method for LoraConfig {
    type Adapter<B: LayerOps> = Lora<B>;

    const LEARNING_RATE: f64 = 1e-3;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        self.branch.plan("lora.rank", targets, |_| Ok(self.rank))
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Lora<B>> {
        self.branch.check("lora")?;
        let branch = |planned: &Planned| Branch {
            down: uniform_down(seed, planned, device),
            scale: None,
            up: zero_up(planned, device),
            scaling: self.branch.scaling(planned, planned.rank as f64),
            dropout: self.branch.dropout,
        };
        Ok(Lora { layers: plan.map(branch) })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        planned.pair_count()
    }
}

impl<B: LayerOps> Adapter<B> for Lora<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        self.layers.project(site, base, x, pass)
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.layers.delta(site))
    }
}

impl<B: TrainOps> Trainable<B> for Lora<B> {}
