//! MELoRA: several small LoRA beside each other, each for its own slice of the input and of the output.
//!
//! # Idea
//! A change of the weight that is block-diagonal has a rank of `minis` times that of its blocks, at the parameters of one
//! of them as wide as the layer.
//!
//! # Equations
//! With `x_i` the `i`-th of `minis` equal slices of the input and `y_i` that of the output:
//! `y_i += scaling * (dropout(x_i) down_i) up_i`, `down_i [d_in / minis, rank]`, `up_i [rank, d_out / minis]`,
//! `scaling = alpha / rank`. The paper's `A_i` is `down_i` transposed, its `B_i` is `up_i` transposed.
//!
//! # Start
//! `down_i` uniform in `±1 / sqrt(d_in / minis)`, `up_i = 0`: the adapted model equals the backbone.
//!
//! # Differences from the paper
//! Of an input that `minis` does not divide the authors' code drops the last features; here that is an error. All minis
//! have one rank.
//!
//! # Source
//! Ren et al., 2024, arXiv:2402.17263, and the authors' code.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{self as ops, LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Trainable};
use crate::delta::{Change, Delta};
use crate::error::{Error, Result};
use crate::low_rank::{BranchConfig, SiteBranch, linear};
use crate::methods::{Method, at_least_one};
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of MELoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeloraConfig {
    /// Number of slices; it must divide the widths of every adapted layer. Default 4.
    pub minis: usize,
    /// Rank of each mini. Default 2, so that the whole has rank 8, as LoRA's.
    pub rank: usize,
    /// The options of every branch; alpha 16 is that of the authors' scripts.
    #[serde(flatten)]
    pub branch: BranchConfig,
}

impl Default for MeloraConfig {
    fn default() -> Self {
        Self { minis: 4, rank: 2, branch: BranchConfig::default() }
    }
}

/// MELoRA at every adapted site.
#[derive(Module, Debug)]
pub struct Melora<B: Backend> {
    layers: SiteMap<B, Minis<B>>,
}

/// The minis of one site.
#[derive(Module, Debug)]
struct Minis<B: Backend> {
    /// `[minis, d_in / minis, rank]`.
    down: Param<Tensor<B, 3>>,
    /// `[minis, rank, d_out / minis]`.
    up: Param<Tensor<B, 3>>,
    scaling: f64,
    dropout: f64,
}

impl Method for MeloraConfig {
    type Adapter<B: LayerOps> = Melora<B>;

    const LEARNING_RATE: f64 = 4e-3;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        at_least_one("melora.minis", self.minis)?;
        let indivisible = |target: &&Target| {
            !target.d_in.is_multiple_of(self.minis) || !target.d_out.is_multiple_of(self.minis)
        };
        if let Some(Target { name, d_in, d_out, .. }) = targets.iter().find(indivisible) {
            return Err(Error::Config {
                field: "melora.minis".to_owned(),
                found: self.minis.to_string(),
                expected: format!("a divisor of both widths of {name} ({d_in} -> {d_out})"),
            });
        }
        let plan = self.branch.plan("melora.rank", targets, |_| Ok(self.rank))?;
        for planned in &plan.sites {
            let Target { d_in, d_out, .. } = planned.target;
            planned.at_most(d_in.min(d_out) / self.minis, "melora.rank")?;
        }
        Ok(plan)
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Melora<B>> {
        self.branch.check("melora")?;
        at_least_one("melora.minis", self.minis)?;
        let minis = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, rank) = (&planned.target, planned.rank);
            let (slice_in, slice_out) = (d_in / self.minis, d_out / self.minis);
            let bound = 1.0 / (slice_in as f64).sqrt();
            Minis {
                down: seed.uniform(&format!("{site}.down"), [self.minis, slice_in, rank], bound, device),
                up: Param::from_tensor(Tensor::zeros([self.minis, rank, slice_out], device)),
                scaling: self.branch.scaling(planned, rank as f64),
                dropout: self.branch.dropout,
            }
        };
        Ok(Melora { layers: plan.map(minis) })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        // `minis` blocks, each a `minis`-th as wide.
        planned.pair_count()
    }
}

impl<B: LayerOps> SiteBranch<B> for Minis<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        let dropped = pass.dropout(x.clone(), self.dropout, site);
        let out = linear(base, x);
        let (down, up) = (self.down.val(), self.up.val());
        // The zeros between the blocks are neither stored nor multiplied.
        let middle = ops::block_linear(dropped.cast(down.dtype()), down) * self.scaling;
        let branch = ops::block_linear(middle, up);
        let branch = branch.cast(out.dtype());
        ops::add(out, branch)
    }

    fn change(&self) -> Change<B> {
        let up = self.up.val() * self.scaling;
        Change::LowRank { down: block_diagonal(&self.down.val()), up: block_diagonal(&up) }
    }

    fn rank(&self) -> usize {
        let [minis, _, rank] = self.down.dims();
        minis * rank
    }
}

/// The matrices along the first dimension as the blocks of one, zeros between them.
///
/// # Shapes
/// - `blocks`: `[n, rows, columns]`
/// - returns `[n * rows, n * columns]`
fn block_diagonal<B: Backend>(blocks: &Tensor<B, 3>) -> Tensor<B, 2> {
    let [n, rows, columns] = blocks.dims();
    let whole = Tensor::zeros([n * rows, n * columns], (&blocks.device(), blocks.dtype()));
    (0..n).fold(whole, |whole, i| {
        let block = blocks.clone().slice([i..i + 1, 0..rows, 0..columns]).reshape([rows, columns]);
        whole.slice_assign([i * rows..(i + 1) * rows, i * columns..(i + 1) * columns], block)
    })
}

impl<B: LayerOps> Adapter<B> for Melora<B> {
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

impl<B: TrainOps> Trainable<B> for Melora<B> {}
