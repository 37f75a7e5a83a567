//! The methods without a reference in PEFT against their equations in torch: outputs, penalties, changes, gradients and
//! states of three steps of plain descent, in full.

use std::path::Path;

use burn::nn::Linear;
use burn::optim::{GradientsParams, Optimizer, SgdConfig};
use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::low_rank::BranchConfig;
use sara_core::methods::bayesian_lora::BayesianLoraConfig;
use sara_core::methods::lorta::{HeadAxis, LortaConfig};
use sara_core::methods::melora::MeloraConfig;
use sara_core::methods::mo_sara::{MoSaraConfig, RouterInput};
use sara_core::methods::prilora::{Group, PriloraConfig};
use sara_core::methods::taps::TapsConfig;
use sara_core::parameters::{Tensors, collect, restore, state};
use sara_core::store::read_safetensors;
use sara_core::{
    Adapter, AnyAdapter, MethodConfig, NoWeights, Noise, Pass, Planned, Progress, RankPlan, Role, Seed, Site,
    Target, Trainable,
};

use crate::noise::gradients;
use crate::tiny::{SHAPE, distance, linears, values};

type Train = Autodiff<Flex>;

/// Sums of at most 48 products of values up to ten, in f32, through four layers.
const ROUNDING: f64 = 2e-5;
const RATE: f64 = 0.05;
const TOTAL: usize = 10;

/// The fixture of one case.
struct Golden {
    case: &'static str,
    all: Tensors,
}

impl Golden {
    fn read(case: &'static str) -> Self {
        let path = "../sara-models/tests/golden/methods/golden.safetensors";
        Self { case, all: read_safetensors(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap() }
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<Train, D> {
        Tensor::from_data(self.all[&format!("{}.{name}", self.case)].clone(), &FlexDevice)
    }

    /// The tensors whose names begin so, without that.
    fn under(&self, start: &str) -> Tensors {
        let start = format!("{}.{start}.", self.case);
        let named = self.all.iter().filter_map(|(name, data)| Some((name.strip_prefix(&start)?, data)));
        named.map(|(name, data)| (name.to_owned(), data.clone())).collect()
    }

    fn linear(&self, site: Site) -> Linear<Train> {
        let (weight, bias) = (self.tensor(&format!("{site}.weight")), self.tensor(&format!("{site}.bias")));
        Linear { weight: state(weight), bias: Some(state(bias)) }
    }

    fn is_near(&self, name: &str, found: &[f64]) {
        let expected: Vec<f64> = self.all[&format!("{}.{name}", self.case)].iter::<f64>().collect();
        let largest = expected.iter().fold(1.0, |largest: f64, value| largest.max(value.abs()));
        let error = distance(found, &expected) / largest;
        assert!(error < ROUNDING, "{} {name}: off by {error}", self.case);
    }
}

fn check(case: &'static str, method: &MethodConfig, plan: &RankPlan) {
    let golden = Golden::read(case);
    let x = golden.tensor::<3>("x");
    let mut adapter: AnyAdapter<Train> = method.init(SHAPE, plan, Seed(0), &FlexDevice).unwrap();
    let paths: Vec<String> = collect(&adapter).into_keys().collect();
    let variant = paths[0].split('.').next().unwrap().to_owned();
    let native = |path: &str| path.strip_prefix(&format!("{variant}.")).unwrap().to_owned();
    let state = |step: usize| -> Tensors {
        let state = golden.under(&format!("step{step}.state")).into_iter();
        state.map(|(path, data)| (format!("{variant}.{path}"), data)).collect()
    };
    // Gates are decided, as in evaluation; everything else is the same in both.
    let pass = |step| match method {
        MethodConfig::BayesianLora(_) => Pass::evaluation(),
        _ => Pass::training(Noise { step, ..Noise::default() }).recording(),
    };
    for step in 0..3 {
        // Each step from the reference's own state: differences of rounding do not add up.
        adapter = restore(adapter, &state(step), "golden").unwrap();
        let (progress, pass) = (Progress { step, total: TOTAL }, pass(step));
        let mut hidden = x.clone();
        for target in linears() {
            let site = target.site;
            hidden = adapter.project(site, &golden.linear(site), hidden, &pass);
            if site.role == Role::Query {
                hidden = hidden.tanh();
            }
            golden.is_near(&format!("step{step}.out.{site}"), &values(hidden.clone()));
            if golden.all.contains_key(&format!("{case}.step{step}.delta.{site}")) {
                let delta = adapter.delta(site, &golden.linear(site)).unwrap();
                let change = match delta {
                    Some(delta) => values(delta.weight.dense()),
                    // Inactive: no change.
                    None => vec![0.0; target.d_in * target.d_out],
                };
                golden.is_near(&format!("step{step}.delta.{site}"), &change);
            }
        }
        let loss = hidden.powi_scalar(2).mean();
        let penalty = adapter.penalty(progress);
        let losses: Vec<f64> = golden.all[&format!("{case}.losses")].iter::<f64>().collect();
        let (expected_loss, expected_penalty) = (losses[2 * step], losses[2 * step + 1]);
        assert!((values(loss.clone())[0] - expected_loss).abs() < ROUNDING * expected_loss.max(1.0));
        let found = penalty.clone().map_or(0.0, |penalty| values(penalty)[0]);
        assert!((found - expected_penalty).abs() < ROUNDING * expected_penalty.max(1.0), "{case}: {found}");
        let whole = match penalty {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        let grads = GradientsParams::from_grads(whole.backward(), &adapter);
        let by_path = gradients(&adapter, &grads);
        assert_eq!(by_path.len(), golden.under(&format!("step{step}.gradient")).len(), "{case}");
        for (path, gradient) in &by_path {
            golden.is_near(&format!("step{step}.gradient.{}", native(path)), gradient);
        }
        adapter = SgdConfig::new().init().step(RATE, adapter, grads);
        adapter = adapter.after_step(&GradientsParams::new(), &pass.into_seen().inner(), progress);
        for (path, data) in collect(&adapter) {
            let found: Vec<f64> = data.iter::<f64>().collect();
            golden.is_near(&format!("step{}.state.{}", step + 1, native(&path)), &found);
        }
    }
}

fn branch() -> BranchConfig {
    BranchConfig { alpha: 5.0, ..BranchConfig::default() }
}

/// All sites, or those of one role, at the rank that the method plans.
fn planned(method: &MethodConfig, role: Option<Role>) -> RankPlan {
    let targets: Vec<Target> =
        linears().into_iter().filter(|target| role.is_none_or(|role| target.site.role == role)).collect();
    method.plan::<Flex>(SHAPE, &targets, &mut NoWeights).unwrap()
}

#[test]
fn prilora_equals_its_equations() {
    let config = PriloraConfig {
        first_rank: 1,
        last_rank: 3,
        prune_every: 2,
        branch: branch(),
        ..PriloraConfig::default()
    };
    let matrix = PriloraConfig { group: Group::Matrix, ..config.clone() };
    for (case, config) in [("prilora", config), ("prilora_matrix", matrix)] {
        let method = MethodConfig::Prilora(config);
        check(case, &method, &planned(&method, None));
    }
}

#[test]
fn melora_equals_its_equations() {
    let method = MethodConfig::Melora(MeloraConfig { minis: 2, rank: 3, branch: branch() });
    check("melora", &method, &planned(&method, None));
}

#[test]
fn lorta_equals_its_equations() {
    let config = LortaConfig { rank: 3, alpha: 5.0, ..LortaConfig::default() };
    let input = LortaConfig { head_axis: HeadAxis::Input, ..config.clone() };
    for (case, config, role) in [("lorta", config, Role::Query), ("lorta_input", input, Role::Output)] {
        let method = MethodConfig::Lorta(config);
        check(case, &method, &planned(&method, Some(role)));
    }
}

#[test]
fn taps_equals_its_equations() {
    let config = TapsConfig { strength: 2.0, ..TapsConfig::default() };
    let method = MethodConfig::Taps(config);
    check("taps", &method, &planned(&method, None));
}

#[test]
fn mo_sara_equals_its_equations() {
    let sites = linears().into_iter().map(|target| Planned { target, rank: 4, alpha: None });
    let plan = RankPlan { sites: sites.collect() };
    let config = MoSaraConfig { experts: 3, router_hidden: 2, ..MoSaraConfig::default() };
    let input = MoSaraConfig { router_input: RouterInput::Input, ..config.clone() };
    let one = MoSaraConfig { experts: 1, ..config.clone() };
    for (case, config) in [("mo_sara", config), ("mo_sara_input", input), ("mo_sara_one", one)] {
        check(case, &MethodConfig::MoSara(config), &plan);
    }
}

#[test]
fn bayesian_lora_equals_its_equations() {
    let config =
        BayesianLoraConfig { rank: 3, strength: 0.01, branch: branch(), ..BayesianLoraConfig::default() };
    let weights = BayesianLoraConfig { quantize_base: false, quantize_activations: false, ..config.clone() };
    for (case, config) in [("bayesian_lora", config), ("bayesian_lora_weights", weights)] {
        let method = MethodConfig::BayesianLora(config);
        check(case, &method, &planned(&method, None));
    }
}
