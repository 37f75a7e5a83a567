//! SARA against its equations in torch: outputs, changes and gradients of three steps of plain descent, in full.

use std::path::Path;

use burn::module::{AutodiffModule, Param};
use burn::nn::Linear;
use burn::optim::{GradientsParams, Optimizer, SgdConfig};
use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::low_rank::{BranchConfig, Scaling};
use sara_core::methods::sara::SaraConfig;
use sara_core::parameters::{Tensors, collect, restore};
use sara_core::store::read_safetensors;
use sara_core::{
    Adapter, AnyAdapter, MethodConfig, ModelShape, Pass, Planned, RankPlan, Role, Seed, Site, Target,
};

use crate::noise::gradients;
use crate::tiny::{distance, values};

type Train = Autodiff<Flex>;

const QUERY: Site = Site { layer: 0, role: Role::Query };
const DOWN: Site = Site { layer: 0, role: Role::Down };
const SHAPE: ModelShape = ModelShape { n_layers: 1, n_heads: 1, n_kv_heads: 1, head_dim: 5 };
/// Sums of at most 48 products of values up to ten, in f32.
const ROUNDING: f64 = 1e-5;
const RATE: f64 = 0.05;

fn adapter(scaling: Scaling) -> AnyAdapter<Train> {
    let planned = |site: Site, d_in, d_out, rank| Planned {
        target: Target { site, name: site.to_string(), d_in, d_out },
        rank,
        alpha: None,
    };
    let plan = RankPlan { sites: vec![planned(QUERY, 6, 5, 3), planned(DOWN, 5, 6, 2)] };
    let branch = BranchConfig { alpha: 5.0, scaling, ..BranchConfig::default() };
    let config = SaraConfig { branch, ..SaraConfig::default() };
    MethodConfig::Sara(config).init(SHAPE, &plan, Seed(0), &FlexDevice).unwrap()
}

fn check(case: &str, scaling: Scaling) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../sara-models/tests/golden/sara/golden.safetensors");
    let golden = read_safetensors(&path).unwrap();
    let golden = |name: &str| golden[&format!("{case}.{name}")].clone();
    let expected = |name: &str| golden(name).iter::<f64>().collect::<Vec<f64>>();
    let linear = |site: Site| Linear::<Train> {
        weight: Param::from_tensor(Tensor::from_data(golden(&format!("{site}.weight")), &FlexDevice)),
        bias: Some(Param::from_tensor(Tensor::from_data(golden(&format!("{site}.bias")), &FlexDevice))),
    };
    let (query, down) = (linear(QUERY), linear(DOWN));
    let x = Tensor::<Train, 3>::from_data(golden("x"), &FlexDevice);

    let mut adapter = adapter(scaling);
    let first: Tensors =
        collect(&adapter).into_keys().map(|path| (path.clone(), golden(&step_path(0, &path)))).collect();
    adapter = restore(adapter, &first, "golden").unwrap();
    for step in 0..3 {
        let near = |found: &[f64], name: &str| {
            let error = distance(found, &expected(&format!("step{step}.{name}")));
            assert!(error < ROUNDING, "step {step}, {name}: {error}");
        };
        for (path, data) in collect(&adapter) {
            let found: Vec<f64> = data.iter::<f64>().collect();
            near(&found, step_path(step, &path).split_once('.').unwrap().1);
        }
        let pass = Pass::evaluation();
        let middle = adapter.project(QUERY, &query, x.clone(), &pass);
        let out = adapter.project(DOWN, &down, middle.clone().tanh(), &pass);
        near(&values(middle), "query");
        near(&values(out.clone()), "out");
        let deltas = adapter.valid();
        for (site, base) in [(QUERY, &query), (DOWN, &down)] {
            let base = Linear::<Flex> { weight: base.weight.valid(), bias: None };
            let delta = deltas.delta(site, &base).unwrap().unwrap();
            near(&values(delta.weight.dense()), &format!("{site}.delta"));
        }
        let loss = out.powi_scalar(2).mean();
        let grads = GradientsParams::from_grads(loss.backward(), &adapter);
        for (path, gradient) in gradients(&adapter, &grads) {
            near(&gradient, &format!("{}.gradient", step_path(step, &path).split_once('.').unwrap().1));
        }
        adapter = SgdConfig::new().init().step(RATE, adapter, grads);
    }
}

/// `Sara.layers.0-query.down` as the generator calls it.
fn step_path(step: usize, path: &str) -> String {
    format!("step{step}.{}", path.strip_prefix("Sara.layers.").unwrap())
}

#[test]
fn three_steps_with_alpha_over_rank() {
    check("rank", Scaling::Rank);
}

#[test]
fn three_steps_with_alpha_over_the_root_of_the_rank() {
    check("root_rank", Scaling::RootRank);
}
