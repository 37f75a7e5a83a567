//! PRILoRA: ranks that grow with depth, and entries of `down` that are pruned again and again.
//!
//! # Idea
//! Later blocks need more rank than early ones. From time to time the entries of `down` that matter least for the inputs
//! seen are set to zero; they stay trainable, so what was wrongly pruned grows again.
//!
//! # Equations
//! LoRA's, with rank `first_rank + (last_rank - first_rank) layer / (n_layers - 1)`, rounded half up.
//! After every step, with `n [d_in]` the L2 norm of each input feature over the tokens of the step:
//! `input_norm = beta input_norm + (1 - beta) n`. After every `prune_every` steps the `prune_share` of the entries of a
//! group with the smallest `|down| * input_norm` become zero; a group is a rank component (a row of the paper's `A`) or
//! the whole matrix.
//!
//! # Start
//! As LoRA: `down` uniform in `±1 / sqrt(d_in)`, `up = 0`: the adapted model equals the backbone. `input_norm = 0`.
//!
//! # Differences from the paper
//! There is no code of the authors. Rounding, `beta`, the group, and whether the last step prunes are open in what could
//! be read of the paper; each is an option or said above. `alpha` is divided by the rank of the layer.
//!
//! # Source
//! Benedek and Wolf, 2024, arXiv:2401.11316.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sara_ops::{LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Progress, Trainable};
use crate::delta::Delta;
use crate::error::Result;
use crate::low_rank::{Beside, Branch, BranchConfig, uniform_down, zero_up};
use crate::methods::{Method, at_least_one, below_one};
use crate::parameters::{edit, host, state};
use crate::pass::{Pass, Seen};
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of PRILoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PriloraConfig {
    /// Rank in the first block. Default 4 (the paper).
    pub first_rank: usize,
    /// Rank in the last block. Default 12 (the paper).
    pub last_rank: usize,
    /// Optimizer steps between two prunings. Default 40 (the paper).
    pub prune_every: usize,
    /// Share of a group's entries that is pruned, rounded down to entries. Default 0.5 (the paper).
    pub prune_share: f64,
    /// Share of the old norms that a step keeps. Default 0.9.
    pub beta: f64,
    /// The entries that are compared with each other. Default `component`.
    pub group: Group,
    /// Whether the last step prunes, so that the stored adapter has its zeros. Default true.
    pub prune_last: bool,
    /// The options of every branch.
    #[serde(flatten)]
    pub branch: BranchConfig,
}

/// The entries of `down` that are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Those of one rank component: a column of `down`, a row of the paper's `A`.
    #[default]
    Component,
    /// All.
    Matrix,
}

impl Default for PriloraConfig {
    fn default() -> Self {
        Self {
            first_rank: 4,
            last_rank: 12,
            prune_every: 40,
            prune_share: 0.5,
            beta: 0.9,
            group: Group::Component,
            prune_last: true,
            branch: BranchConfig::default(),
        }
    }
}

impl PriloraConfig {
    /// The rank in block `layer` of `n_layers`.
    fn rank(&self, layer: usize, n_layers: usize) -> usize {
        let (first, last) = (self.first_rank as f64, self.last_rank as f64);
        let steps = n_layers.saturating_sub(1).max(1) as f64;
        (first + (last - first) * layer as f64 / steps + 0.5).floor() as usize
    }
}

/// PRILoRA at every adapted site.
#[derive(Module, Debug)]
pub struct Prilora<B: Backend> {
    layers: SiteMap<B, Beside<Branch<B>, Inputs<B>>>,
    #[module(skip)]
    config: PriloraConfig,
}

/// What is known of the inputs of one site.
#[derive(Module, Debug)]
struct Inputs<B: Backend> {
    /// Smoothed L2 norm of each feature, `[d_in]`.
    input_norm: Param<Tensor<B, 1>>,
}

/// What a pass records: of each input feature the sum of its squares.
const SQUARES: &str = "input_squares";

impl Method for PriloraConfig {
    type Adapter<B: LayerOps> = Prilora<B>;

    const LEARNING_RATE: f64 = 2e-3;

    fn plan<B: SvdOps>(
        &self,
        shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        at_least_one("prilora.first_rank", self.first_rank)?;
        at_least_one("prilora.last_rank", self.last_rank)?;
        let field = "prilora.first_rank, last_rank";
        self.branch.plan(field, targets, |target| Ok(self.rank(target.site.layer, shape.n_layers)))
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Prilora<B>> {
        self.branch.check("prilora")?;
        at_least_one("prilora.prune_every", self.prune_every)?;
        below_one("prilora.prune_share", self.prune_share)?;
        below_one("prilora.beta", self.beta)?;
        let layer = |planned: &Planned| Beside {
            branch: Branch {
                down: uniform_down(seed, planned, device),
                scale: None,
                up: zero_up(planned, device),
                scaling: self.branch.scaling(planned, planned.rank as f64),
                dropout: self.branch.dropout,
            },
            state: Inputs { input_norm: state(Tensor::zeros([planned.target.d_in], device)) },
        };
        Ok(Prilora { layers: plan.map(layer), config: self.clone() })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        planned.pair_count()
    }
}

impl<B: LayerOps> Adapter<B> for Prilora<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        if self.layers.get(site).is_some() {
            pass.record_sum(site, SQUARES, || pass.sum_over_tokens(x.clone() * x.clone()));
        }
        self.layers.project(site, base, x, pass)
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        Ok(self.layers.delta(site))
    }

    fn records(&self) -> bool {
        true
    }

    fn report(&self) -> Vec<Figure> {
        let zero_share = |(site, layer): (Site, &Beside<Branch<B>, Inputs<B>>)| {
            let down = host(layer.branch.down.val());
            let zeros = down.iter().filter(|&&value| value == 0.0).count();
            Figure::at(site, "zero_share", zeros as f64 / down.len() as f64)
        };
        self.layers.ranks().into_iter().chain(self.layers.iter().map(zero_share)).collect()
    }
}

impl<B: TrainOps> Trainable<B> for Prilora<B> {
    fn after_step(self, _grads: &GradientsParams, seen: &Seen<B::InnerBackend>, progress: Progress) -> Self {
        let Self { layers, config } = self;
        let done = progress.step + 1;
        let prunes = done.is_multiple_of(config.prune_every) || config.prune_last && done == progress.total;
        let layers = layers.map_sites(|site, mut layer| {
            if let Some(squares) = seen.sum(site, SQUARES) {
                let norm = Tensor::<B, 1>::from_inner(squares.clone().sqrt());
                let smooth = |old: Tensor<B, 1>| {
                    let norm = norm.cast(old.dtype());
                    old * config.beta + norm * (1.0 - config.beta)
                };
                layer.state.input_norm = edit(layer.state.input_norm, smooth);
            }
            if prunes {
                let norms = layer.state.input_norm.val();
                layer.branch.down = edit(layer.branch.down, |down| pruned(down, norms, &config));
            }
            layer
        });
        Self { layers, config }
    }
}

/// `down` with zeros in place of the entries that matter least; of equals the first go.
fn pruned<B: Backend>(down: Tensor<B, 2>, norms: Tensor<B, 1>, config: &PriloraConfig) -> Tensor<B, 2> {
    let ([d_in, rank], device) = (down.dims(), down.device());
    let scores = host(down.clone().abs() * norms.cast(down.dtype()).unsqueeze_dim(1));
    let groups: Vec<Vec<usize>> = match config.group {
        Group::Component => {
            (0..rank).map(|component| (component..d_in * rank).step_by(rank).collect()).collect()
        }
        Group::Matrix => vec![(0..d_in * rank).collect()],
    };
    let mut kept = vec![1f32; d_in * rank];
    for mut group in groups {
        let pruned = (config.prune_share * group.len() as f64) as usize;
        group.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        group.iter().take(pruned).for_each(|&entry| kept[entry] = 0.0);
    }
    let kept = Tensor::<B, 2>::from_data(TensorData::new(kept, [d_in, rank]), &device);
    let dtype = down.dtype();
    down * kept.cast(dtype)
}
