//! Adapters that PEFT itself trained and saved: the imported change of each site against the raw tensors.

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use sara_core::import::peft::{ImportedPeft, import};
use sara_core::low_rank::BranchConfig;
use sara_core::methods::adalora::AdaloraConfig;
use sara_core::parameters::{Tensors, collect, restore};
use sara_core::store::read_safetensors;
use sara_core::{
    Adapter, Error, MethodConfig, ModelShape, NoWeights, Progress, RankPlan, Role, Seed, Site, Target,
};

use crate::import::product;
use crate::tiny::{distance, values};

/// Sums of at most six products in f32, of changes around one.
const ROUNDING: f64 = 5e-6;
const SHAPE: ModelShape = ModelShape { n_layers: 2, n_heads: 4, n_kv_heads: 4, head_dim: 8 };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sara-models/tests/golden").join(name)
}

/// The linear layers of the fixtures' encoders: width 32, 48 inside.
fn linears(model: &str) -> Vec<Target> {
    let roles = [
        (Role::Query, "attention.self.query", 32, 32),
        (Role::Key, "attention.self.key", 32, 32),
        (Role::Value, "attention.self.value", 32, 32),
        (Role::Output, "attention.output.dense", 32, 32),
        (Role::Up, "intermediate.dense", 32, 48),
        (Role::Down, "output.dense", 48, 32),
    ];
    (0..2)
        .flat_map(|layer| {
            roles.map(|(role, name, d_in, d_out)| Target {
                site: Site { layer, role },
                name: format!("{model}.encoder.layer.{layer}.{name}"),
                d_in,
                d_out,
            })
        })
        .collect()
}

fn imported(name: &str, model: &str) -> Result<ImportedPeft, Error> {
    import(&fixture(name), &linears(model), SHAPE)
}

/// Checks the change of every site; `scale` is PEFT's, by the path of a module and its rank.
fn check(name: &str, model: &str, suffix: &str, scale: impl Fn(&str, usize) -> f64) -> ImportedPeft {
    let imported = imported(name, model).unwrap();
    let tensors = read_safetensors(&fixture(name).join("adapter_model.safetensors")).unwrap();
    let adapter = imported.stored.build::<Flex>(&mut NoWeights, &FlexDevice).unwrap();
    let mut used = imported.head.len();
    for Target { site, name, d_in, d_out } in linears(model) {
        let factor = |letter: &str| tensors.get(&format!("base_model.model.{name}.lora_{letter}{suffix}"));
        let weight = Param::from_tensor(Tensor::zeros([d_in, d_out], &FlexDevice));
        let delta = adapter.delta(site, &Linear { weight, bias: None }).unwrap();
        let (Some(a), Some(b)) = (factor("A"), factor("B")) else {
            assert!(delta.is_none(), "{name}");
            continue;
        };
        used += 2 + usize::from(suffix.is_empty());
        let rank = a.shape[0];
        if rank == 0 {
            assert!(delta.is_none(), "{name}");
            continue;
        }
        let a = match factor("E") {
            Some(e) => scaled(a, e),
            None => a.clone(),
        };
        let expected = product(&a, b, scale(&name, rank));
        let size = expected.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
        assert!(size > 1e-3, "{name}: untrained");
        let error = distance(&values(delta.unwrap().weight.dense()), &expected);
        assert!(error < ROUNDING * size.max(1.0), "{name}: {error}");
    }
    assert_eq!(used, tensors.len());
    imported
}

/// Row `r` of `a` times element `r` of `e`.
fn scaled(a: &TensorData, e: &TensorData) -> TensorData {
    let e: Vec<f64> = e.iter::<f64>().collect();
    let values: Vec<f64> =
        a.iter::<f64>().enumerate().map(|(index, value)| value * e[index / a.shape[1]]).collect();
    TensorData::new(values, a.shape.clone())
}

#[test]
fn lora_with_patterns() {
    let imported = check("peft-lora-patterns", "roberta", ".weight", |name, rank| {
        let alpha = match name {
            "roberta.encoder.layer.0.attention.self.query" => 7.0,
            "roberta.encoder.layer.1.attention.self.query" => 10.0,
            _ if name.ends_with("value") => 5.0,
            _ => 6.0,
        };
        alpha / rank as f64
    });
    let ranks: Vec<usize> = imported.stored.manifest.plan.sites.iter().map(|site| site.rank).collect();
    assert_eq!(ranks, [2, 3, 4, 4, 4, 4, 3, 4, 5, 4]);
    let head: Vec<&str> = imported.head.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        head,
        [
            "classifier.dense.bias",
            "classifier.dense.weight",
            "classifier.out_proj.bias",
            "classifier.out_proj.weight"
        ]
    );
    assert_eq!(imported.stored.manifest.head, ["classifier"]);
    assert_eq!(imported.notes, Vec::<String>::new());
}

#[test]
fn rank_stabilised_lora() {
    check("peft-lora-rs", "bert", ".weight", |_, rank| 4.0 / (rank as f64).sqrt());
}

#[test]
fn lora_without_a_head() {
    let imported = check("peft-lora-headless", "roberta", ".weight", |_, rank| 10.0 / rank as f64);
    assert!(imported.head.is_empty() && imported.task_type.is_none());
}

#[test]
fn an_adapted_pooler_is_a_change_of_the_head() {
    let imported = imported("peft-lora-pooler", "bert").unwrap();
    let tensors = read_safetensors(&fixture("peft-lora-pooler/adapter_model.safetensors")).unwrap();
    let factor = |letter: &str| &tensors[&format!("base_model.model.bert.pooler.dense.lora_{letter}.weight")];
    let (a, b) = (factor("A"), factor("B"));
    // Alpha 4, stabilised by the root of the rank.
    let scale = 4.0 / (a.shape[0] as f64).sqrt();
    let [(path, change)] = &imported.head_changes[..] else { panic!("{:?}", imported.head_changes) };
    assert_eq!((path.as_str(), change.shape.as_slice()), ("bert.pooler.dense.weight", &[32, 32][..]));
    // `product` has the orientation of burn, a pair of PEFT that of torch.
    let expected = product(a, b, scale);
    let found: Vec<f64> = change.iter::<f64>().collect();
    let transposed: Vec<f64> = (0..32 * 32).map(|i| found[i % 32 * 32 + i / 32]).collect();
    assert!(expected.iter().any(|value| value.abs() > 1e-3));
    assert!(distance(&transposed, &expected) < ROUNDING, "{}", distance(&transposed, &expected));
}

#[test]
fn pruned_adalora() {
    for (name, has_empty_sites) in [("peft-adalora", false), ("peft-adalora-rank0", true)] {
        let imported = check(name, "roberta", "", |_, _| 8.0 / (6.0 + 1e-5));
        let told = imported.notes.iter().any(|note| note.contains("rank 0, not adapted"));
        assert_eq!(told, has_empty_sites, "{name}");
    }
}

#[test]
fn adalora_before_and_after_its_training() {
    check("training-adalora/final", "roberta", "", |_, _| 8.0 / (6.0 + 1e-5));
}

/// The first penalty of PEFT's run, from the parameters that it started with.
#[test]
fn penalty_of_adalora() {
    let golden = read_safetensors(&fixture("training-adalora/golden.safetensors")).unwrap();
    let mut targets = linears("roberta");
    targets.retain(|target| !matches!(target.site.role, Role::Up | Role::Down));
    let branch = BranchConfig { alpha: 8.0, ..BranchConfig::default() };
    let config = AdaloraConfig { initial_rank: 6, target_rank: 2, branch, ..AdaloraConfig::default() };
    let plan = RankPlan::constant(&targets, 6).unwrap();
    let adapter = MethodConfig::Adalora(config).init::<Flex>(SHAPE, &plan, Seed(0), &FlexDevice).unwrap();
    let mut state = collect(&adapter);
    for Target { site, name, d_in, d_out } in &targets {
        let factor = |letter: &str, rows: usize, columns: usize| {
            let values = &golden[&format!("step0.base_model.model.{name}.lora_{letter}")];
            let tensor = Tensor::<Flex, 2>::from_data(values.clone(), &FlexDevice);
            assert_eq!(tensor.dims(), [rows, columns]);
            tensor.transpose().into_data()
        };
        state.insert(format!("Adalora.layers.{site}.down"), factor("A", 6, *d_in));
        state.insert(format!("Adalora.layers.{site}.up"), factor("B", *d_out, 6));
    }
    let state: Tensors = state;
    let adapter = restore(adapter, &state, "golden").unwrap();
    let penalty = values(adapter.penalty(Progress { step: 0, total: 60 }).unwrap())[0];
    let expected = f64::from(golden["penalties"].to_vec::<f32>().unwrap()[0]);
    // Sums of 36 squares in f32.
    assert!((penalty / expected - 1.0).abs() < 1e-6, "{penalty}, {expected}");
}
