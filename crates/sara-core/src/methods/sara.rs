//! SARA: a low-rank branch whose rank is chosen for each weight from its singular values.
//!
//! # Idea
//! The rank at a site is the number of singular values of the pretrained weight that make up `share` of their sum; a
//! branch with a trained diagonal in its middle is trained beside the frozen weight.
//!
//! # Equations
//! `y = x W + b + scaling * ((dropout(x) down) * scale) up`, with `down [d_in, rank]`, `scale [rank]`,
//! `up [rank, d_out]` and `scaling = alpha / rank`. The paper's `A`, `lambda`, `B` are `down`, `scale`, `up`.
//!
//! # Start
//! `zero_up` (default): `down` as in LoRA, `scale = 1`, `up = 0`. `zero_scale`: `down` normal with deviation
//! `1 / sqrt(d_in)`, `up` with `1 / sqrt(d_out)`, so that the columns of `down` and the rows of `up` have unit length on
//! average, and `scale = 0`. Either way the adapted model equals the backbone.
//!
//! # Differences from the paper
//! The paper leaves the first values and the scaling open. The defaults were chosen by experiments on a real encoder: at
//! LoRA's learning rate `zero_up` ends six points of accuracy above `zero_scale`, whose branch grows ten times slower,
//! and a scaling of 1 lost half a point.
//!
//! # Source
//! Gu et al., 2024, arXiv:2408.03290.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_svd::{Convention, SvdOps};
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Trainable};
use crate::delta::Delta;
use crate::error::Result;
use crate::low_rank::{LowRank, linear};
use crate::methods::{Method, probability};
use crate::ops::{LinearOps, TrainOps};
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of SARA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SaraConfig {
    /// Share of the sum of singular values that the rank must reach, 0 to 1. Default 0.05 (about LoRA's size at
    /// r = 8 on encoders of width 384).
    pub share: f64,
    /// Which of the two readings of the rule. Default `reach`.
    pub convention: Convention,
    /// Numerator of the scaling. Default 16 (LoRA's; by experiment).
    pub alpha: f64,
    /// Probability that dropout zeroes an input of the branch in training. Default 0.
    pub dropout: f64,
    /// First values. Default `zero_up` (by experiment).
    pub start: SaraStart,
}

/// First values of SARA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaraStart {
    /// `up = 0` as in LoRA, `scale = 1`.
    #[default]
    ZeroUp,
    /// `scale = 0` between two random factors.
    ZeroScale,
}

impl Default for SaraConfig {
    fn default() -> Self {
        Self {
            share: 0.05,
            convention: Convention::Reach,
            alpha: 16.0,
            dropout: 0.0,
            start: SaraStart::ZeroUp,
        }
    }
}

/// SARA at every adapted site.
#[derive(Module, Debug)]
pub struct Sara<B: Backend> {
    layers: SiteMap<B, SaraLayer<B>>,
    dropout: f64,
}

/// SARA at one site.
#[derive(Module, Debug)]
struct SaraLayer<B: Backend> {
    /// `[d_in, rank]`.
    down: Param<Tensor<B, 2>>,
    /// `[rank]`.
    scale: Param<Tensor<B, 1>>,
    /// `[rank, d_out]`.
    up: Param<Tensor<B, 2>>,
    scaling: f64,
}

impl Method for SaraConfig {
    type Adapter<B: LinearOps> = Sara<B>;

    fn plan<B: SvdOps>(&self, targets: &[Target], weights: &mut dyn WeightSource<B>) -> Result<RankPlan> {
        probability("sara.share", self.share)?;
        RankPlan::spectral(targets, self.share, self.convention, weights)
    }

    fn init<B: LinearOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Sara<B>> {
        probability("sara.dropout", self.dropout)?;
        let layer = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, rank) = (&planned.target, planned.rank);
            let (down_path, up_path) = (format!("{site}.down"), format!("{site}.up"));
            let (unit_in, unit_out) = (1.0 / (*d_in as f64).sqrt(), 1.0 / (*d_out as f64).sqrt());
            let (down, scale, up) = match self.start {
                SaraStart::ZeroScale => (
                    seed.normal(&down_path, [*d_in, rank], unit_in, device),
                    Tensor::zeros([rank], device),
                    seed.normal(&up_path, [rank, *d_out], unit_out, device),
                ),
                SaraStart::ZeroUp => (
                    seed.uniform(&down_path, [*d_in, rank], unit_in, device),
                    Tensor::ones([rank], device),
                    Param::from_tensor(Tensor::zeros([rank, *d_out], device)),
                ),
            };
            (
                *site,
                SaraLayer {
                    down,
                    scale: Param::from_tensor(scale),
                    up,
                    scaling: planned.scaling(self.alpha),
                },
            )
        };
        Ok(Sara { layers: plan.sites.iter().map(layer).collect(), dropout: self.dropout })
    }

    fn count(&self, _shape: ModelShape, plan: &RankPlan) -> usize {
        plan.sites.iter().map(|planned| planned.pair_count() + planned.rank).sum()
    }
}

impl<B: Backend> SaraLayer<B> {
    fn low_rank(&self) -> LowRank<B> {
        LowRank {
            down: self.down.val(),
            scale: Some(self.scale.val()),
            up: self.up.val(),
            scaling: self.scaling,
        }
    }
}

impl<B: LinearOps> Adapter<B> for Sara<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        match self.layers.get(site) {
            Some(layer) => layer.low_rank().project(base, x, self.dropout, pass),
            None => linear(base, x),
        }
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.layers.get(site).map(|layer| Delta { weight: layer.low_rank().change(), bias: None }))
    }

    fn report(&self) -> Vec<Figure> {
        let rank = |(site, layer): (Site, &SaraLayer<B>)| Figure {
            site,
            name: "rank",
            value: layer.scale.val().dims()[0] as f64,
        };
        self.layers.iter().map(rank).collect()
    }
}

impl<B: TrainOps> Trainable<B> for Sara<B> {}
