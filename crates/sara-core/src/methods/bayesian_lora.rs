//! Bayesian-LoRA: a low-rank branch that learns its own rank and the bits of everything it multiplies.
//!
//! # Idea
//! Every weight and every intermediate result passes a quantiser whose number of bits is behind gates; the components of
//! the branch are behind gates too. A penalty closes gates, so that a layer ends with the bits and the rank it needs.
//!
//! # Equations
//! With a quantiser `Q` of its own at every place:
//! `base = Q(x Q(W) + Q(b))`, `a = Q(Q(dropout(x) Q(down)) * Q(scale) * ranks)`, `y = Q(base + scaling * Q(a Q(up)))`,
//! `down [d_in, rank]`, `scale [rank]`, `up [rank, d_out]`, `scaling = alpha / rank`; the paper's `A`, `E`, `B`.
//! A quantiser rounds to 2 bits with the step of its range, and what is left to 4, 8, 16, 32 bits behind gates:
//! `Q(x) = x2 + z4 (x4 + z8 (x8 + z16 (x16 + z32 x32)))`, rounding straight through. Gates `z` are hard concrete: in
//! training drawn from their logits, in evaluation 0 or 1. `ranks = [1, round(g1), round(g1 g2), ..]` of such gates.
//! Penalty: `strength` times the sum over all quantisers of `q4 + q4 q8 + q4 q8 q16 + q4 q8 q16 q32 + 1`, `q` the
//! probability that a gate is not zero; that of `scale` is weighted with the mean of those of the rank gates.
//!
//! # Start
//! `down`, `up` normal with deviation 0.02, `scale` normal with deviation 1: the adapted model does not equal the
//! backbone. Logits 2 for bits, 6 for ranks. The ranges are those of the first values seen: of the weights at the start,
//! of the results in the first step; values beyond them are rounded, not cut.
//!
//! # Differences from the paper
//! The equations are those of the first author's code; the paper was not read. A quantiser that has seen nothing, as in
//! the evaluation of an untrained adapter, changes nothing. The first step is one batch, whatever its micro-batches: each
//! uses its own range, and that of all is kept.
//!
//! # Source
//! Meo et al., 2024, arXiv:2406.13046, and the authors' code.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{self as ops, LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Figure, Progress, Trainable};
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::low_rank::{BranchConfig, LowRank, linear};
use crate::methods::{Method, at_least_one, not_negative};
use crate::parameters::host;
use crate::pass::{Pass, Seen};
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, SiteMap, Target};

use self::quantizer::{GATES, Quantizer, cumulative_product, extremes, gate, likely, logits, quantize};

mod quantizer;

/// Configuration of Bayesian-LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BayesianLoraConfig {
    /// Rank of every branch at the start. Default 8.
    pub rank: usize,
    /// Weight of the penalty (the paper's lambda). Default 0.001 (the authors' code).
    pub strength: f64,
    /// Whether components are behind gates. Default true.
    pub rank_gates: bool,
    /// Whether the frozen weight and bias are quantised. Default true.
    pub quantize_base: bool,
    /// Whether the intermediate results are quantised. Default true.
    pub quantize_activations: bool,
    /// The options of every branch.
    #[serde(flatten)]
    pub branch: BranchConfig,
}

impl Default for BayesianLoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            strength: 0.001,
            rank_gates: true,
            quantize_base: true,
            quantize_activations: true,
            branch: BranchConfig::default(),
        }
    }
}

/// Bayesian-LoRA at every adapted site.
#[derive(Module, Debug)]
pub struct BayesianLora<B: Backend> {
    layers: SiteMap<B, Bayesian<B>>,
    #[module(skip)]
    config: BayesianLoraConfig,
}

/// The branch at one site.
#[derive(Module, Debug)]
struct Bayesian<B: Backend> {
    /// `[d_in, rank]`.
    down: Param<Tensor<B, 2>>,
    /// `[rank]`.
    scale: Param<Tensor<B, 1>>,
    /// `[rank, d_out]`.
    up: Param<Tensor<B, 2>>,
    /// Logits of all components but the first, which is always kept, `[rank - 1]`.
    rank_gates: Option<Param<Tensor<B, 1>>>,
    quantizers: Quantizers<B>,
    scaling: f64,
    dropout: f64,
    #[module(skip)]
    target: Target,
}

/// The quantisers of one site, of weights and of results.
#[derive(Module, Debug)]
struct Quantizers<B: Backend> {
    base: Option<Quantizer<B>>,
    down: Quantizer<B>,
    scale: Quantizer<B>,
    up: Quantizer<B>,
    base_out: Option<Quantizer<B>>,
    down_out: Option<Quantizer<B>>,
    scale_out: Option<Quantizer<B>>,
    up_out: Option<Quantizer<B>>,
    out: Option<Quantizer<B>>,
}

impl<B: Backend> Quantizers<B> {
    /// All that there are, with their names.
    fn all(&self) -> Vec<(&'static str, &Quantizer<B>)> {
        let all = [
            ("base", self.base.as_ref()),
            ("down", Some(&self.down)),
            ("scale", Some(&self.scale)),
            ("up", Some(&self.up)),
            ("base_out", self.base_out.as_ref()),
            ("down_out", self.down_out.as_ref()),
            ("scale_out", self.scale_out.as_ref()),
            ("up_out", self.up_out.as_ref()),
            ("out", self.out.as_ref()),
        ];
        all.into_iter().filter_map(|(name, quantizer)| Some((name, quantizer?))).collect()
    }

    /// Those of results, which get their ranges in the first step, by the names under which a pass records them.
    fn of_results(&mut self) -> [(&'static str, &mut Option<Quantizer<B>>); 5] {
        [
            ("base_out", &mut self.base_out),
            ("down_out", &mut self.down_out),
            ("scale_out", &mut self.scale_out),
            ("up_out", &mut self.up_out),
            ("out", &mut self.out),
        ]
    }
}

/// The places at a site, in the order in which their noise is drawn, and the figures of their bits.
const PLACES: [(&str, &str); 9] = [
    ("base", "bits.base"),
    ("down", "bits.down"),
    ("scale", "bits.scale"),
    ("up", "bits.up"),
    ("base_out", "bits.base_out"),
    ("down_out", "bits.down_out"),
    ("scale_out", "bits.scale_out"),
    ("up_out", "bits.up_out"),
    ("out", "bits.out"),
];

/// The number of a place.
fn place(name: &str) -> usize {
    PLACES.iter().position(|(place, _)| *place == name).unwrap_or(0)
}

impl Method for BayesianLoraConfig {
    type Adapter<B: LayerOps> = BayesianLora<B>;

    const LEARNING_RATE: f64 = 4e-3;

    fn plan<B: SvdOps>(
        &self,
        _shape: ModelShape,
        targets: &[Target],
        _weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan> {
        at_least_one("bayesian_lora.rank", self.rank)?;
        self.branch.plan("bayesian_lora.rank", targets, |_| Ok(self.rank))
    }

    fn init<B: LayerOps>(
        &self,
        _shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<BayesianLora<B>> {
        /// Deviation of the factors' first values, from the authors' code.
        const DEVIATION: f64 = 0.02;
        /// The logit of every rank gate at the start, from the authors' code.
        const RANK_START: f32 = 6.0;
        self.branch.check("bayesian_lora")?;
        not_negative("bayesian_lora.strength", self.strength)?;
        let layer = |planned: &Planned| {
            let (Target { site, d_in, d_out, .. }, rank) = (&planned.target, planned.rank);
            let down = seed.normal(&format!("{site}.down"), [*d_in, rank], DEVIATION, device);
            let scale = seed.normal(&format!("{site}.scale"), [rank], 1.0, device);
            let up = seed.normal(&format!("{site}.up"), [rank, *d_out], DEVIATION, device);
            let of_results = || self.quantize_activations.then(|| Quantizer::new(device));
            let quantizers = Quantizers {
                base: self.quantize_base.then(|| Quantizer::new(device)),
                down: Quantizer::of(down.val().detach(), device),
                scale: Quantizer::of(scale.val().detach(), device),
                up: Quantizer::of(up.val().detach(), device),
                base_out: of_results(),
                down_out: of_results(),
                scale_out: of_results(),
                up_out: of_results(),
                out: of_results(),
            };
            let gated = self.rank_gates && rank > 1;
            Bayesian {
                down,
                scale,
                up,
                rank_gates: gated.then(|| logits(rank - 1, RANK_START, device)),
                quantizers,
                scaling: self.branch.scaling(planned, rank as f64),
                dropout: self.branch.dropout,
                target: planned.target.clone(),
            }
        };
        Ok(BayesianLora { layers: plan.map(layer), config: self.clone() })
    }

    fn start_from<B: LayerOps + SvdOps>(
        &self,
        adapter: BayesianLora<B>,
        weights: &mut dyn WeightSource<B>,
    ) -> Result<BayesianLora<B>> {
        let layers = adapter.layers.try_map_sites(|_, mut layer| {
            if let Some(base) = layer.quantizers.base.take() {
                let weight = weights.weight(&layer.target)?;
                layer.quantizers.base = Some(base.ranged(extremes(weight.detach())));
            }
            Ok(layer)
        })?;
        Ok(BayesianLora { layers, ..adapter })
    }

    fn count_at(&self, planned: &Planned) -> usize {
        let quantizers = 3 + usize::from(self.quantize_base) + 5 * usize::from(self.quantize_activations);
        let rank_gates = if self.rank_gates { planned.rank - 1 } else { 0 };
        planned.pair_count() + planned.rank + GATES * quantizers + rank_gates
    }
}

/// How far the gates of one site are open, in this pass.
struct Open<B: Backend> {
    /// By place, `[4]` each.
    bits: Vec<(&'static str, Tensor<B, 1>)>,
    /// 0 or 1 for each component, `[rank]`.
    ranks: Option<Tensor<B, 1>>,
}

impl<B: Backend> Open<B> {
    fn at(&self, place: &str) -> Option<&Tensor<B, 1>> {
        self.bits.iter().find(|(name, _)| *name == place).map(|(_, open)| open)
    }
}

impl<B: LayerOps> Bayesian<B> {
    /// Draws the gates, in one piece; in evaluation they are decided.
    fn open(&self, site: Site, pass: &Pass<B>) -> Open<B> {
        let rank = self.scale.dims()[0];
        let noise =
            pass.uniform([GATES * PLACES.len() + rank], format!("{site}.gates"), &self.scale.device());
        let piece = |from: usize, n: usize| noise.clone().map(|noise| noise.narrow(0, from, n));
        let bits = self.quantizers.all().into_iter();
        let bits = bits.map(|(name, quantizer)| (name, quantizer.open(piece(GATES * place(name), GATES))));
        let ranks = self.rank_gates.as_ref().map(|logits| {
            let gates = gate(logits.val(), piece(GATES * PLACES.len(), rank - 1));
            let products = cumulative_product(gates);
            let rounded = products.clone().detach().round() - products.clone().detach();
            let first = Tensor::ones([1], (&products.device(), products.dtype()));
            Tensor::cat(vec![first, products + rounded], 0)
        });
        Open { bits: bits.collect(), ranks }
    }

    /// The factors as the gates leave them.
    fn low_rank(&self, open: &Open<B>) -> LowRank<B> {
        let Quantizers { down, scale, up, .. } = &self.quantizers;
        let of_scale = weight(scale, self.scale.val(), open.at("scale"));
        LowRank {
            down: weight(down, self.down.val(), open.at("down")),
            scale: Some(match &open.ranks {
                Some(ranks) => of_scale * ranks.clone(),
                None => of_scale,
            }),
            up: weight(up, self.up.val(), open.at("up")),
            scaling: self.scaling,
        }
    }

    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        let open = self.open(site, pass);
        let dropped = pass.dropout(x.clone(), self.dropout, site);
        let result = |quantizer: &Option<Quantizer<B>>, name: &'static str, y: Tensor<B, 3>| {
            let (Some(quantizer), Some(open)) = (quantizer, open.at(name)) else { return y };
            // Only the first step finds quantisers without a range.
            let range = if pass.step() == Some(0) {
                pass.record_max(site, name, || extremes(y.clone().detach()) * signs(&y));
                quantizer.range_or(&y)
            } else {
                quantizer.range()
            };
            quantize(y, range, open)
        };
        let quantizers = &self.quantizers;
        let out = match (&quantizers.base, open.at("base")) {
            (Some(quantizer), Some(open)) => {
                let w = ops::widened(base.weight.val()).cast(x.dtype());
                let b = base.bias.as_ref().map(Param::val);
                let range = quantizer.range();
                let b = b.map(|b| quantize(b, range.clone(), open));
                ops::linear(x, quantize(w, range, open), b)
            }
            _ => linear(base, x),
        };
        let out = result(&quantizers.base_out, "base_out", out);
        let LowRank { down, scale, up, scaling } = self.low_rank(&open);
        let middle = ops::linear(dropped.cast(down.dtype()), down, None);
        let middle = result(&quantizers.down_out, "down_out", middle);
        let middle = match scale {
            Some(scale) => middle * scale.unsqueeze(),
            None => middle,
        };
        let middle = result(&quantizers.scale_out, "scale_out", middle);
        let branch = result(&quantizers.up_out, "up_out", ops::linear(middle, up, None)) * scaling;
        let branch = branch.cast(out.dtype());
        result(&quantizers.out, "out", ops::add(out, branch))
    }

    /// Components that evaluation keeps.
    fn kept_rank(&self) -> usize {
        let rank = self.scale.dims()[0];
        let Some(logits) = &self.rank_gates else { return rank };
        1 + host(gate(logits.val().detach(), None)).iter().take_while(|&&open| open > 0.0).count()
    }

    /// What the gates of this site cost, `[1]`.
    fn penalty(&self) -> Option<Tensor<B, 1>> {
        let cost = |(name, quantizer): (&str, &Quantizer<B>)| match &self.rank_gates {
            Some(logits) if name == "scale" => {
                let [n] = logits.dims();
                likely(logits.val()).sum_dim(0) / n as f64 * quantizer.cost()
            }
            _ => quantizer.cost(),
        };
        self.quantizers.all().into_iter().map(cost).reduce(|sum, cost| sum + cost)
    }
}

/// A weight as its quantiser leaves it.
fn weight<B: LayerOps, const D: usize>(
    quantizer: &Quantizer<B>,
    value: Tensor<B, D>,
    open: Option<&Tensor<B, 1>>,
) -> Tensor<B, D> {
    match open {
        Some(open) => quantize(value, quantizer.range(), open),
        None => value,
    }
}

/// Makes a largest value of the smallest, so that both are recorded as maxima.
fn signs<B: Backend, const D: usize>(like: &Tensor<B, D>) -> Tensor<B, 1> {
    Tensor::<B, 1>::from_floats([-1.0, 1.0], &like.device()).cast(like.dtype())
}

impl<B: LayerOps> Adapter<B> for BayesianLora<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        match self.layers.get(site) {
            Some(layer) => layer.project(site, base, x, pass),
            None => linear(base, x),
        }
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>> {
        let Some(layer) = self.layers.get(site) else { return Ok(None) };
        if self.config.quantize_base || self.config.quantize_activations {
            return Err(Error::NotMergeable {
                reason:
                    "bayesian_lora quantises the base weight and the results, which no weight can express; \
                         train with quantize_base = false and quantize_activations = false"
                        .to_owned(),
            });
        }
        let open = layer.open(site, &Pass::evaluation());
        Ok(Some(Delta { weight: layer.low_rank(&open).without_zeros().change(), bias: None }))
    }

    fn records(&self) -> bool {
        self.config.quantize_activations
    }

    fn penalty(&self, _progress: Progress) -> Option<Tensor<B, 1>> {
        let sum =
            self.layers.iter().filter_map(|(_, layer)| layer.penalty()).reduce(|sum, cost| sum + cost)?;
        Some(sum * self.config.strength)
    }

    fn report(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        let (mut operations, mut full) = (0.0, 0.0);
        for (site, layer) in self.layers.iter() {
            let kept = layer.kept_rank() as f64;
            figures.push(Figure::at(site, "rank", kept));
            figures.push(Figure::at(site, "kept_rank", kept));
            let bits: Vec<(&str, f64)> =
                layer.quantizers.all().iter().map(|(name, quantizer)| (*name, quantizer.bits())).collect();
            figures.extend(bits.iter().map(|&(name, bits)| Figure::at(site, PLACES[place(name)].1, bits)));
            // What is not quantised has 32 bits: so has the input of a layer.
            let of =
                |name: &str| bits.iter().find(|(place, _)| *place == name).map_or(32.0, |&(_, bits)| bits);
            let ([d_in, rank], [_, d_out]) = (layer.down.dims(), layer.up.dims());
            let (d_in, d_out, rank) = (d_in as f64, d_out as f64, rank as f64);
            operations += 32.0 * of("base") * d_in * d_out
                + 32.0 * of("down") * d_in * kept
                + of("scale_out") * of("up") * kept * d_out;
            full += 32.0 * 32.0 * (d_in * d_out + rank * (d_in + d_out));
        }
        figures.push(Figure::of_all("bit_operations", operations / full));
        figures
    }
}

impl<B: TrainOps> Trainable<B> for BayesianLora<B> {
    fn after_step(self, _grads: &GradientsParams, seen: &Seen<B::InnerBackend>, progress: Progress) -> Self {
        if progress.step > 0 {
            return self;
        }
        let layers = self.layers.map_sites(|site, mut layer| {
            for (name, quantizer) in layer.quantizers.of_results() {
                if let Some(extremes) = seen.max(site, name) {
                    let range = Tensor::from_inner(extremes.clone());
                    let range = range.clone() * signs(&range);
                    *quantizer = quantizer.take().map(|quantizer| quantizer.ranged(range));
                }
            }
            layer
        });
        Self { layers, ..self }
    }
}
