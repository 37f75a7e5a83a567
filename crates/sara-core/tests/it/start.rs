//! The first values of each method, as its documentation states them.

use burn::tensor::TensorData;
use burn_flex::{Flex, FlexDevice};
use sara_core::methods::adalora::AdaloraConfig;
use sara_core::methods::lora::LoraConfig;
use sara_core::methods::sara::{SaraConfig, SaraStart};
use sara_core::parameters::{Tensors, collect};
use sara_core::{MethodConfig, ModelShape, Planned, RankPlan, Role, Seed, Site, Target};

/// So many that a wrong deviation cannot pass, and not square.
const D_IN: usize = 400;
const D_OUT: usize = 100;
const RANK: usize = 40;
const SHAPE: ModelShape = ModelShape { n_layers: 1, n_heads: 1, n_kv_heads: 1, head_dim: D_IN };
const SITE: Site = Site { layer: 0, role: Role::Up };

fn start(method: &MethodConfig) -> (String, Tensors) {
    let target = Target { site: SITE, name: "up".into(), d_in: D_IN, d_out: D_OUT };
    let plan = RankPlan { sites: vec![Planned { target, rank: RANK, alpha: None }] };
    let adapter = method.init::<Flex>(SHAPE, &plan, Seed(7), &FlexDevice).unwrap();
    let name = serde_json::to_value(method).unwrap().as_object().unwrap().keys().next().unwrap().clone();
    let prefix = format!("{}{}.layers.0-up", name[..1].to_uppercase(), &name[1..]);
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

/// Five deviations of an estimate from the smallest factor, of 4,000 values.
const SAMPLING: f64 = 0.08;

fn is_uniform(data: &TensorData, bound: f64) {
    let (mean, deviation, largest) = moments(data);
    assert!(mean.abs() < SAMPLING && (deviation / (bound / 3f64.sqrt()) - 1.0).abs() < SAMPLING);
    assert!(largest <= bound && largest > 0.99 * bound, "{largest} of {bound}");
}

fn is_normal(data: &TensorData, deviation: f64) {
    let (mean, found, largest) = moments(data);
    assert!(mean.abs() < SAMPLING && (found / deviation - 1.0).abs() < SAMPLING, "{found} for {deviation}");
    // No uniform draw reaches so far.
    assert!(largest > 2.5 * deviation, "{largest} of {deviation}");
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
