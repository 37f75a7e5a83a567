//! LoRTA: one low-rank tensor for the changes of all layers, heads and roles at once.
//!
//! # Idea
//! The changes of all weights together are a tensor with an axis for the width, the width of a head, the heads, the
//! layers and the roles (query, key, value, output). A decomposition of rank `r` of that tensor needs a vector of each
//! axis for each component: a hundredth of LoRA's parameters.
//!
//! # Equations
//! With `M = [diag(heads_1) head_width | .. | diag(heads_H) head_width]`, `[rank, d]`, and
//! `c = layers[layer] * roles[role]`, `[rank]`:
//! `head_axis = output`: `y += scaling * ((dropout(x) width) * c) M`;
//! `head_axis = input`: `y += scaling * ((dropout(x) Mᵀ) * c) widthᵀ`.
//! `width [d, rank]`, `head_width [rank, head_dim]`, `heads [n_heads, rank]`, `layers [n_layers, rank]`,
//! `roles [adapted roles, rank]` are the paper's `A`, `B`, `C_H`, `C_L`, `C_M`; `scaling = alpha / rank`.
//!
//! # Start
//! `width` uniform in `±1 / sqrt(rank)`, `head_width = 0`: the adapted model equals the backbone. `heads`, `layers`, `roles`
//! uniform in `±sqrt(6 / ((1 + 5 init_scale²) rank))`.
//!
//! # Differences from the paper
//! The authors' two programs split the heads along the output and along the input; both are here. They have a row of
//! `roles` for each of four roles, used or not; here for the adapted ones. Models whose keys are narrower than their
//! queries are refused with what can be targeted.
//!
//! # Source
//! Hounie et al., 2024, arXiv:2410.04060, and the authors' code.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Trainable};
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::low_rank::{LowRank, Scaling, linear};
use crate::methods::{Method, at_least_one, below_one, finite, not_negative};
use crate::pass::Pass;
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Role, Site, Target};

/// Configuration of LoRTA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LortaConfig {
    /// Rank of the whole tensor. Default 32.
    pub rank: usize,
    /// Numerator of the scaling. Default 16, as LoRA's.
    pub alpha: f64,
    /// Probability that dropout zeroes an input of the branch in training. Default 0.
    pub dropout: f64,
    /// What `alpha` is divided by. Default the rank.
    pub scaling: Scaling,
    /// Narrows the first values of `heads`, `layers` and `roles`. Default 0 (the authors' scripts).
    pub init_scale: f64,
    /// The side of a weight that is split into heads. Default `output`.
    pub head_axis: HeadAxis,
}

/// The side of a weight that is split into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadAxis {
    /// The output, as the heads of query, key and value are.
    #[default]
    Output,
    /// The input.
    Input,
}

impl Default for LortaConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: 16.0,
            dropout: 0.0,
            scaling: Scaling::Rank,
            init_scale: 0.0,
            head_axis: HeadAxis::Output,
        }
    }
}

/// The factors of the whole model.
#[derive(Module, Debug)]
pub struct Lorta<B: Backend> {
    /// `[d, rank]`.
    width: Param<Tensor<B, 2>>,
    /// `[rank, head_dim]`.
    head_width: Param<Tensor<B, 2>>,
    /// `[n_heads, rank]`.
    heads: Param<Tensor<B, 2>>,
    /// `[n_layers, rank]`.
    layers: Param<Tensor<B, 2>>,
    /// `[adapted roles, rank]`.
    roles: Param<Tensor<B, 2>>,
    #[module(skip)]
    sites: Vec<Site>,
    /// The adapted roles, in the order of the rows of `roles`.
    #[module(skip)]
    adapted: Vec<Role>,
    #[module(skip)]
    config: LortaConfig,
}

/// The adapted roles in their order: query, key, value, output.
fn adapted_roles(plan: &RankPlan) -> Vec<Role> {
    let mut roles: Vec<Role> = plan.sites.iter().map(|planned| planned.target.site.role).collect();
    roles.sort();
    roles.dedup();
    roles
}

impl LortaConfig {
    /// The width that is not split, of all targets.
    fn width(&self, shape: ModelShape, target: &Target) -> Result<usize> {
        let heads = shape.n_heads * shape.head_dim;
        let (whole, split) = match self.head_axis {
            HeadAxis::Output => (target.d_in, target.d_out),
            HeadAxis::Input => (target.d_out, target.d_in),
        };
        let has_heads = matches!(target.site.role, Role::Query | Role::Key | Role::Value | Role::Output);
        if has_heads && split == heads {
            return Ok(whole);
        }
        let side = if self.head_axis == HeadAxis::Output { "outputs" } else { "inputs" };
        Err(misfit(target, format!("{heads} {side}, {} heads of {}", shape.n_heads, shape.head_dim)))
    }
}

fn misfit(target: &Target, expected: String) -> Error {
    let Target { name, d_in, d_out, .. } = target;
    Error::SharedShape {
        method: "lorta",
        name: name.clone(),
        d_in: *d_in,
        d_out: *d_out,
        expected,
        remedy: "layers of the attention that have one shape, such as query and value, or query alone \
                 where keys and values are narrower"
            .to_owned(),
    }
}

impl Method for LortaConfig {
    type Adapter<B: LayerOps> = Lorta<B>;

    const LEARNING_RATE: f64 = 1e-2;

    fn plan<B: SvdOps>(
        &self,
        shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        let mut width = None;
        for target in targets {
            let own = self.width(shape, target)?;
            if *width.get_or_insert(own) != own {
                return Err(misfit(target, "one width for all layers".to_owned()));
            }
        }
        RankPlan::new("lorta.rank", targets, |target| Ok(Planned::new(target, self.rank)))
    }

    fn init<B: LayerOps>(
        &self,
        shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Lorta<B>> {
        at_least_one("lorta.rank", self.rank)?;
        finite("lorta.alpha", self.alpha)?;
        below_one("lorta.dropout", self.dropout)?;
        not_negative("lorta.init_scale", self.init_scale)?;
        let (rank, adapted) = (self.rank, adapted_roles(plan));
        let d = plan.sites.first().map_or(Ok(0), |planned| self.width(shape, &planned.target))?;
        let bound = (6.0 / ((1.0 + 5.0 * self.init_scale.powi(2)) * rank as f64)).sqrt();
        let axis = |name: &str, n: usize| seed.uniform(name, [n, rank], bound, device);
        Ok(Lorta {
            width: seed.uniform("width", [d, rank], 1.0 / (rank as f64).sqrt(), device),
            head_width: Param::from_tensor(Tensor::zeros([rank, shape.head_dim], device)),
            heads: axis("heads", shape.n_heads),
            layers: axis("layers", shape.n_layers),
            roles: axis("roles", adapted.len()),
            sites: plan.sites.iter().map(|planned| planned.target.site).collect(),
            adapted,
            config: self.clone(),
        })
    }

    fn count_at(&self, _planned: &Planned) -> usize {
        0
    }

    fn count_shared(&self, shape: ModelShape, plan: &RankPlan) -> usize {
        let d = plan.sites.first().and_then(|planned| self.width(shape, &planned.target).ok());
        let axes = shape.head_dim + shape.n_heads + shape.n_layers + adapted_roles(plan).len();
        d.map_or(0, |d| self.rank * (d + axes))
    }
}

impl<B: LayerOps> Lorta<B> {
    /// The change at one site, as LoRA's factors.
    fn low_rank(&self, site: Site) -> Option<LowRank<B>> {
        let role = self.adapted.iter().position(|&role| role == site.role)?;
        if !self.sites.contains(&site) {
            return None;
        }
        let (width, head_width, heads) = (self.width.val(), self.head_width.val(), self.heads.val());
        let ([n_heads, rank], [_, head_dim]) = (heads.dims(), head_width.dims());
        // All heads beside each other, [rank, n_heads * head_dim].
        let wide = heads.transpose().reshape([rank, n_heads, 1]) * head_width.reshape([rank, 1, head_dim]);
        let wide = wide.reshape([rank, n_heads * head_dim]);
        let row = |factor: Tensor<B, 2>, at: usize| factor.slice([at..at + 1, 0..rank]).reshape([rank]);
        let scale = row(self.layers.val(), site.layer) * row(self.roles.val(), role);
        let (down, up) = match self.config.head_axis {
            HeadAxis::Output => (width, wide),
            HeadAxis::Input => (wide.transpose(), width.transpose()),
        };
        Some(LowRank {
            down,
            scale: Some(scale),
            up,
            scaling: self.config.scaling.of(self.config.alpha, rank as f64),
        })
    }
}

impl<B: LayerOps> Adapter<B> for Lorta<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        let Some(low_rank) = self.low_rank(site) else { return linear(base, x) };
        let dropped = pass.dropout(x.clone(), self.config.dropout, site);
        low_rank.project(base, x, dropped)
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.low_rank(site).map(|low_rank| Delta { weight: low_rank.change(), bias: None }))
    }

    fn report(&self) -> Vec<Figure> {
        self.sites.iter().map(|&site| Figure::at(site, "rank", self.config.rank as f64)).collect()
    }
}

impl<B: TrainOps> Trainable<B> for Lorta<B> {}
