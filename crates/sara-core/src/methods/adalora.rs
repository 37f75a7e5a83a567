//! AdaLoRA: a rank budget that moves during training to the sites that use it.
//!
//! # Idea
//! Every site starts with the same rank, as a product shaped like a singular value decomposition. During training the
//! components that matter least, over the whole model, are switched off until a budget of ranks is left.
//!
//! # Equations
//! `y = x W + b + scaling * ((dropout(x) down) * scale) up`, `scaling = alpha / (initial_rank + 1e-5)` throughout.
//! The paper's `Q`, `Lambda`, `P` are `down`, `scale`, `up`.
//! Penalty: `orthogonality` times the mean over all factors of `||factor' factor - I||` (Frobenius).
//! Importance of an element `w` with gradient `g`, after the optimizer step: `I = |w g|`, smoothed
//! `S = beta1 S + (1 - beta1) I`, `U = beta2 U + (1 - beta2) |I - S|`, score `S U`. A component's score is that of its
//! `scale` plus the means over its column of `down` and its row of `up`.
//! Budget of ranks after step `t`: all until `initial_steps`, then `final + (start - final) c^3` with `c` falling from
//! 1 to 0, applied every `interval` steps, then `final` for the last `final_steps` steps.
//!
//! # Start
//! `down`, `up` normal with deviation 0.02, `scale = 0`: the adapted model equals the backbone.
//!
//! # Differences from the paper
//! Where the authors' code differs from the text we follow the code: the norms of the penalty are not squared, they are
//! averaged over the factors, and the cubic schedule counts from `initial_steps`. Where scores tie, exactly the budget
//! survives (sites in order, then components in order); the code may switch off more. The budget is applied once
//! more at the end of the allocation, so the saved model is the trained one.
//!
//! # Source
//! Zhang et al., 2023, arXiv:2303.10512.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use sara_ops::{LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Progress, Trainable};
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::low_rank::{Beside, Branch, BranchConfig};
use crate::methods::{Method, below_one};
use crate::parameters::{edit, host, state};
use crate::pass::{Pass, Seen};
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of AdaLoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdaloraConfig {
    /// Rank of every site at the start. Default 12 (PEFT).
    pub initial_rank: usize,
    /// Mean rank at the end. Default 8 (PEFT).
    pub target_rank: usize,
    /// The options of every branch; alpha 16 is that of the authors' MNLI script.
    #[serde(flatten)]
    pub branch: BranchConfig,
    /// Optimizer steps before the budget starts to fall. Default a tenth of all (the scripts: 9 to 15 %).
    pub initial_steps: Option<usize>,
    /// Optimizer steps at the end with the final budget, at least 1. Default half of all (the scripts: 46 to 58 %).
    pub final_steps: Option<usize>,
    /// Optimizer steps between two allocations. Default a hundredth of all (the scripts: 0.1 to 1 %).
    pub interval: Option<usize>,
    /// Smoothing of the importance. Default 0.85 (the paper).
    pub beta1: f64,
    /// Smoothing of its uncertainty. Default 0.85 (the paper).
    pub beta2: f64,
    /// Weight of the penalty. Default 0.1 (the authors' scripts).
    pub orthogonality: f64,
}

impl Default for AdaloraConfig {
    fn default() -> Self {
        Self {
            initial_rank: 12,
            target_rank: 8,
            branch: BranchConfig::default(),
            initial_steps: None,
            final_steps: None,
            interval: None,
            beta1: 0.85,
            beta2: 0.85,
            orthogonality: 0.1,
        }
    }
}

impl AdaloraConfig {
    /// The phases of a run of `total` optimizer steps.
    fn phases(&self, total: usize) -> Phases {
        Phases {
            initial: self.initial_steps.unwrap_or(total / 10),
            last: total.saturating_sub(self.final_steps.unwrap_or((total / 2).max(1))),
            interval: self.interval.unwrap_or((total / 100).max(1)).max(1),
        }
    }
}

/// When the budget falls.
#[derive(Debug, Clone, Copy)]
struct Phases {
    /// The last step with the whole budget.
    initial: usize,
    /// The step at which the final budget is reached and frozen.
    last: usize,
    interval: usize,
}

impl Phases {
    /// Ranks that may stay after `step`.
    fn budget(self, step: usize, start: usize, end: usize) -> usize {
        if step <= self.initial {
            return start;
        }
        if step >= self.last {
            return end;
        }
        let left = 1.0 - (step - self.initial) as f64 / (self.last - self.initial) as f64;
        // `powf`, as the reference computes it: a product of three factors can truncate to another integer.
        (end as f64 + (start as f64 - end as f64) * left.powf(3.0)) as usize
    }
}

/// AdaLoRA at every adapted site.
#[derive(Module, Debug)]
pub struct Adalora<B: Backend> {
    layers: SiteMap<B, AdaloraLayer<B>>,
    #[module(skip)]
    config: AdaloraConfig,
}

/// A branch, and what is known of its components.
type AdaloraLayer<B> = Beside<Branch<B>, Components<B>>;

/// Of each factor at one site the smoothed importance and its uncertainty, and which components are kept.
#[derive(Module, Debug)]
struct Components<B: Backend> {
    down_importance: Importance<B, 2>,
    scale_importance: Importance<B, 1>,
    up_importance: Importance<B, 2>,
    /// 1 where the last allocation kept the component, else 0; `[rank]`.
    kept: Param<Tensor<B, 1>>,
}

/// Smoothed sensitivity of a parameter and its smoothed uncertainty, both in the parameter's shape.
#[derive(Module, Debug)]
struct Importance<B: Backend, const D: usize> {
    sensitivity: Param<Tensor<B, D>>,
    uncertainty: Param<Tensor<B, D>>,
}

impl<B: Backend, const D: usize> Importance<B, D> {
    fn zeros(shape: [usize; D], device: &B::Device) -> Self {
        Self {
            sensitivity: state(Tensor::zeros(shape, device)),
            uncertainty: state(Tensor::zeros(shape, device)),
        }
    }

    /// Score of every element, off the graph.
    fn score(&self) -> Tensor<B, D> {
        self.sensitivity.val() * self.uncertainty.val()
    }
}

impl<B: AutodiffBackend, const D: usize> Importance<B, D> {
    /// Takes in the sensitivity of one step: the parameter after it, the gradient before it.
    fn update(self, value: &Param<Tensor<B, D>>, grads: &GradientsParams, config: &AdaloraConfig) -> Self {
        let Some(grad) = grads.get::<B::InnerBackend, D>(value.id) else { return self };
        let now = (value.val().inner() * grad).abs();
        let smooth = |old: Tensor<B::InnerBackend, D>, new, beta| old * beta + new * (1.0 - beta);
        let sensitivity = smooth(self.sensitivity.val().inner(), now.clone(), config.beta1);
        let spread = (now - sensitivity.clone()).abs();
        let uncertainty = smooth(self.uncertainty.val().inner(), spread, config.beta2);
        Self {
            sensitivity: edit(self.sensitivity, |_| Tensor::from_inner(sensitivity)),
            uncertainty: edit(self.uncertainty, |_| Tensor::from_inner(uncertainty)),
        }
    }
}

impl Method for AdaloraConfig {
    type Adapter<B: LayerOps> = Adalora<B>;

    const LEARNING_RATE: f64 = 4e-3;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        if self.target_rank == 0 || self.target_rank > self.initial_rank {
            return Err(Error::Config {
                field: "adalora.target_rank".into(),
                found: self.target_rank.to_string(),
                expected: format!("in 1..={} (initial_rank)", self.initial_rank),
            });
        }
        self.branch.plan("adalora.initial_rank", targets, |_| Ok(self.initial_rank))
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Adalora<B>> {
        /// Deviation of the factors' first values, from the authors' code.
        const DEVIATION: f64 = 0.02;
        /// Added to the rank in the authors' scaling.
        const GUARD: f64 = 1e-5;
        self.branch.check("adalora")?;
        below_one("adalora.beta1", self.beta1)?;
        below_one("adalora.beta2", self.beta2)?;
        let layer = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, rank) = (&planned.target, planned.rank);
            let (down, up) = ([*d_in, rank], [rank, *d_out]);
            Beside {
                branch: Branch {
                    down: seed.normal(&format!("{site}.down"), down, DEVIATION, device),
                    scale: Some(Param::from_tensor(Tensor::zeros([rank], device))),
                    up: seed.normal(&format!("{site}.up"), up, DEVIATION, device),
                    scaling: self.branch.scaling(planned, rank as f64 + GUARD),
                    dropout: self.branch.dropout,
                },
                state: Components {
                    down_importance: Importance::zeros(down, device),
                    scale_importance: Importance::zeros([rank], device),
                    up_importance: Importance::zeros(up, device),
                    kept: state(Tensor::ones([rank], device)),
                },
            }
        };
        Ok(Adalora { layers: plan.map(layer), config: self.clone() })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        planned.pair_count() + planned.rank
    }

    fn check_steps(&self, total: usize) -> Result<()> {
        let Phases { initial, last, .. } = self.phases(total);
        if initial < last && last < total {
            return Ok(());
        }
        Err(Error::Config {
            field: "adalora.initial_steps, adalora.final_steps".into(),
            found: format!("{initial}, {}", total - last.min(total)),
            expected: format!(
                "possible in {total} steps: final_steps must be at least 1, their sum below {total}"
            ),
        })
    }
}

impl<B: LayerOps> Adapter<B> for Adalora<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        self.layers.project(site, base, x, pass)
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.layers.delta(site))
    }

    fn penalty(&self, _progress: Progress) -> Option<Tensor<B, 1>> {
        let factors = 2 * self.layers.len();
        let sum = self
            .layers
            .iter()
            .flat_map(|(_, layer)| {
                let (down, up) = (layer.branch.down.val(), layer.branch.up.val());
                [down.clone().transpose().matmul(down), up.clone().matmul(up.transpose())]
            })
            .map(distance_from_identity)
            .reduce(|sum, term| sum + term)?;
        Some(sum * (self.config.orthogonality / factors as f64))
    }

    fn report(&self) -> Vec<Figure> {
        let rank = |(site, layer): (Site, &AdaloraLayer<B>)| {
            let kept = host(layer.state.kept.val());
            Figure::at(site, "rank", kept.iter().map(|&kept| f64::from(kept)).sum())
        };
        self.layers.iter().map(rank).collect()
    }
}

impl<B: TrainOps> Trainable<B> for Adalora<B> {
    fn after_step(self, grads: &GradientsParams, _seen: &Seen<B::InnerBackend>, progress: Progress) -> Self {
        let Self { layers, config } = self;
        let phases = config.phases(progress.total);
        let step = progress.step;
        let layers = if step < phases.last {
            layers.map_sites(|_, layer| observed(layer, grads, &config))
        } else {
            layers
        };
        let start = layers.iter().map(|(_, layer)| layer.state.kept.dims()[0]).sum();
        // Where single layers start with less, the end may be the start.
        let budget = phases.budget(step, start, (layers.len() * config.target_rank).min(start));
        let falling = step > phases.initial && step < phases.last && step.is_multiple_of(phases.interval);
        let layers = if falling || step == phases.last { allocate(layers, budget) } else { layers };
        let layers =
            if falling || step >= phases.last { layers.map_sites(|_, layer| mask(layer)) } else { layers };
        Self { layers, config }
    }
}

/// Takes the step into the importance of every component.
fn observed<B: AutodiffBackend>(
    layer: AdaloraLayer<B>,
    grads: &GradientsParams,
    config: &AdaloraConfig,
) -> AdaloraLayer<B> {
    let Beside { branch, state } = layer;
    let scale_importance = match &branch.scale {
        Some(scale) => state.scale_importance.update(scale, grads, config),
        None => state.scale_importance,
    };
    let state = Components {
        down_importance: state.down_importance.update(&branch.down, grads, config),
        scale_importance,
        up_importance: state.up_importance.update(&branch.up, grads, config),
        ..state
    };
    Beside { branch, state }
}

/// Marks the `budget` components of the highest score as kept.
fn allocate<B: AutodiffBackend>(
    layers: SiteMap<B, AdaloraLayer<B>>,
    budget: usize,
) -> SiteMap<B, AdaloraLayer<B>> {
    let mut scores: Vec<(f32, Site, usize)> = Vec::new();
    for (site, layer) in layers.iter() {
        let state = &layer.state;
        let rank = state.kept.dims()[0];
        let score = state.scale_importance.score().inner()
            + state.down_importance.score().inner().mean_dim(0).reshape([rank])
            + state.up_importance.score().inner().mean_dim(1).reshape([rank]);
        scores.extend(host(score).into_iter().enumerate().map(|(component, score)| (score, site, component)));
    }
    // Stable: where scores tie, earlier sites and components survive.
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    scores.truncate(budget);
    layers.map_sites(|site, mut layer| {
        let mut kept = vec![0f32; layer.state.kept.dims()[0]];
        for &(_, _, component) in scores.iter().filter(|&&(_, at, _)| at == site) {
            kept[component] = 1.0;
        }
        layer.state.kept = edit(layer.state.kept, |old| Tensor::from_data(kept.as_slice(), &old.device()));
        layer
    })
}

/// Sets the scale of every component that is not kept to zero.
fn mask<B: AutodiffBackend>(mut layer: AdaloraLayer<B>) -> AdaloraLayer<B> {
    let kept = layer.state.kept.val();
    layer.branch.scale = layer.branch.scale.map(|scale| edit(scale, |scale| scale * kept));
    layer
}

/// `||gram - I||`, Frobenius, `[1]`.
fn distance_from_identity<B: Backend>(gram: Tensor<B, 2>) -> Tensor<B, 1> {
    let [rank, _] = gram.dims();
    let identity = Tensor::<B, 2>::eye(rank, &gram.device()).cast(gram.dtype());
    let difference = gram - identity;
    // `sum_dim`: a parameter's gradient must not depend on the order in which threads add.
    difference.powi_scalar(2).reshape([1, rank * rank]).sum_dim(1).reshape([1]).sqrt()
}

#[cfg(test)]
mod tests;
