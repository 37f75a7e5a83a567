//! The first values of each method, as its documentation states them.

use burn::tensor::TensorData;
use burn_flex::{Flex, FlexDevice};
use sara_core::methods::adalora::AdaloraConfig;
use sara_core::methods::bayesian_lora::BayesianLoraConfig;
use sara_core::methods::lora::LoraConfig;
use sara_core::methods::lorta::LortaConfig;
use sara_core::methods::melora::MeloraConfig;
use sara_core::methods::mo_sara::MoSaraConfig;
use sara_core::methods::prilora::PriloraConfig;
use sara_core::methods::sara::{SaraConfig, SaraStart};
use sara_core::methods::taps::TapsConfig;
use sara_core::parameters::{Tensors, collect};
use sara_core::{MethodConfig, ModelShape, Planned, RankPlan, Role, Seed, Site, Target};

/// So many that a wrong deviation cannot pass, and not square.
const D_IN: usize = 400;
const D_OUT: usize = 100;
const RANK: usize = 40;
const SHAPE: ModelShape = ModelShape { n_layers: 1, n_heads: 4, n_kv_heads: 4, head_dim: D_OUT / 4 };
const SITE: Site = Site { layer: 0, role: Role::Query };

fn start(method: &MethodConfig) -> (String, Tensors) {
    let target = Target { site: SITE, name: "query".into(), d_in: D_IN, d_out: D_OUT };
    let plan = RankPlan { sites: vec![Planned { target, rank: RANK, alpha: None }] };
    let adapter = method.init::<Flex>(SHAPE, &plan, Seed(7), &FlexDevice).unwrap();
    let words = method.name().split('_').map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]));
    let prefix = format!("{}.layers.{SITE}", words.collect::<String>());
    (prefix, collect(&adapter))
}

fn moments(data: &TensorData) -> (f64, f64, f64) {
    let values: Vec<f64> = data.iter::<f64>().collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    let largest = values.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
    (mean / deviation, deviation, largest)
}

/// From so many values on, a normal draw reaches 2.5 deviations.
const MANY: usize = 1000;

/// Five deviations of an estimate from so many values: 0.08 from the smallest factor's 4,000.
fn sampling(data: &TensorData) -> f64 {
    5.0 / (data.num_elements() as f64).sqrt()
}

fn is_uniform(data: &TensorData, bound: f64) {
    let (mean, deviation, largest) = moments(data);
    let sampling = sampling(data);
    let found = deviation / (bound / 3f64.sqrt());
    assert!(mean.abs() < sampling && (found - 1.0).abs() < sampling, "{found}, mean {mean}");
    // `n` draws leave out the last 10 / n of their range once in e^10 times.
    let last = (10.0 / data.num_elements() as f64).min(1.0);
    assert!(largest <= bound && largest > bound * (1.0 - last), "{largest} of {bound}");
}

fn is_normal(data: &TensorData, deviation: f64) {
    let (mean, found, largest) = moments(data);
    let sampling = sampling(data);
    assert!(mean.abs() < sampling && (found / deviation - 1.0).abs() < sampling, "{found} for {deviation}");
    // A uniform draw of this deviation ends at its 1.74-fold.
    let reach = if data.num_elements() < MANY { 1.74 } else { 2.5 };
    assert!(largest > reach * deviation, "{largest} of {deviation}");
}

fn is_all(data: &TensorData, value: f64) {
    let expected = vec![value; data.num_elements()];
    assert_eq!(data.iter::<f64>().collect::<Vec<_>>(), expected);
}

#[test]
fn lora_is_uniform_and_zero() {
    let (prefix, state) = start(&MethodConfig::Lora(LoraConfig::default()));
    is_uniform(&state[&format!("{prefix}.down")], 1.0 / (D_IN as f64).sqrt());
    is_all(&state[&format!("{prefix}.up")], 0.0);
    assert_eq!(state.len(), 2);
}

#[test]
fn sara_starts_from_zero_up_or_zero_scale() {
    let (prefix, state) = start(&MethodConfig::Sara(SaraConfig::default()));
    is_uniform(&state[&format!("{prefix}.down")], 1.0 / (D_IN as f64).sqrt());
    is_all(&state[&format!("{prefix}.scale")], 1.0);
    is_all(&state[&format!("{prefix}.up")], 0.0);

    let config = SaraConfig { start: SaraStart::ZeroScale, ..SaraConfig::default() };
    let (prefix, state) = start(&MethodConfig::Sara(config));
    is_normal(&state[&format!("{prefix}.down")], 1.0 / (D_IN as f64).sqrt());
    is_all(&state[&format!("{prefix}.scale")], 0.0);
    is_normal(&state[&format!("{prefix}.up")], 1.0 / (D_OUT as f64).sqrt());
    assert_eq!(state.len(), 3);
}

#[test]
fn adalora_is_normal_around_a_zero_scale() {
    const DEVIATION: f64 = 0.02;
    let (prefix, state) = start(&MethodConfig::Adalora(AdaloraConfig::default()));
    is_normal(&state[&format!("{prefix}.down")], DEVIATION);
    is_normal(&state[&format!("{prefix}.up")], DEVIATION);
    is_all(&state[&format!("{prefix}.scale")], 0.0);
    is_all(&state[&format!("{prefix}.kept")], 1.0);
    let importance = state.keys().filter(|path| path.contains("importance"));
    assert_eq!(importance.inspect(|path| is_all(&state[*path], 0.0)).count(), 6);
}

#[test]
fn mo_sara_is_normal_behind_a_zero_gain() {
    let (prefix, state) =
        start(&MethodConfig::MoSara(MoSaraConfig { router_hidden: 8, ..MoSaraConfig::default() }));
    is_normal(&state[&format!("{prefix}.scales")], 1.0);
    is_all(&state[&format!("{prefix}.gain")], 0.0);
    is_uniform(&state[&format!("{prefix}.router.hidden")], 1.0 / (RANK as f64).sqrt());
    is_uniform(&state[&format!("{prefix}.router.out")], 1.0 / 8f64.sqrt());
    assert_eq!(state.len(), 6, "and what comes from the weight");
}

#[test]
fn prilora_is_uniform_and_zero_and_has_seen_nothing() {
    let (prefix, state) = start(&MethodConfig::Prilora(PriloraConfig::default()));
    is_uniform(&state[&format!("{prefix}.down")], 1.0 / (D_IN as f64).sqrt());
    is_all(&state[&format!("{prefix}.up")], 0.0);
    is_all(&state[&format!("{prefix}.input_norm")], 0.0);
    assert_eq!(state.len(), 3);
}

#[test]
fn melora_is_uniform_by_the_width_of_a_slice_and_zero() {
    let (prefix, state) = start(&MethodConfig::Melora(MeloraConfig::default()));
    is_uniform(&state[&format!("{prefix}.down")], 1.0 / (D_IN as f64 / 4.0).sqrt());
    is_all(&state[&format!("{prefix}.up")], 0.0);
    assert_eq!(state.len(), 2);
}

#[test]
fn bayesian_lora_is_normal_with_every_gate_open() {
    let (prefix, state) = start(&MethodConfig::BayesianLora(BayesianLoraConfig::default()));
    is_normal(&state[&format!("{prefix}.down")], 0.02);
    is_normal(&state[&format!("{prefix}.scale")], 1.0);
    is_normal(&state[&format!("{prefix}.up")], 0.02);
    is_all(&state[&format!("{prefix}.rank_gates")], 6.0);
    let gates = state.keys().filter(|path| path.contains(".gates"));
    assert_eq!(gates.inspect(|path| is_all(&state[*path], 2.0)).count(), 9);
    // Results have no range before they were seen; nor has the base before it was given.
    for (path, range) in state.iter().filter(|(path, _)| path.contains(".range")) {
        let is_of_factor =
            ["down", "scale", "up"].iter().any(|name| path.ends_with(&format!(".{name}.range")));
        let values: Vec<f64> = range.iter::<f64>().collect();
        assert_eq!(is_of_factor, values[0] < 0.0 && values[1] > 0.0, "{path}: {values:?}");
    }
}

#[test]
fn lorta_is_uniform_around_a_zero_head_width() {
    let config = LortaConfig { rank: RANK, init_scale: 0.5, ..LortaConfig::default() };
    let (_, state) = start(&MethodConfig::Lorta(config));
    is_uniform(&state["Lorta.width"], 1.0 / (RANK as f64).sqrt());
    is_all(&state["Lorta.head_width"], 0.0);
    let bound = (6.0 / ((1.0 + 5.0 * 0.25) * RANK as f64)).sqrt();
    is_uniform(&state["Lorta.heads"], bound);
    for name in ["layers", "roles"] {
        let (_, _, largest) = moments(&state[&format!("Lorta.{name}")]);
        assert!(largest <= bound && largest > 0.5 * bound, "{name}: {largest} of {bound}");
    }
    assert_eq!(state.len(), 5);
}

#[test]
fn taps_is_zero_with_an_open_gate() {
    let (prefix, state) = start(&MethodConfig::Taps(TapsConfig::default()));
    is_all(&state[&format!("{prefix}.delta")], 0.0);
    is_all(&state[&format!("{prefix}.score")], f64::from(0.15f32));
    assert_eq!(state.len(), 2);
}
