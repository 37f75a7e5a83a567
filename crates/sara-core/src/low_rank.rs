//! The low-rank branch beside a frozen linear layer: its options, its trained factors at a site, and its product in the
//! factored form, which trains without a weight-sized gradient.
//!
//! A method of this kind says how its factors start and what it does with them; all else is here, once.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use sara_ops::{self as ops, LayerOps};
use serde::{Deserialize, Serialize};

use crate::adapter::Figure;
use crate::delta::{Change, Delta};
use crate::error::{Error, Result};
use crate::methods::{below_one, finite};
use crate::nearest::nearest;
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan};
use crate::seed::Seed;
use crate::site::{Site, SiteMap, Target, short_names};

mod beside;

pub use beside::Beside;

/// The options of every low-rank branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BranchConfig {
    /// Numerator of the scaling.
    pub alpha: f64,
    /// Probability that dropout zeroes an input of the branch in training. Default 0.
    pub dropout: f64,
    /// What `alpha` is divided by. Default the rank.
    pub scaling: Scaling,
    /// Ranks of single layers, in place of the method's, by names as in the targets, or the end of a path from a dot on;
    /// of several names the longest decides.
    pub ranks: BTreeMap<String, usize>,
    /// The same for `alpha`.
    pub alphas: BTreeMap<String, f64>,
}

/// What `alpha` is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// `alpha / rank`, as in the paper of LoRA.
    #[default]
    Rank,
    /// `alpha / sqrt(rank)`: rank-stabilised LoRA (Kalajdzievski, 2023, arXiv:2312.03732).
    RootRank,
}

impl Scaling {
    /// The constant factor.
    pub(crate) fn of(self, alpha: f64, rank: f64) -> f64 {
        match self {
            Self::Rank => alpha / rank,
            Self::RootRank => alpha / rank.sqrt(),
        }
    }
}

impl Default for BranchConfig {
    /// Alpha 16, as in the scripts of the LoRA paper for GLUE.
    fn default() -> Self {
        Self {
            alpha: 16.0,
            dropout: 0.0,
            scaling: Scaling::Rank,
            ranks: BTreeMap::new(),
            alphas: BTreeMap::new(),
        }
    }
}

impl BranchConfig {
    /// Whether the options can be used; `method` is the name in the error.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self, method: &str) -> Result<()> {
        finite(&format!("{method}.alpha"), self.alpha)?;
        for (name, &alpha) in &self.alphas {
            finite(&format!("{method}.alphas.{name}"), alpha)?;
        }
        below_one(&format!("{method}.dropout"), self.dropout)
    }

    /// The plan of such a method: the rank and the alpha of each target that the options name, and elsewhere what
    /// `rank` says; `field` is where that comes from, for the error.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] where a name matches no target, [`Error::Rank`] where a layer is too narrow for its rank,
    /// and those of `rank`.
    pub fn plan(
        &self,
        field: &str,
        targets: &[Target],
        mut rank: impl FnMut(&Target) -> Result<usize>,
    ) -> Result<RankPlan> {
        let method = field.split('.').next().unwrap_or(field);
        check_names(&format!("{method}.ranks"), self.ranks.keys(), targets)?;
        check_names(&format!("{method}.alphas"), self.alphas.keys(), targets)?;
        RankPlan::new(field, targets, |target| {
            let rank = match named(&self.ranks, target) {
                Some(&rank) => rank,
                None => rank(target)?,
            };
            Ok(Planned { alpha: named(&self.alphas, target).copied(), ..Planned::new(target, rank) })
        })
    }

    /// The constant factor of the branch at a site; `rank` is what the method counts as its rank.
    pub fn scaling(&self, planned: &Planned, rank: f64) -> f64 {
        self.scaling.of(planned.alpha.unwrap_or(self.alpha), rank)
    }
}

/// What is said of a target by the longest name that matches it.
fn named<'a, T>(by_name: &'a BTreeMap<String, T>, target: &Target) -> Option<&'a T> {
    let matching = by_name.iter().filter(|(name, _)| target.is_named(name));
    matching.max_by_key(|(name, _)| name.len()).map(|(_, said)| said)
}

fn check_names<'a>(field: &str, names: impl Iterator<Item = &'a String>, targets: &[Target]) -> Result<()> {
    for name in names {
        if !targets.iter().any(|target| target.is_named(name)) {
            let known = short_names(targets).into_iter().chain(targets.iter().map(|t| t.name.clone()));
            let (field, nearest) = (field.to_owned(), nearest(name, known).unwrap_or_default());
            return Err(Error::UnknownLayer { field, name: name.clone(), nearest });
        }
    }
    Ok(())
}

/// The trained factors of the branch at one site.
#[derive(Module, Debug)]
pub struct Branch<B: Backend> {
    /// `[d_in, rank]`.
    pub(crate) down: Param<Tensor<B, 2>>,
    /// `[rank]`; all ones and not trained if `None`.
    pub(crate) scale: Option<Param<Tensor<B, 1>>>,
    /// `[rank, d_out]`.
    pub(crate) up: Param<Tensor<B, 2>>,
    pub(crate) scaling: f64,
    pub(crate) dropout: f64,
}

/// First values of `down` as in LoRA: uniform in `±1 / sqrt(d_in)`.
pub(crate) fn uniform_down<B: Backend>(
    seed: Seed,
    planned: &Planned,
    device: &B::Device,
) -> Param<Tensor<B, 2>> {
    let (site, d_in) = (planned.target.site, planned.target.d_in);
    seed.uniform(&format!("{site}.down"), [d_in, planned.rank], 1.0 / (d_in as f64).sqrt(), device)
}

/// First values of `up` where the branch must start at nothing.
pub(crate) fn zero_up<B: Backend>(planned: &Planned, device: &B::Device) -> Param<Tensor<B, 2>> {
    Param::from_tensor(Tensor::zeros([planned.rank, planned.target.d_out], device))
}

/// What an adapter has at one site, if its change of the weight is of low rank.
pub trait SiteBranch<B: LayerOps>: Module<B> {
    /// See [`Adapter::project`](crate::Adapter::project).
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3>;

    /// The change of the weight.
    fn change(&self) -> Change<B>;

    /// Its rank.
    fn rank(&self) -> usize;
}

impl<B: LayerOps> SiteBranch<B> for Branch<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        let dropped = pass.dropout(x.clone(), self.dropout, site);
        self.low_rank().project(base, x, dropped)
    }

    fn change(&self) -> Change<B> {
        self.low_rank().without_zeros().change()
    }

    fn rank(&self) -> usize {
        self.up.dims()[0]
    }
}

impl<B: Backend> Branch<B> {
    /// The factors as they are now.
    pub(crate) fn low_rank(&self) -> LowRank<B> {
        LowRank {
            down: self.down.val(),
            scale: self.scale.as_ref().map(Param::val),
            up: self.up.val(),
            scaling: self.scaling,
        }
    }
}

/// What [`Adapter`](crate::Adapter) asks, of adapters with such a branch at every site.
impl<B: LayerOps, M: SiteBranch<B>> SiteMap<B, M> {
    /// See [`Adapter::project`](crate::Adapter::project).
    pub fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        match self.get(site) {
            Some(branch) => branch.project(site, base, x, pass),
            None => linear(base, x),
        }
    }

    /// See [`Adapter::delta`](crate::Adapter::delta).
    pub fn delta(&self, site: Site) -> Option<Delta<B>> {
        self.get(site).map(|branch| Delta { weight: branch.change(), bias: None })
    }

    /// The rank at every site.
    pub fn ranks(&self) -> Vec<Figure> {
        self.iter().map(|(site, branch)| Figure::at(site, "rank", branch.rank() as f64)).collect()
    }
}

/// The factors of one branch: `y += ((x down) * scale * scaling) up`.
#[derive(Debug)]
pub struct LowRank<B: Backend> {
    /// `[d_in, rank]`.
    pub down: Tensor<B, 2>,
    /// `[rank]`; all ones if `None`.
    pub scale: Option<Tensor<B, 1>>,
    /// `[rank, d_out]`.
    pub up: Tensor<B, 2>,
    /// Constant factor of the branch.
    pub scaling: f64,
}

impl<B: LayerOps> LowRank<B> {
    /// Output of `base` with this branch beside it; the branch sees `dropped`, which is `x` after dropout.
    ///
    /// # Shapes
    /// - `x`, `dropped`: `[batch, seq, d_in]`
    /// - returns `[batch, seq, d_out]`
    pub fn project(self, base: &Linear<B>, x: Tensor<B, 3>, dropped: Tensor<B, 3>) -> Tensor<B, 3> {
        let out = linear(base, x);
        let branch = self.branch(dropped).cast(out.dtype());
        ops::add(out, branch)
    }

    /// The branch alone, in the factors' dtype: mixed dtypes are nonsense on some backends and a panic on others.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`
    /// - returns `[batch, seq, d_out]`
    fn branch(self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        // The scaling goes onto the narrow middle, `[batch, seq, rank]`, where it costs least.
        let middle = ops::linear(x.cast(self.down.dtype()), self.down, None);
        let middle = match self.scale {
            Some(scale) => middle * (scale * self.scaling).unsqueeze(),
            None => middle * self.scaling,
        };
        ops::linear(middle, self.up, None)
    }
}

impl<B: Backend> LowRank<B> {
    /// The same without the components whose scale is zero.
    pub(crate) fn without_zeros(self) -> Self {
        let Some(scale) = self.scale.clone() else { return self };
        let values: Vec<f32> = scale.to_data().convert::<f32>().iter().collect();
        let alive: Vec<i32> =
            (0..).zip(&values).filter(|&(_, &value)| value != 0.0).map(|(at, _)| at).collect();
        let (device, rank) = (scale.device(), alive.len());
        if rank == values.len() {
            return Self { scale: Some(scale), ..self };
        }
        if rank == 0 {
            let ([d_in, _], [_, d_out]) = (self.down.dims(), self.up.dims());
            let (down, up) = (Tensor::zeros([d_in, 0], &device), Tensor::zeros([0, d_out], &device));
            return Self { down, scale: None, up, scaling: self.scaling };
        }
        let alive = Tensor::<B, 1, Int>::from_data(TensorData::new(alive, [rank]), &device);
        Self {
            down: self.down.select(1, alive.clone()),
            scale: Some(scale.select(0, alive.clone())),
            up: self.up.select(0, alive),
            scaling: self.scaling,
        }
    }

    /// The change of the weight, every scale folded into `up`.
    pub fn change(self) -> Change<B> {
        let up = match self.scale {
            Some(scale) => self.up * scale.unsqueeze_dim(1),
            None => self.up,
        };
        // A rank of zero is a layer that pruning has emptied: backends refuse products over nothing.
        let up = if up.dims()[0] == 0 { up } else { up * self.scaling };
        Change::LowRank { down: self.down, up }
    }
}

/// Output of a linear layer without an adapter.
///
/// # Shapes
/// - `x`: `[batch, seq, d_in]`
/// - returns `[batch, seq, d_out]`
pub fn linear<B: LayerOps>(base: &Linear<B>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    ops::linear(x, base.weight.val(), base.bias.as_ref().map(Param::val))
}
