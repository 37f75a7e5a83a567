//! A backbone of two blocks, small enough for finite differences, and the adapters that the tests put beside it.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use rand::Rng;
use sara_core::low_rank::{BranchConfig, Scaling};
use sara_core::methods::adalora::AdaloraConfig;
use sara_core::methods::bayesian_lora::BayesianLoraConfig;
use sara_core::methods::lora::LoraConfig;
use sara_core::methods::lorta::{HeadAxis, LortaConfig};
use sara_core::methods::melora::MeloraConfig;
use sara_core::methods::mo_sara::{MoSaraConfig, RouterInput};
use sara_core::methods::prilora::PriloraConfig;
use sara_core::methods::sara::{SaraConfig, SaraStart};
use sara_core::methods::taps::TapsConfig;
use sara_core::{
    Adapter, AnyAdapter, Backbone, LayerAdapter, LayerOps, MethodConfig, ModelShape, NoWeights, Pass,
    Planned, RankPlan, Role, Seed, Site, Target, WeightSource,
};
use sara_svd::SvdOps;

/// Not square, so that a transposed weight cannot go unnoticed.
pub(crate) const D_MODEL: usize = 6;
pub(crate) const D_INNER: usize = 8;
pub(crate) const SHAPE: ModelShape = ModelShape { n_layers: 2, n_heads: 2, n_kv_heads: 2, head_dim: 4 };

#[derive(Module, Debug)]
pub(crate) struct Tiny<B: Backend> {
    layers: Vec<TinyLayer<B>>,
}

#[derive(Module, Debug)]
struct TinyLayer<B: Backend> {
    query: Linear<B>,
    down: Linear<B>,
}

/// The weights of [`Tiny`], for methods that start from them.
pub(crate) struct Weights;

impl<B: LayerOps> WeightSource<B> for Weights {
    fn weight(&mut self, target: &Target) -> sara_core::Result<Tensor<B, 2>> {
        let backbone = Tiny::<B>::new(&B::Device::default());
        let found = backbone.linears().into_iter().find(|(site, _)| *site == target.site);
        Ok(found.map(|(_, linear)| linear.weight.val()).unwrap())
    }
}

impl<B: LayerOps> Tiny<B> {
    pub(crate) fn new(device: &B::Device) -> Self {
        let linear = |path: String, d_in: usize, d_out: usize| {
            let weight = random(&format!("{path}.weight"), [d_in, d_out], device) * 0.5;
            let bias = random(&format!("{path}.bias"), [d_out], device) * 0.5;
            Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) }
        };
        let layer = |layer: usize| TinyLayer {
            query: linear(format!("{layer}.query"), D_MODEL, D_INNER),
            down: linear(format!("{layer}.down"), D_INNER, D_MODEL),
        };
        Self { layers: (0..SHAPE.n_layers).map(layer).collect() }.no_grad()
    }

    /// The same weights in another dtype.
    pub(crate) fn cast(self, dtype: DType) -> Self {
        let linear = |linear: Linear<B>| Linear {
            weight: linear.weight.map(|weight| weight.cast(dtype).detach()),
            bias: linear.bias.map(|bias| bias.map(|bias| bias.cast(dtype).detach())),
        };
        let layer = |layer: TinyLayer<B>| TinyLayer { query: linear(layer.query), down: linear(layer.down) };
        Self { layers: self.layers.into_iter().map(layer).collect() }.no_grad()
    }

    pub(crate) fn forward(&self, x: Tensor<B, 3>, adapter: &impl Adapter<B>, pass: &Pass<B>) -> Tensor<B, 3> {
        self.layers.iter().enumerate().fold(x, |x, (layer, weights)| {
            let adapter = LayerAdapter { adapter, pass, layer };
            let inner = adapter.project(Role::Query, &weights.query, x).tanh();
            adapter.project(Role::Output, &weights.down, inner)
        })
    }

    pub(crate) fn plain(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.forward(x, &None::<AnyAdapter<B>>, &Pass::evaluation())
    }
}

impl<B: Backend> Backbone<B> for Tiny<B> {
    fn linears(&self) -> Vec<(Site, &Linear<B>)> {
        let layers = self.layers.iter().enumerate();
        layers
            .flat_map(|(layer, weights)| {
                [
                    (Site { layer, role: Role::Query }, &weights.query),
                    (Site { layer, role: Role::Output }, &weights.down),
                ]
            })
            .collect()
    }

    fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)> {
        let layers = self.layers.iter_mut().enumerate();
        layers
            .flat_map(|(layer, weights)| {
                [
                    (Site { layer, role: Role::Query }, &mut weights.query),
                    (Site { layer, role: Role::Output }, &mut weights.down),
                ]
            })
            .collect()
    }
}

/// The linear layers of [`Tiny`], named as a Hugging Face model would.
pub(crate) fn linears() -> Vec<Target> {
    let target = |layer, role, name: &str, d_in, d_out| Target {
        site: Site { layer, role },
        name: format!("tiny.layers.{layer}.{name}"),
        d_in,
        d_out,
    };
    (0..SHAPE.n_layers)
        .flat_map(|layer| {
            [
                target(layer, Role::Query, "attention.query", D_MODEL, D_INNER),
                target(layer, Role::Output, "output.dense", D_INNER, D_MODEL),
            ]
        })
        .collect()
}

/// Normal values that depend on `path` alone.
pub(crate) fn random<B: Backend, const D: usize>(
    path: &str,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Seed(1234).normal(path, shape, 1.0, device).val().detach().set_require_grad(false)
}

/// An input of two rows of four tokens.
pub(crate) fn input<B: Backend>(device: &B::Device) -> Tensor<B, 3> {
    random("input", [2, 4, D_MODEL], device)
}

/// Random values for a file of a test.
pub(crate) fn data<const D: usize>(path: &str, shape: [usize; D]) -> TensorData {
    let mut rng = Seed(99).rng(path);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
    TensorData::new(values, shape)
}

/// A method with a plan on [`Tiny`], and the number of parameters that the closed formula gives.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) method: MethodConfig,
    pub(crate) plan: RankPlan,
    pub(crate) count: usize,
    pub(crate) laws: Laws,
}

/// What a method promises; the contract checks each promise, whichever way it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Laws {
    /// Whether a new adapter leaves the backbone as it is.
    pub(crate) start: Start,
    pub(crate) gradients: Gradients,
    pub(crate) merge: Merge,
    pub(crate) form: Form,
    pub(crate) dropout: Dropout,
    /// Whether the first values depend on the seed.
    pub(crate) first: First,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    AtTheBackbone,
    Elsewhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gradients {
    /// The slopes of the loss.
    Exact,
    /// Through a rounding as if it were not there.
    StraightThrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    Equals,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    LowRank,
    /// Of low rank, with zeros between blocks.
    Blocks,
    Dense,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Drawn,
    Fixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropout {
    Taken,
    None,
}

impl Laws {
    const LOW_RANK: Self = Self {
        start: Start::AtTheBackbone,
        gradients: Gradients::Exact,
        merge: Merge::Equals,
        form: Form::LowRank,
        dropout: Dropout::Taken,
        first: First::Drawn,
    };
}

impl Case {
    pub(crate) fn init<B: LayerOps + SvdOps>(&self, seed: u64, device: &B::Device) -> AnyAdapter<B> {
        self.method.start(SHAPE, &self.plan, Seed(seed), &mut Weights, device).unwrap()
    }
}

/// Every method of the registry, with small ranks; `alpha` is never the rank.
pub(crate) fn cases() -> Vec<Case> {
    MethodConfig::all().into_iter().flat_map(cases_of).collect()
}

/// An alpha that is no rank.
fn branch() -> BranchConfig {
    BranchConfig { alpha: 5.0, ..BranchConfig::default() }
}

/// Sum of both widths, the same at every site of [`Tiny`].
const WIDTHS: usize = D_MODEL + D_INNER;

#[expect(clippy::too_many_lines, reason = "an arm for each method")]
fn cases_of(method: MethodConfig) -> Vec<Case> {
    let case = |name, method: MethodConfig, count| {
        let plan = method.plan::<burn_flex::Flex>(SHAPE, &linears(), &mut NoWeights).unwrap();
        Case { name, method, plan, count, laws: Laws::LOW_RANK }
    };
    let of_role = |name, method: MethodConfig, role, count| {
        let targets: Vec<Target> = linears().into_iter().filter(|target| target.site.role == role).collect();
        let plan = method.plan::<burn_flex::Flex>(SHAPE, &targets, &mut NoWeights).unwrap();
        Case { name, method, plan, count, laws: Laws::LOW_RANK }
    };
    match method {
        MethodConfig::Lora(_) => {
            let config = LoraConfig { rank: 3, branch: branch() };
            let root = BranchConfig { scaling: Scaling::RootRank, ..config.branch.clone() };
            let root = LoraConfig { branch: root, ..config.clone() };
            let mut mixed =
                case("lora, a rank and an alpha by site", MethodConfig::Lora(config.clone()), 10 * WIDTHS);
            mixed.plan = by_site([(1, None), (3, Some(2.0)), (2, Some(7.0)), (4, None)]);
            vec![
                case("lora", MethodConfig::Lora(config), 4 * 3 * WIDTHS),
                case("lora with alpha / sqrt(rank)", MethodConfig::Lora(root), 4 * 3 * WIDTHS),
                mixed,
            ]
        }
        MethodConfig::Sara(config) => {
            // The plan is made by hand: no weight is decomposed here.
            let plan = by_site([(1, None), (3, None), (2, None), (4, None)]);
            let (count, laws) = (10 * (WIDTHS + 1), Laws::LOW_RANK);
            let config = SaraConfig { branch: branch(), ..config };
            let scale = SaraConfig { start: SaraStart::ZeroScale, ..config.clone() };
            vec![
                Case { name: "sara", method: MethodConfig::Sara(config), plan: plan.clone(), count, laws },
                Case { name: "sara from scale = 0", method: MethodConfig::Sara(scale), plan, count, laws },
            ]
        }
        MethodConfig::Adalora(config) => {
            let config = AdaloraConfig { initial_rank: 3, target_rank: 1, branch: branch(), ..config };
            vec![case("adalora", MethodConfig::Adalora(config), 4 * 3 * (WIDTHS + 1))]
        }
        MethodConfig::MoSara(config) => {
            // The plan is made by hand, as SARA's is; all singular vectors at one site.
            let plan = by_site([(1, None), (3, None), (2, None), (6, None)]);
            let case = |name, config, router: usize, laws| {
                let MoSaraConfig { experts, .. } = config;
                let count = experts * 12 + 2 * WIDTHS + router;
                Case { name, method: MethodConfig::MoSara(config), plan: plan.clone(), count, laws }
            };
            let routed = MoSaraConfig { experts: 3, router_hidden: 2, ..config.clone() };
            let by_input = MoSaraConfig { router_input: RouterInput::Input, ..routed.clone() };
            let one = MoSaraConfig { experts: 1, ..config };
            let refused = Laws { merge: Merge::Refused, ..Laws::LOW_RANK };
            vec![
                case("mo_sara", routed, 2 * (12 + 4 * 3), refused),
                case("mo_sara, routed by the input", by_input, 2 * (2 * WIDTHS + 4 * 3), refused),
                case("mo_sara with one expert", one, 0, Laws::LOW_RANK),
            ]
        }
        MethodConfig::Prilora(config) => {
            let config =
                PriloraConfig { first_rank: 1, last_rank: 3, prune_every: 2, branch: branch(), ..config };
            vec![case("prilora", MethodConfig::Prilora(config), 2 * (1 + 3) * WIDTHS)]
        }
        MethodConfig::Melora(_) => {
            let config = MeloraConfig { minis: 2, rank: 3, branch: branch() };
            let laws = Laws { form: Form::Blocks, ..Laws::LOW_RANK };
            vec![Case { laws, ..case("melora", MethodConfig::Melora(config), 4 * 3 * WIDTHS) }]
        }
        MethodConfig::BayesianLora(config) => {
            let whole = BayesianLoraConfig { rank: 3, branch: branch(), ..config };
            let weights =
                BayesianLoraConfig { quantize_base: false, quantize_activations: false, ..whole.clone() };
            let bare = BayesianLoraConfig { rank_gates: false, ..weights.clone() };
            let laws =
                Laws { start: Start::Elsewhere, gradients: Gradients::StraightThrough, ..Laws::LOW_RANK };
            let case = |name, config, gates: usize, merge| Case {
                laws: Laws { merge, ..laws },
                ..case(name, MethodConfig::BayesianLora(config), 4 * (3 * (WIDTHS + 1) + gates))
            };
            vec![
                case("bayesian_lora", whole, 9 * 4 + 2, Merge::Refused),
                case("bayesian_lora, weights alone", weights, 3 * 4 + 2, Merge::Equals),
                case("bayesian_lora without rank gates", bare, 3 * 4, Merge::Equals),
            ]
        }
        MethodConfig::Lorta(config) => {
            let config = LortaConfig { rank: 3, alpha: 5.0, ..config };
            let input = LortaConfig { head_axis: HeadAxis::Input, ..config.clone() };
            // Width, width of a head, heads, layers, one role.
            let count = 3 * (D_MODEL + 4 + 2 + 2 + 1);
            vec![
                of_role("lorta", MethodConfig::Lorta(config), Role::Query, count),
                of_role("lorta, heads in the input", MethodConfig::Lorta(input), Role::Output, count),
            ]
        }
        MethodConfig::Taps(config) => {
            // Every score is above this, with noise too: what is inactive has tests of its own.
            let config = TapsConfig { threshold: -10.0, ..config };
            let laws = Laws {
                gradients: Gradients::StraightThrough,
                form: Form::Dense,
                dropout: Dropout::None,
                first: First::Fixed,
                ..Laws::LOW_RANK
            };
            let count = 4 * (D_MODEL * D_INNER + 1);
            vec![Case { laws, ..case("taps", MethodConfig::Taps(config), count) }]
        }
    }
}

/// A plan with these ranks and alphas.
pub(crate) fn by_site(sites: [(usize, Option<f64>); 4]) -> RankPlan {
    let planned = |(target, (rank, alpha))| Planned { target, rank, alpha };
    RankPlan { sites: linears().into_iter().zip(sites).map(planned).collect() }
}

/// The values of a tensor, on the host.
pub(crate) fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// The largest distance of two values.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |max: f64, next| if next.is_nan() { next } else { max.max(next) })
}
