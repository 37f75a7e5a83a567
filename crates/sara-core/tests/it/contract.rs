//! What every method of the registry must hold, on every backend.

use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use sara_core::parameters::{collect, count_trained, restore, without_gradient};
use sara_core::{
    Adapter, AnyAdapter, Backbone, LayerOps, Manifest, MethodConfig, NoWeights, Noise, Pass, Progress, Seed,
    Seen, StoredAdapter, TrainOps, Trainable,
};
use sara_svd::SvdOps;

use crate::noise::{cast, gradients, noised};
use crate::tiny::{
    Case, D_MODEL, Dropout, First, Gradients, Merge, SHAPE, Start, Tiny, Weights, cases, distance, input,
    random, values,
};

/// Sums of at most six products of values around one, in f32, taken in another order.
const F32_ORDER: f64 = 2e-5;
/// More than any type's rounding takes from outputs of size one.
const NONSENSE: f64 = 0.5;
/// The least that counts as a change of an output of size one.
const MOVED: f64 = 1e-2;

macro_rules! contract {
    ($module:ident, $backend:ty: $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    for case in crate::tiny::cases() {
                        eprintln!("{}", case.name);
                        super::$test::<$backend>(&case);
                    }
                }
            )*
        }
    };
}

macro_rules! contract_on {
    ($module:ident, $backend:ty) => {
        contract!(
            $module, $backend:
            starts_where_it_says,
            moves_with_its_parameters,
            every_parameter_has_a_gradient,
            gradients_are_the_slopes,
            state_survives,
            dtypes_mix,
            merge_equals_project_or_is_refused,
            counts_as_the_formula_says,
            seeds_decide,
            rows_are_independent,
            dropout_acts_in_training_alone,
            stays_trainable_after_a_step,
        );
    };
}

contract_on!(flex, burn_autodiff::Autodiff<burn_flex::Flex>);
contract_on!(ndarray, burn_autodiff::Autodiff<burn_ndarray::NdArray>);
// Without finite differences, which say little in f32, and the laws that have nothing to do with a device: in software
// each new kernel takes a second to compile.
#[cfg(feature = "wgpu")]
contract!(
    wgpu, burn_autodiff::Autodiff<burn_wgpu::Wgpu<f32, i32>>:
    starts_where_it_says,
    moves_with_its_parameters,
    every_parameter_has_a_gradient,
    state_survives,
    dtypes_mix,
    merge_equals_project_or_is_refused,
    rows_are_independent,
    stays_trainable_after_a_step,
);

#[test]
fn the_table_has_every_method() {
    for name in MethodConfig::NAMES {
        assert!(cases().iter().any(|case| case.method.name() == *name), "{name}");
    }
}

fn starts_where_it_says<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input(&device));
    let adapted = backbone.forward(x.clone(), &case.init(1, &device), &Pass::evaluation());
    let (adapted, plain) = (values(adapted), values(backbone.plain(x)));
    match case.laws.start {
        // Exactly: the branch is a sum of zeros.
        Start::AtTheBackbone => assert_eq!(adapted, plain),
        Start::Elsewhere => assert!(distance(&adapted, &plain) > 0.0),
    }
}

fn moves_with_its_parameters<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input(&device));
    let adapter = noised(started::<B>(case, &device), 2);
    let adapted = backbone.forward(x.clone(), &adapter, &Pass::evaluation());
    assert!(distance(&values(adapted), &values(backbone.plain(x))) > MOVED);
}

/// An adapter that has seen its first step, where it takes something from that.
fn started<B: TrainOps + SvdOps>(case: &Case, device: &B::Device) -> AnyAdapter<B> {
    let adapter = case.init::<B>(1, device);
    if !adapter.records() {
        return adapter;
    }
    let _drawing = crate::pass::one_at_a_time();
    let pass = Pass::training(Noise::default()).recording();
    Tiny::<B>::new(device).forward(input(device), &adapter, &pass);
    let seen = pass.into_seen().inner();
    adapter.after_step(&GradientsParams::new(), &seen, Progress { step: 0, total: 10 })
}

/// A scalar that depends on every output and on the penalty.
fn loss<B: LayerOps>(backbone: &Tiny<B>, adapter: &impl Adapter<B>, x: Tensor<B, 3>) -> Tensor<B, 1> {
    let out = backbone.forward(x, adapter, &Pass::evaluation());
    let elements = out.shape().num_elements();
    let loss = out.powi_scalar(2).reshape([1, elements]).sum_dim(1).reshape([1]);
    match adapter.penalty(Progress { step: 3, total: 10 }) {
        Some(penalty) => loss + penalty,
        None => loss,
    }
}

fn every_parameter_has_a_gradient<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input(&device));
    let adapter = case.init::<B>(1, &device);
    let grads = GradientsParams::from_grads(loss(&backbone, &adapter, x.clone()).backward(), &adapter);
    assert_eq!(without_gradient(&adapter, &grads), Vec::<String>::new());

    let adapter = noised(adapter, 2);
    let mut all = loss(&backbone, &adapter, x).backward();
    assert!(GradientsParams::from_module(&mut all, &backbone).is_empty());
    let grads = GradientsParams::from_module(&mut all, &adapter);
    for (path, grad) in gradients(&adapter, &grads) {
        assert!(grad.iter().all(|&slope| slope != 0.0 && slope.is_finite()), "{path}: {grad:?}");
    }
}

/// The gradient of every single value against central differences.
///
/// A straight-through gradient is of another function than the loss: somewhere it must differ.
fn gradients_are_the_slopes<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    // In f64 the difference itself errs by the step squared times the third derivative and by its rounding over the step,
    // each about 1e-8; in f32 by its rounding over the step, 1e-2.
    let (dtype, step, tolerance) =
        if computes_in::<B>(DType::F64) { (DType::F64, 1e-6, 1e-7) } else { (DType::F32, 3e-2, 3e-2) };
    let backbone = Tiny::<B>::new(&device).cast(dtype);
    let x = input::<B>(&device).cast(dtype);
    let adapter = cast(noised(started::<B>(case, &device), 2), dtype);
    let grads = GradientsParams::from_grads(loss(&backbone, &adapter, x.clone()).backward(), &adapter);
    let grads = gradients(&adapter, &grads);
    assert_eq!(grads.values().map(Vec::len).sum::<usize>(), case.count);

    let state = collect(&adapter);
    let at = |path: &String, index: usize, change: f64| {
        let mut state = state.clone();
        let found = &state[path];
        let mut values: Vec<f64> = found.iter::<f64>().collect();
        values[index] += change;
        let moved = TensorData::new(values, found.shape.clone()).convert_dtype(dtype);
        state.insert(path.clone(), moved);
        value(&backbone, &restore(adapter.clone(), &state, "moved").unwrap(), &x)
    };
    let mut largest = 0f64;
    for (path, grad) in &grads {
        for (index, &slope) in grad.iter().enumerate() {
            let difference = (at(path, index, step) - at(path, index, -step)) / (2.0 * step);
            let error = (difference - slope).abs() / slope.abs().max(1.0);
            largest = largest.max(error);
            let exact = case.laws.gradients == Gradients::Exact;
            assert!(!exact || error < tolerance, "{path}[{index}]: slope {difference}, gradient {slope}");
        }
    }
    assert_eq!(largest < tolerance, case.laws.gradients == Gradients::Exact);
}

/// Whether the backend computes in `dtype`: some claim types whose results come out as nonsense, on layers without an
/// adapter too.
fn computes_in<B: LayerOps>(dtype: DType) -> bool {
    let device = B::Device::default();
    if B::dtype_usage(&device, dtype).is_empty() {
        return false;
    }
    let (backbone, x) = (Tiny::<B>::new(&device), input::<B>(&device));
    let expected = values(backbone.plain(x.clone()));
    let error = distance(&values(backbone.cast(dtype).plain(x.cast(dtype))), &expected);
    #[expect(clippy::print_stderr, reason = "a type that is not tested is named")]
    if error > NONSENSE {
        eprintln!(
            "not tested: {} claims {dtype:?}, and is off by {error} without an adapter",
            B::name(&device)
        );
    }
    error <= NONSENSE
}

fn value<B: TrainOps>(backbone: &Tiny<B>, adapter: &AnyAdapter<B>, x: &Tensor<B, 3>) -> f64 {
    values(loss(&backbone.valid(), &adapter.valid(), x.clone().inner()))[0]
}

fn stored<B: LayerOps>(case: &Case, adapter: &AnyAdapter<B>) -> StoredAdapter {
    let manifest = Manifest {
        format: sara_core::store::FORMAT,
        base: "tiny".into(),
        task: serde_json::json!({"kind": "classify", "classes": ["no", "yes"]}),
        head: vec!["classifier".into()],
        shape: SHAPE,
        method: case.method.clone(),
        plan: case.plan.clone(),
        base_fingerprint: None,
        frozen: None,
    };
    let head = [("out.weight".to_owned(), crate::tiny::data("head", [2, 3]))].into();
    StoredAdapter::new(manifest, adapter, head)
}

fn state_survives<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input(&device));
    let mut state = collect(&case.init::<B>(1, &device));
    // What is never trained too: AdaLoRA's importance, for example.
    for (path, data) in &mut state {
        let noise = random::<B, 1>(path, [data.num_elements()], &device).into_data();
        *data = TensorData::new(noise.to_vec::<f32>().unwrap(), data.shape.clone());
    }
    let adapter = restore(case.init::<B>(1, &device), &state, "noise").unwrap();
    assert_eq!(collect(&adapter), state);
    let before = values(backbone.forward(x.clone(), &adapter, &Pass::evaluation()));

    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("adapter");
    let written = stored(case, &adapter);
    written.write(&dir).unwrap();
    let read = StoredAdapter::read(&dir).unwrap();
    assert_eq!(read, written);
    let rebuilt = read.build::<B>(&mut NoWeights, &device).unwrap();
    assert_eq!(collect(&rebuilt), state);
    assert_eq!(count_trained(&rebuilt), case.count);
    assert_eq!(values(backbone.forward(x, &rebuilt, &Pass::evaluation())), before);
}

fn dtypes_mix<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let adapter = match case.laws.start {
        Start::AtTheBackbone => noised(started::<B>(case, &device), 2),
        // With all its gates open: a quantiser of two bits makes much of the last bit of a half.
        Start::Elsewhere => started::<B>(case, &device),
    };
    let x = input::<B>(&device);
    let expected = values(Tiny::<B>::new(&device).forward(x.clone(), &adapter, &Pass::evaluation()));
    // Outputs reach about 4: twenty roundings of the type, at its spacing there.
    for (dtype, tolerance) in [(DType::F64, F32_ORDER), (DType::F16, 4e-2), (DType::BF16, 3e-1)] {
        if !computes_in::<B>(dtype) {
            continue;
        }
        let backbone = Tiny::<B>::new(&device).cast(dtype);
        let out = backbone.forward(x.clone().cast(dtype), &adapter, &Pass::evaluation());
        assert_eq!(out.dtype(), dtype);
        let error = distance(&values(out), &expected);
        assert!(error < tolerance, "{dtype:?}: {error}");
    }
}

fn merge_equals_project_or_is_refused<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input(&device));
    let untrained = case.init::<B>(1, &device);
    if case.laws.merge == Merge::Refused {
        let refused = backbone.merge(&noised(untrained, 2));
        assert!(matches!(refused, Err(sara_core::Error::NotMergeable { .. })));
        return;
    }
    let nothing = matches!(backbone.clone().merge(&untrained), Err(sara_core::Error::NothingToMerge));
    assert_eq!(nothing, case.laws.start == Start::AtTheBackbone);

    let adapter = noised(untrained, 2);
    let adapted = values(backbone.forward(x.clone(), &adapter, &Pass::evaluation()));
    let (merged, norms) = backbone.clone().merge(&adapter).unwrap();
    assert_eq!(
        GradientsParams::from_grads(merged.plain(x.clone()).sum().require_grad().backward(), &merged).len(),
        0
    );
    let error = distance(&values(merged.plain(x)), &adapted);
    assert!(error < F32_ORDER, "{error}");
    let sites = backbone.linears().into_iter().zip(merged.linears());
    for ((site, before), (_, after)) in sites {
        let norm = norms.iter().find(|(at, _)| *at == site).map_or(0.0, |(_, norm)| *norm);
        let change = values(after.weight.val() - before.weight.val());
        let expected = change.iter().map(|value| value * value).sum::<f64>().sqrt();
        assert!((norm - expected).abs() < F32_ORDER, "{site}: {norm}, {expected}");
        assert_eq!(values(after.bias.as_ref().unwrap().val()), values(before.bias.as_ref().unwrap().val()));
    }
}

fn counts_as_the_formula_says<B: TrainOps + SvdOps>(case: &Case) {
    let adapter = case.init::<B>(1, &B::Device::default());
    assert_eq!(count_trained(&adapter), case.count);
    assert_eq!(case.method.count(SHAPE, &case.plan), case.count);
}

fn seeds_decide<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let state = |seed| collect(&case.init::<B>(seed, &device));
    assert_eq!(state(1), state(1));
    assert_eq!(state(1) == state(2), case.laws.first == First::Fixed);
}

fn rows_are_independent<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let backbone = Tiny::<B>::new(&device);
    let adapter = noised(started::<B>(case, &device), 2);
    let first: Tensor<B, 3> = random("first", [1, 4, D_MODEL], &device);
    let beside = |other: &str| {
        let batch = Tensor::cat(vec![first.clone(), random(other, [1, 4, D_MODEL], &device)], 0);
        let out = values(backbone.forward(batch, &adapter, &Pass::evaluation()));
        let (row, rest) = out.split_at(out.len() / 2);
        (row.to_vec(), rest.to_vec())
    };
    let ((row, rest), (again, other)) = (beside("second"), beside("third"));
    assert_eq!(row, again);
    assert_ne!(rest, other);
    let alone = values(backbone.forward(first.clone(), &adapter, &Pass::evaluation()));
    assert!(distance(&alone, &row) < F32_ORDER);
}

fn with_dropout(method: &MethodConfig, dropout: f64) -> serde_json::Result<MethodConfig> {
    let mut value = serde_json::to_value(method).unwrap();
    value[method.name()]["dropout"] = dropout.into();
    serde_json::from_value(value)
}

fn dropout_acts_in_training_alone<B: TrainOps + SvdOps>(case: &Case) {
    let _drawing = crate::pass::one_at_a_time();
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input::<B>(&device));
    if case.laws.dropout == Dropout::None {
        assert!(with_dropout(&case.method, 0.5).is_err());
        return;
    }
    for p in [1.0, -0.1, 1.5] {
        let refused = with_dropout(&case.method, p).unwrap().init::<B>(SHAPE, &case.plan, Seed(1), &device);
        let error = refused.unwrap_err().to_string();
        let expected = format!("{}.dropout: {p} is not a number from 0 to less than 1", case.method.name());
        assert_eq!(error, expected);
    }
    let adapter = |dropout| {
        let method = with_dropout(&case.method, dropout).unwrap();
        noised(method.start::<B>(SHAPE, &case.plan, Seed(1), &mut Weights, &device).unwrap(), 2)
    };
    let (wet, dry) = (adapter(0.5), adapter(0.0));
    let train = |adapter: &AnyAdapter<B>, step| {
        let noise = Noise { step, ..Noise::default() };
        values(backbone.forward(x.clone(), adapter, &Pass::training(noise)))
    };
    assert_eq!(train(&wet, 1), train(&wet, 1));
    assert!(distance(&train(&wet, 1), &train(&wet, 2)) > MOVED);
    assert!(distance(&train(&wet, 1), &train(&dry, 1)) > MOVED);
    let evaluate = |adapter: &AnyAdapter<B>| {
        let x = x.clone().inner();
        values(backbone.valid().forward(x, &adapter.valid(), &Pass::evaluation()))
    };
    assert_eq!(evaluate(&wet), evaluate(&dry));
}

fn stays_trainable_after_a_step<B: TrainOps + SvdOps>(case: &Case) {
    let device = B::Device::default();
    let (backbone, x) = (Tiny::<B>::new(&device), input(&device));
    let mut adapter = noised(started::<B>(case, &device), 2);
    for step in 0..10 {
        let grads = GradientsParams::from_grads(loss(&backbone, &adapter, x.clone()).backward(), &adapter);
        adapter = adapter.after_step(&grads, &Seen::default(), Progress { step, total: 10 });
        assert_eq!(count_trained(&adapter), case.count);
    }
    let grads = GradientsParams::from_grads(loss(&backbone, &adapter, x).backward(), &adapter);
    assert_eq!(without_gradient(&adapter, &grads), Vec::<String>::new());
}
