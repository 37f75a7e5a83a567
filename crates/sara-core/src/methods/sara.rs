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
use sara_ops::{LayerOps, TrainOps};
use sara_svd::{Convention, SvdOps};
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Trainable};
use crate::delta::Delta;
use crate::error::Result;
use crate::low_rank::{Branch, BranchConfig, uniform_down, zero_up};
use crate::methods::{Method, fraction};
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource, spectral_rank};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of SARA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SaraConfig {
    /// Share of the sum of singular values that the rank must reach, 0 to 1. Default 0.05 (about LoRA's size at
    /// r = 8 on encoders of width 384).
    pub share: f64,
    /// Which of the two readings of the rule. Default `reach`.
    pub convention: Convention,
    /// The options of every branch; alpha 16 is LoRA's, and was chosen by experiment.
    #[serde(flatten)]
    pub branch: BranchConfig,
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
            branch: BranchConfig::default(),
            start: SaraStart::ZeroUp,
        }
    }
}

/// SARA at every adapted site.
#[derive(Module, Debug)]
pub struct Sara<B: Backend> {
    layers: SiteMap<B, Branch<B>>,
}

impl Method for SaraConfig {
    type Adapter<B: LayerOps> = Sara<B>;

    const LEARNING_RATE: f64 = 1e-3;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        fraction("sara.share", self.share)?;
        self.branch
            .plan("sara.share", targets, |target| spectral_rank(target, self.share, self.convention, weights))
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Sara<B>> {
        self.branch.check("sara")?;
        let branch = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, rank) = (&planned.target, planned.rank);
            let (unit_in, unit_out) = (1.0 / (*d_in as f64).sqrt(), 1.0 / (*d_out as f64).sqrt());
            let (down, scale, up) = match self.start {
                SaraStart::ZeroUp => {
                    let down = uniform_down(seed, planned, device);
                    (down, Tensor::ones([rank], device), zero_up(planned, device))
                }
                SaraStart::ZeroScale => (
                    seed.normal(&format!("{site}.down"), [*d_in, rank], unit_in, device),
                    Tensor::zeros([rank], device),
                    seed.normal(&format!("{site}.up"), [rank, *d_out], unit_out, device),
                ),
            };
            let scaling = self.branch.scaling(planned, rank as f64);
            Branch { down, scale: Some(Param::from_tensor(scale)), up, scaling, dropout: self.branch.dropout }
        };
        Ok(Sara { layers: plan.map(branch) })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        planned.pair_count() + planned.rank
    }
}

impl<B: LayerOps> Adapter<B> for Sara<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        self.layers.project(site, base, x, pass)
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.layers.delta(site))
    }

    fn report(&self) -> Vec<Figure> {
        self.layers.ranks()
    }
}

impl<B: TrainOps> Trainable<B> for Sara<B> {}
