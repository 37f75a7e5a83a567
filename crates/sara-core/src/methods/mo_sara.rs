//! Mo-SARA: the singular vectors of the pretrained weight stay as they are; several sets of singular values are trained,
//! and a router mixes them for each token.
//!
//! # Idea
//! A change of the weight within its own leading singular vectors needs a diagonal alone. Several diagonals, mixed by what
//! the token looks like in these vectors, cost a few values more and make the change depend on the input.
//!
//! # Equations
//! With `W ≈ right diag(s) left`, `right [d_in, k]`, `left [k, d_out]` orthonormal and frozen (the paper's `V`, `Uᵀ`), and
//! `z = x right`: `y = x W + b + gain * (((dropout(x) right) * (g scales)) left)`, `g = softmax(z hidden out)`,
//! `scales [experts, k]`, `gain [d_out]` (the paper's `v`), `hidden [k, router_hidden]`, `out [router_hidden, experts]`.
//! With `router_input = "input"` the router sees `x` in place of `z`. With one expert there is no router. `k` is chosen
//! as SARA chooses a rank.
//!
//! # Start
//! `gain = 0`: the adapted model equals the backbone. `scales` normal with deviation 1, the router's matrices uniform in
//! `±1 / sqrt(rows)`.
//!
//! # Differences from the paper
//! There is no code of the authors, and of the paper the figures alone could be read: the first values, the router's width
//! and input, and what `v` multiplies follow an unofficial program where it makes sense, and are options. That program
//! multiplies the whole output by `1 + v`; here `v` multiplies the branch, so that the start is the backbone.
//!
//! # Source
//! Gu et al., 2024, arXiv:2408.03290.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use sara_ops::{self as ops, LayerOps, TrainOps};
use sara_svd::{Convention, SvdOps, svd};
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Apart, Figure, Trainable};
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::low_rank::{LowRank, linear};
use crate::methods::{Method, at_least_one, below_one, fraction};
use crate::parameters::{edit, host, state};
use crate::pass::{Pass, Seen};
use crate::rank_plan::{Planned, RankPlan, WeightSource, spectral_rank};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

/// Configuration of Mo-SARA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoSaraConfig {
    /// Share of the sum of singular values whose vectors are kept, 0 to 1. Default 0.5 (an unofficial program).
    pub share: f64,
    /// Which of the two readings of the rule. Default `reach`.
    pub convention: Convention,
    /// Sets of singular values. Default 5 (an unofficial program).
    pub experts: usize,
    /// Width of the router. Default 1 (an unofficial program).
    pub router_hidden: usize,
    /// What the router sees. Default `projection`.
    pub router_input: RouterInput,
    /// Probability that dropout zeroes an input of the branch in training. Default 0.
    pub dropout: f64,
}

/// What the router sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterInput {
    /// The token in the frozen singular vectors, `[k]`.
    #[default]
    Projection,
    /// The token, `[d_in]`.
    Input,
}

impl Default for MoSaraConfig {
    fn default() -> Self {
        Self {
            share: 0.5,
            convention: Convention::Reach,
            experts: 5,
            router_hidden: 1,
            router_input: RouterInput::Projection,
            dropout: 0.0,
        }
    }
}

/// Mo-SARA at every adapted site.
#[derive(Module, Debug)]
pub struct MoSara<B: Backend> {
    layers: SiteMap<B, Mixture<B>>,
    #[module(skip)]
    config: MoSaraConfig,
}

/// The diagonals of one site and their router.
#[derive(Module, Debug)]
struct Mixture<B: Backend> {
    /// `[d_in, k]`, frozen.
    right: Param<Tensor<B, 2>>,
    /// `[k, d_out]`, frozen.
    left: Param<Tensor<B, 2>>,
    /// `[experts, k]`.
    scales: Param<Tensor<B, 2>>,
    /// `[d_out]`.
    gain: Param<Tensor<B, 1>>,
    /// `None` with one expert.
    router: Option<Router<B>>,
    #[module(skip)]
    target: Target,
}

/// `softmax(z hidden out)`.
#[derive(Module, Debug)]
struct Router<B: Backend> {
    /// `[k or d_in, router_hidden]`.
    hidden: Param<Tensor<B, 2>>,
    /// `[router_hidden, experts]`.
    out: Param<Tensor<B, 2>>,
}

/// What a pass records: of each expert the sum of its weights over the tokens.
const USE: &str = Figure::EXPERT_USE;

impl Method for MoSaraConfig {
    type Adapter<B: LayerOps> = MoSara<B>;

    const LEARNING_RATE: f64 = 1e-2;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        fraction("mo_sara.share", self.share)?;
        RankPlan::new("mo_sara.share", targets, |target| {
            let rank = spectral_rank(target, self.share, self.convention, weights)?;
            Ok(Planned::new(target, rank))
        })
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<MoSara<B>> {
        at_least_one("mo_sara.experts", self.experts)?;
        at_least_one("mo_sara.router_hidden", self.router_hidden)?;
        below_one("mo_sara.dropout", self.dropout)?;
        let mixture = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, k) = (&planned.target, planned.rank);
            let matrix = |name: &str, rows: usize, columns: usize| {
                let bound = 1.0 / (rows as f64).sqrt();
                seed.uniform(&format!("{site}.router.{name}"), [rows, columns], bound, device)
            };
            let router = || Router {
                hidden: matrix("hidden", self.router_width(planned), self.router_hidden),
                out: matrix("out", self.router_hidden, self.experts),
            };
            Mixture {
                right: state(Tensor::zeros([*d_in, k], device)),
                left: state(Tensor::zeros([k, *d_out], device)),
                scales: seed.normal(&format!("{site}.scales"), [self.experts, k], 1.0, device),
                gain: Param::from_tensor(Tensor::zeros([*d_out], device)),
                router: (self.experts > 1).then(router),
                target: planned.target.clone(),
            }
        };
        Ok(MoSara { layers: plan.map(mixture), config: self.clone() })
    }

    fn start_from<B: LayerOps + SvdOps>(
        &self,
        adapter: MoSara<B>,
        weights: &mut dyn WeightSource<B>,
    ) -> Result<MoSara<B>> {
        let layers = adapter.layers.try_map_sites(|_, mut mixture| {
            let Target { name, d_in, d_out, .. } = &mixture.target;
            let ([_, k], failed) =
                (mixture.right.dims(), |source| Error::Spectrum { name: name.clone(), source });
            let whole = svd(weights.weight(&mixture.target)?).map_err(failed)?;
            // Vectors of a model in bf16 train in f32, as every adapter does.
            let (u, vt) = (whole.u.cast(DType::F32), whole.vt.cast(DType::F32));
            let (right, left) = (u.slice([0..*d_in, 0..k]), vt.slice([0..k, 0..*d_out]));
            mixture.right = edit(mixture.right, |_| right.detach());
            mixture.left = edit(mixture.left, |_| left.detach());
            Ok::<_, Error>(mixture)
        })?;
        Ok(MoSara { layers, ..adapter })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        let router = match self.experts {
            1 => 0,
            _ => (self.router_width(planned) + self.experts) * self.router_hidden,
        };
        self.experts * planned.rank + planned.target.d_out + router
    }
}

impl MoSaraConfig {
    /// What the router sees of a token.
    fn router_width(&self, planned: &Planned) -> usize {
        match self.router_input {
            RouterInput::Projection => planned.rank,
            RouterInput::Input => planned.target.d_in,
        }
    }
}

impl<B: LayerOps> Mixture<B> {
    fn project(
        &self,
        config: &MoSaraConfig,
        base: &Linear<B>,
        x: Tensor<B, 3>,
        pass: &Pass<B>,
    ) -> Tensor<B, 3> {
        let site = self.target.site;
        let right = self.right.val();
        let dropped = pass.dropout(x.clone(), config.dropout, site).cast(right.dtype());
        let projected = ops::linear(dropped, right, None);
        let scales = self.scales.val();
        let mixed = match &self.router {
            Some(router) => {
                let seen = match config.router_input {
                    RouterInput::Projection => projected.clone(),
                    RouterInput::Input => x.clone().cast(scales.dtype()),
                };
                let hidden = ops::linear(seen, router.hidden.val(), None);
                let mix = softmax(ops::linear(hidden, router.out.val(), None), 2);
                pass.record_sum(site, USE, || pass.sum_over_tokens(mix.clone()));
                projected * ops::linear(mix, scales, None)
            }
            None => projected * scales.unsqueeze(),
        };
        // The gain on the narrow factor: it costs the least there, and no whole output is kept for its gradient.
        let left = self.left.val() * self.gain.val().unsqueeze();
        let branch = ops::linear(mixed, left, None);
        let out = linear(base, x);
        let branch = branch.cast(out.dtype());
        ops::add(out, branch)
    }

    /// The change of the weight, where no router makes it depend on the input.
    fn low_rank(&self) -> Option<LowRank<B>> {
        let [experts, k] = self.scales.dims();
        (experts == 1).then(|| LowRank {
            down: self.right.val(),
            scale: Some(self.scales.val().reshape([k])),
            up: self.left.val() * self.gain.val().unsqueeze(),
            scaling: 1.0,
        })
    }
}

impl<B: LayerOps> Adapter<B> for MoSara<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        match self.layers.get(site) {
            Some(mixture) => mixture.project(&self.config, base, x, pass),
            None => linear(base, x),
        }
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        let Some(mixture) = self.layers.get(site) else { return Ok(None) };
        let Some(low_rank) = mixture.low_rank() else {
            return Err(Error::NotMergeable {
                reason: "the router of mo_sara makes the change depend on the input; train with experts = 1, or take \
                         the mean over some data: sara export --collapse mean-gate --calibrate FILE"
                    .to_owned(),
            });
        };
        Ok(Some(Delta { weight: low_rank.change(), bias: None }))
    }

    fn observes(&self) -> bool {
        self.config.experts > 1
    }

    fn report(&self) -> Vec<Figure> {
        self.layers
            .iter()
            .map(|(site, mixture)| Figure::at(site, "rank", mixture.right.dims()[1] as f64))
            .collect()
    }

    fn observed(&self, seen: &Seen<B>) -> Vec<Figure> {
        let of_site = |(site, _): (Site, &Mixture<B>)| {
            let sums = seen.sum(site, USE).map(|sums| host(sums.clone())).unwrap_or_default();
            let tokens: f32 = sums.iter().sum();
            sums.into_iter()
                .map(move |sum| Figure::at(site, USE, f64::from(sum / tokens)))
                .collect::<Vec<_>>()
        };
        self.layers.iter().flat_map(of_site).collect()
    }

    fn apart(&self) -> Apart {
        let frozen = self.layers.iter().flat_map(|(_, mixture)| [mixture.right.id, mixture.left.id]);
        Apart { from_base: frozen.collect(), unused: Vec::new() }
    }

    fn collapse(self, seen: &Seen<B>) -> Option<Self> {
        if self.config.experts == 1 {
            return None;
        }
        let layers = self.layers.map_sites(|site, mut mixture| {
            if let Some(sums) = seen.sum(site, USE) {
                let [experts] = sums.dims();
                let mix = sums.clone().reshape([1, experts]) / sums.clone().sum_dim(0).reshape([1, 1]);
                let mean = mix.cast(mixture.scales.val().dtype()).matmul(mixture.scales.val());
                mixture.scales = edit(mixture.scales, |_| mean.detach());
                mixture.router = None;
            }
            mixture
        });
        Some(Self { layers, config: MoSaraConfig { experts: 1, ..self.config } })
    }
}

impl<B: TrainOps> Trainable<B> for MoSara<B> {}
