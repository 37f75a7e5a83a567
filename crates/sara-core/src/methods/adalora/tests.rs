//! The allocation by hand and against PEFT's own run.

use std::path::Path;

use burn::tensor::{DType, Int};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};

use super::*;
use crate::delta::Change;
use crate::parameters::Tensors;
use crate::site::Role;
use crate::store::read_safetensors;

type Train = Autodiff<Flex>;

const SHAPE: ModelShape = ModelShape { n_layers: 2, n_heads: 1, n_kv_heads: 1, head_dim: 4 };
/// The golden run's phases: 60 steps, from 6 ranks a site to 2.
const STEPS: usize = 60;

fn golden_config() -> AdaloraConfig {
    AdaloraConfig {
        initial_rank: 6,
        target_rank: 2,
        initial_steps: Some(10),
        final_steps: Some(20),
        interval: Some(3),
        ..AdaloraConfig::default()
    }
}

/// An adapter of the golden run's eight sites.
fn adapter() -> Adalora<Train> {
    let roles = [Role::Query, Role::Key, Role::Value, Role::Output];
    let target = |layer, role| Target {
        site: Site { layer, role },
        name: format!("layer.{layer}.{role}"),
        d_in: 8,
        d_out: 7,
    };
    let targets: Vec<Target> = (0..2).flat_map(|layer| roles.map(|role| target(layer, role))).collect();
    let plan = RankPlan::constant(&targets, 6).unwrap();
    golden_config().init(SHAPE, &plan, Seed(1), &FlexDevice).unwrap()
}

fn golden() -> Tensors {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    read_safetensors(&root.join("../sara-models/tests/golden/training-adalora/golden.safetensors")).unwrap()
}

fn whole(tensors: &Tensors, name: &str) -> Vec<usize> {
    tensors[name].clone().convert_dtype(DType::I64).iter::<i64>().map(|value| value as usize).collect()
}

fn kept(adapter: &Adalora<Train>) -> Vec<bool> {
    adapter.layers.iter().flat_map(|(_, layer)| host(layer.state.kept.val())).map(|kept| kept > 0.5).collect()
}

fn scale(layer: &AdaloraLayer<Train>) -> Tensor<Train, 1> {
    layer.branch.scale.as_ref().unwrap().val()
}

fn with_scale(
    mut layer: AdaloraLayer<Train>,
    change: impl FnOnce(Tensor<Train, 1>) -> Tensor<Train, 1>,
) -> AdaloraLayer<Train> {
    layer.branch.scale = layer.branch.scale.map(|scale| edit(scale, change));
    layer
}

#[test]
fn the_budget_falls_by_the_cube() {
    let phases = Phases { initial: 4, last: 12, interval: 1 };
    let expected = [(0, 24), (4, 24), (5, 18), (6, 14), (8, 10), (10, 8), (11, 8), (12, 8), (99, 8)];
    for (step, budget) in expected {
        assert_eq!(phases.budget(step, 24, 8), budget, "step {step}");
    }
}

#[test]
fn phases_default_to_shares_of_the_run() {
    let phases = |config: AdaloraConfig, total| {
        let Phases { initial, last, interval } = config.phases(total);
        (initial, last, interval)
    };
    assert_eq!(phases(AdaloraConfig::default(), 200), (20, 100, 2));
    assert_eq!(phases(AdaloraConfig::default(), 7), (0, 4, 1));
    assert_eq!(phases(golden_config(), STEPS), (10, 40, 3));
    assert_eq!(phases(AdaloraConfig { interval: Some(0), ..golden_config() }, STEPS), (10, 40, 1));
}

#[test]
fn phases_must_fit_into_the_run() {
    let check = |initial, last, total| {
        AdaloraConfig { initial_steps: Some(initial), final_steps: Some(last), ..AdaloraConfig::default() }
            .check_steps(total)
    };
    check(10, 20, 60).unwrap();
    check(0, 1, 2).unwrap();
    for (initial, last, total) in [(10, 0, 60), (40, 20, 60), (10, 70, 60), (0, 1, 1), (0, 0, 0)] {
        let error = check(initial, last, total).unwrap_err().to_string();
        assert!(error.contains(&format!("possible in {total} steps")), "{error}");
    }
    AdaloraConfig::default().check_steps(2).unwrap();
    assert!(AdaloraConfig::default().check_steps(1).is_err());
    let plan = |target_rank| {
        let config = AdaloraConfig { target_rank, ..golden_config() };
        config.plan::<Flex>(SHAPE, &[], &mut crate::NoWeights)
    };
    assert!(plan(6).is_ok() && plan(0).is_err() && plan(7).is_err());
}

#[test]
fn masks_are_those_of_peft() {
    let golden = golden();
    let (budgets, steps) = (whole(&golden, "budgets"), whole(&golden, "mask_steps"));
    let zeroed: Vec<bool> = golden["zeroed"].to_vec().unwrap();
    let scores: Vec<f32> = golden["mask_scores"].to_vec().unwrap();
    for (scores, &step) in scores.chunks(48).zip(&steps) {
        let mut adapter = adapter();
        let mut of_site = scores.chunks(6);
        // The scores as they are: those of the factors are zero, and the uncertainty is one.
        adapter.layers = adapter.layers.map_sites(|_, mut layer| {
            let score = of_site.next().unwrap();
            let Importance { sensitivity, uncertainty } = layer.state.scale_importance;
            layer.state.scale_importance = Importance {
                sensitivity: edit(sensitivity, |_| Tensor::from_data(score, &FlexDevice)),
                uncertainty: edit(uncertainty, |old| old.ones_like()),
            };
            layer
        });
        adapter.layers = allocate(adapter.layers, budgets[step]);
        let dropped: Vec<bool> = kept(&adapter).iter().map(|kept| !kept).collect();
        assert_eq!(dropped, zeroed[48 * step..][..48], "step {step}");
    }
}

#[test]
fn exactly_the_budget_survives_a_tie() {
    let mut adapter = adapter();
    adapter.layers = allocate(adapter.layers, 10);
    let expected: Vec<bool> = (0..48).map(|component| component < 10).collect();
    assert_eq!(kept(&adapter), expected);
}

#[test]
fn the_scores_of_a_component_add_up() {
    let mut adapter = adapter();
    let site = Site { layer: 0, role: Role::Key };
    adapter.layers = adapter.layers.map_sites(|at, mut layer| {
        let mark = |importance: Importance<Train, 2>, values: Tensor<Train, 2>| Importance {
            sensitivity: edit(importance.sensitivity, |_| values),
            uncertainty: edit(importance.uncertainty, |old| old.ones_like()),
        };
        // Component 4 by its column of `down`, component 2 by its row of `up`: means, not sums.
        let component = |index: i32, dim: usize, size: usize, value: f64| {
            let hot =
                Tensor::<Train, 1, Int>::from_data([index], &FlexDevice).one_hot::<2>(6).float() * value;
            if dim == 1 { hot.repeat_dim(0, size) } else { hot.transpose().repeat_dim(1, size) }
        };
        if at == site {
            layer.state.down_importance = mark(layer.state.down_importance, component(4, 1, 8, 2.0));
            layer.state.up_importance = mark(layer.state.up_importance, component(2, 0, 7, 2.1));
        }
        layer
    });
    for (budget, survivors) in [(1, vec![8]), (2, vec![8, 10])] {
        adapter.layers = allocate(adapter.layers, budget);
        let kept = kept(&adapter);
        let found: Vec<usize> = (0..48).filter(|&component| kept[component]).collect();
        assert_eq!(found, survivors);
    }
}

#[test]
fn importance_is_smoothed_twice() {
    /// A handful of f32 products.
    const ROUNDING: f32 = 1e-6;
    let config = AdaloraConfig { beta1: 0.8, beta2: 0.6, ..AdaloraConfig::default() };
    let value = Param::from_tensor(Tensor::<Train, 1>::from_data([2.0f32, -3.0], &FlexDevice));
    let mut importance = Importance::<Train, 1>::zeros([2], &FlexDevice);
    let (mut sensitivity, mut uncertainty) = ([0f32; 2], [0f32; 2]);
    for slopes in [[0.5f32, 1.0], [-0.25, 0.0], [1.0, 2.0]] {
        let loss = (value.val() * Tensor::from_data(slopes, &FlexDevice)).sum();
        let mut grads = GradientsParams::new();
        grads.register(value.id, value.val().grad(&loss.backward()).unwrap());
        importance = importance.update(&value, &grads, &config);
        for (index, (weight, slope)) in [2.0f32, -3.0].into_iter().zip(slopes).enumerate() {
            let now = (weight * slope).abs();
            sensitivity[index] = 0.8 * sensitivity[index] + 0.2 * now;
            uncertainty[index] = 0.6 * uncertainty[index] + 0.4 * (now - sensitivity[index]).abs();
        }
        let scores = host(importance.score());
        for index in 0..2 {
            let expected = sensitivity[index] * uncertainty[index];
            assert!((scores[index] - expected).abs() < ROUNDING, "{scores:?}, {expected}");
        }
    }
}

#[test]
fn masking_follows_the_phases_of_peft() {
    let golden = golden();
    let (budgets, mask_steps) = (whole(&golden, "budgets"), whole(&golden, "mask_steps"));
    let mut adapter = adapter();
    for (step, &budget) in budgets.iter().enumerate() {
        adapter.layers = adapter.layers.map_sites(|_, layer| with_scale(layer, |scale| scale.ones_like()));
        let loss = adapter
            .layers
            .iter()
            .map(|(_, layer)| {
                let branch = &layer.branch;
                branch.down.val().sum() + scale(layer).sum() + branch.up.val().sum()
            })
            .reduce(|sum, term| sum + term)
            .unwrap();
        let grads = GradientsParams::from_grads(loss.backward(), &adapter);
        adapter = adapter.after_step(&grads, &Seen::default(), Progress { step, total: STEPS });
        let scales = adapter.layers.iter().flat_map(|(_, layer)| host(scale(layer)));
        let alive = scales.filter(|&scale| scale != 0.0).count();
        let masked = mask_steps.contains(&step) || step >= 40;
        assert_eq!(alive, if masked { budget } else { 48 }, "step {step}");
    }
    let ranks: usize = adapter.report().iter().map(|figure| figure.value as usize).sum();
    assert_eq!(ranks, 16);
}

#[test]
fn components_without_scale_are_no_change() {
    let mut adapter = adapter();
    let base = burn::nn::LinearConfig::new(8, 7).init(&FlexDevice);
    let rank = |adapter: &Adalora<Train>, site| match adapter.delta(site, &base).unwrap().unwrap().weight {
        Change::LowRank { down, up } => {
            assert_eq!((down.dims()[0], up.dims()[1]), (8, 7));
            assert_eq!(down.dims()[1], up.dims()[0]);
            up.dims()[0]
        }
        Change::Dense(_) => usize::MAX,
    };
    let site = Site { layer: 1, role: Role::Value };
    assert_eq!(rank(&adapter, site), 0);
    let values = [0.0f32, 2.0, 0.0, -1.0, 0.0, 3.0];
    adapter.layers =
        adapter.layers.map_sites(|_, layer| with_scale(layer, |_| Tensor::from_data(values, &FlexDevice)));
    assert_eq!(rank(&adapter, site), 3);
}
