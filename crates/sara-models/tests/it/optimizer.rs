//! AdamW and clipping against torch, state against its own bits.

use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use burn_ndarray::NdArray;
use sara_models::Error;
use sara_models::train::optimizer::{AdamWConfig, Group, Optimizer, accumulate, loss_and_norm, scale};

type Cpu = Autodiff<Flex>;

fn group(under: &str, rate: f64, weight_decay: Option<f64>) -> Group {
    Group { under: under.into(), rate, weight_decay }
}

/// Clips as a step does, and returns the norm before.
fn clip(toy: &Toy<Cpu>, grads: &mut GradientsParams, max: f64) -> f64 {
    let (loss, norm) = loss_and_norm(toy, Tensor::from_floats([0.25], &FlexDevice), grads);
    assert_eq!(loss.to_bits(), 0.25f64.to_bits());
    scale(toy, grads, max, norm);
    norm
}

/// Torch's own implementations of AdamW differ by as much in f32, for parameters below 4.
const TORCH_SPREAD: f32 = 2.4e-7;

/// One rounding of f32, relative.
const F32_ROUNDING: f32 = 1.2e-7;

#[derive(Module, Debug)]
struct Toy<B: Backend> {
    weight: Param<Tensor<B, 2>>,
    bias: Param<Tensor<B, 1>>,
    frozen: Param<Tensor<B, 1>>,
}

impl<B: Backend> Toy<B> {
    fn new() -> Self {
        let device = B::Device::default();
        let weight = Tensor::from_data(WEIGHT, &device);
        let frozen = Tensor::from_data([5.0, 6.0], &device);
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(Tensor::from_data([1e-6, 2.0], &device)),
            frozen: Param::initialized(ParamId::new(), frozen.set_require_grad(false)),
        }
    }
}

const WEIGHT: [[f32; 3]; 5] = [
    [-1.75, -1.375, -1.25],
    [-0.875, -0.75, -0.375],
    [-0.25, 0.125, 0.25],
    [0.625, 0.75, 1.125],
    [1.25, 1.625, 1.75],
];
const RATES: [f64; 6] = [1e-2, 8e-3, 6e-3, 4e-3, 2e-3, 1e-3];
const DECAY: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };

/// `sin(0.7 (3 i + j) + 1.3 step) 10^((i + j) mod 3 - 1)`: three orders of magnitude, both signs.
fn gradient(step: usize) -> [[f32; 3]; 5] {
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let phase = 0.7 * (3 * i + j) as f64 + 1.3 * step as f64;
            (phase.sin() * 10f64.powi(((i + j) % 3) as i32 - 1)) as f32
        })
    })
}

fn grads<B: AutodiffBackend>(
    toy: &Toy<B>,
    weight: Option<[[f32; 3]; 5]>,
    bias: Option<[f32; 2]>,
) -> GradientsParams {
    let device = B::Device::default();
    let mut grads = GradientsParams::new();
    if let Some(weight) = weight {
        grads.register(toy.weight.id, Tensor::<B::InnerBackend, 2>::from_data(weight, &device));
    }
    if let Some(bias) = bias {
        grads.register(toy.bias.id, Tensor::<B::InnerBackend, 1>::from_data(bias, &device));
    }
    grads
}

fn values<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "element {at}: {found:e}, expected {expected:e}");
    }
}

fn train<B: AutodiffBackend>(rates: &[f64]) -> Vec<f32> {
    let mut toy = Toy::<B>::new();
    let mut optimizer = Optimizer::<B>::new(DECAY);
    for (step, &rate) in rates.iter().enumerate() {
        let grads = grads(&toy, Some(gradient(step)), None);
        toy = optimizer.step(rate, toy, &grads);
    }
    values(&toy.weight.val())
}

/// Against `torch.optim.AdamW` with the same gradients, rates and decay.
fn steps_equal_torch<B: AutodiffBackend>() {
    let six = [
        -1.756_067_9,
        -1.392_738_9,
        -1.264_149_7,
        -0.883_296_97,
        -0.749_200_76,
        -0.351_247_8,
        -0.228_934_57,
        0.139_524_67,
        0.255_257_3,
        0.601_499_4,
        0.725_741_86,
        1.103_624_2,
        1.235_341_3,
        1.618_636_4,
        1.767_176_5,
    ];
    assert_near(&train::<B>(&RATES), &six, TORCH_SPREAD);
    let two_hundred = [
        -1.452_847_5,
        -1.156_145,
        -1.046_740_7,
        -0.726_587_1,
        -0.607_644_74,
        -0.275_971_23,
        -0.176_991_06,
        0.119_800_575,
        0.206_205_5,
        0.483_051_9,
        0.583_576,
        0.897_799_25,
        1.013_434_9,
        1.336_993_3,
        1.463_699_5,
    ];
    assert_near(&train::<B>(&[1e-2; 200]), &two_hundred, TORCH_SPREAD);
}

#[test]
fn steps_equal_torch_on_flex() {
    steps_equal_torch::<Cpu>();
}

#[test]
fn steps_equal_torch_on_ndarray() {
    steps_equal_torch::<Autodiff<NdArray>>();
}

#[test]
fn epsilon_stands_outside_the_root_and_after_the_correction() {
    let toy = Toy::<Cpu>::new();
    let grads = grads(&toy, None, Some([1e-8, -1e-8]));
    let toy = Optimizer::new(AdamWConfig::default()).step(1e-2, toy, &grads);
    // Half the rate, to f32 rounding of the second value.
    assert_near(&values(&toy.bias.val()), &[1e-6 - 5e-3, 2.005], 2.0 * F32_ROUNDING);
}

#[test]
fn without_a_gradient_nothing_moves_and_decay_spares_the_named() {
    let toy = Toy::<Cpu>::new();
    let mut optimizer = Optimizer::new(DECAY).with_groups(vec![group("bias", 1.0, Some(0.0))]);
    let only_bias = grads(&toy, None, Some([0.0, 0.0]));
    let toy = optimizer.step(0.5, toy, &only_bias);
    assert_eq!(values(&toy.weight.val()), WEIGHT.concat());
    assert_eq!(values(&toy.bias.val()), [1e-6, 2.0]);
    assert_eq!(optimizer.state().keys().collect::<Vec<_>>(), ["bias/first", "bias/second", "bias/updates"]);

    let both = grads(&toy, Some([[0.0; 3]; 5]), Some([0.0, 0.0]));
    let toy = optimizer.step(0.5, toy, &both);
    assert_near(&values(&toy.weight.val())[..1], &[-1.75 * 0.95], F32_ROUNDING);
    assert_eq!(values(&toy.bias.val()), [1e-6, 2.0]);
}

#[test]
fn a_step_leaves_trained_leaves_and_frozen_values() {
    let toy = Toy::<Cpu>::new();
    let mut everything = grads(&toy, Some(gradient(0)), Some([1.0, 1.0]));
    everything.register(toy.frozen.id, Tensor::<Flex, 1>::ones([2], &FlexDevice));
    let id = toy.weight.id;
    let toy = Optimizer::new(DECAY).step(1e-2, toy, &everything);
    assert_eq!(values(&toy.frozen.val()), [5.0, 6.0]);
    assert!(!toy.frozen.is_require_grad());
    assert_eq!(toy.weight.id, id);
    let backward = (toy.weight.val() * 3.0).sum().backward();
    let again = GradientsParams::from_grads(backward, &toy);
    assert_eq!(values(&again.get::<Flex, 2>(id).expect("a gradient")), [3.0; 15]);
    assert_eq!(everything.len(), 3, "the gradients were only borrowed");
}

#[test]
fn a_resumed_optimizer_equals_an_uninterrupted_one_bit_for_bit() {
    let run = |stop: Option<usize>| {
        let mut toy = Toy::<Cpu>::new();
        let mut optimizer = Optimizer::new(DECAY);
        for (step, rate) in RATES.into_iter().enumerate() {
            if stop == Some(step) {
                let state = optimizer.state();
                assert_eq!(state["weight/first"].shape.as_slice(), [5, 3]);
                let mut fresh = Toy::new();
                fresh.weight = fresh.weight.map(|_| toy.weight.val().detach().require_grad());
                fresh.bias = fresh.bias.map(|_| toy.bias.val().detach().require_grad());
                toy = fresh;
                optimizer = Optimizer::new(DECAY);
                optimizer.restore(&toy, state).unwrap();
            }
            let grads = grads(&toy, Some(gradient(step)), Some([0.3, step as f32 - 2.0]));
            toy = optimizer.step(rate, toy, &grads);
        }
        (optimizer.state(), values(&toy.weight.val()), values(&toy.bias.val()))
    };
    assert_eq!(run(None), run(Some(3)));
}

#[test]
fn a_state_that_does_not_fit_is_refused_as_a_whole() {
    let toy = Toy::<Cpu>::new();
    let mut optimizer = Optimizer::new(DECAY);
    let both = grads(&toy, Some(gradient(0)), Some([1.0, 1.0]));
    let toy = optimizer.step(1e-2, toy, &both);
    let mut state = optimizer.state();
    let first = state.remove("weight/first").unwrap();
    state.insert("weights/first".into(), first.clone());
    state.insert("bias/second".into(), first);
    state.remove("bias/updates");
    let before = optimizer.state();
    let Error::OptimizerState { mismatches } = optimizer.restore(&toy, state).unwrap_err() else { panic!() };
    assert_eq!(mismatches.len(), 4, "{mismatches:?}");
    for name in
        ["weight/first: missing", "weights/first: unknown", "bias/second: expected", "bias/updates: missing"]
    {
        assert!(mismatches.iter().any(|line| line.starts_with(name)), "{name} is not in {mismatches:?}");
    }
    assert_eq!(optimizer.state(), before);
}

/// Norm 8.4410306 over both tensors.
const CLIPPED: ([[f32; 3]; 5], [f32; 2]) =
    ([[1.0, -2.0, 3.0], [4.0, 0.5, -1.0], [0.0; 3], [0.0; 3], [0.0; 3]], [2.0, -6.0]);

#[test]
fn clipping_equals_torch() {
    let toy = Toy::<Cpu>::new();
    let mut grads = grads(&toy, Some(CLIPPED.0), Some(CLIPPED.1));
    let norm = clip(&toy, &mut grads, 1.0);
    assert!((norm - 71.25f64.sqrt()).abs() < 1e-6, "{norm}");
    let weight = values(&grads.get::<Flex, 2>(toy.weight.id).unwrap());
    // torch.nn.utils.clip_grad_norm_
    let expected = [0.118_469_77, -0.236_939_53, 0.355_409_3, 0.473_879_07, 0.059_234_884, -0.118_469_77];
    assert_near(&weight[..6], &expected, F32_ROUNDING);
    assert_near(
        &values(&grads.get::<Flex, 1>(toy.bias.id).unwrap()),
        &[0.236_939_53, -0.710_818_6],
        F32_ROUNDING,
    );
}

#[test]
fn a_norm_at_the_limit_still_scales_and_below_does_not() {
    let toy = Toy::<Cpu>::new();
    let clipped = |max: f64| {
        let mut grads = grads(&toy, None, Some([3.0, 4.0]));
        assert_eq!(clip(&toy, &mut grads, max).to_bits(), 5f64.to_bits());
        values(&grads.get::<Flex, 1>(toy.bias.id).unwrap())
    };
    let factor = (5.0 / (5.0 + 1e-6)) as f32;
    assert_eq!(clipped(5.0), [3.0 * factor, 4.0 * factor]);
    assert_ne!(factor.to_bits(), 1f32.to_bits());
    for max in [5.1, f64::INFINITY] {
        assert_eq!(clipped(max), [3.0, 4.0]);
    }
}

#[test]
fn a_norm_that_is_not_finite_is_returned_and_scales_nothing() {
    let toy = Toy::<Cpu>::new();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut grads = grads(&toy, Some(CLIPPED.0), Some([bad, 1.0]));
        assert!(!clip(&toy, &mut grads, 1.0).is_finite());
        assert_eq!(values(&grads.get::<Flex, 2>(toy.weight.id).unwrap()), CLIPPED.0.concat());
    }
    let nothing = clip(&toy, &mut GradientsParams::new(), 1.0);
    assert_eq!(nothing.to_bits(), 0f64.to_bits());
}

#[test]
fn micro_batches_add_up_with_their_weights() {
    let toy = Toy::<Cpu>::new();
    let mut total = GradientsParams::new();
    accumulate(&toy, &mut total, grads(&toy, None, Some([4.0, 8.0])), 0.75);
    accumulate(&toy, &mut total, grads(&toy, Some(CLIPPED.0), Some([1.0, -2.0])), 0.25);
    assert_eq!(values(&total.get::<Flex, 1>(toy.bias.id).unwrap()), [3.25, 5.5]);
    assert_eq!(values(&total.get::<Flex, 2>(toy.weight.id).unwrap())[..3], [0.25, -0.5, 0.75]);
}

/// A group with a rate of its own moves as it would under that rate alone; the others do not notice.
#[test]
fn a_group_has_its_own_rate_and_the_longest_path_counts() {
    let step = |rate: f64, groups: Vec<Group>| {
        let toy = Toy::<Cpu>::new();
        let grads = grads(&toy, Some([[0.5; 3]; 5]), Some([1.0, -2.0]));
        let mut optimizer = Optimizer::new(DECAY).with_groups(groups);
        let toy = optimizer.step(rate, toy, &grads);
        (values(&toy.weight.val()), values(&toy.bias.val()))
    };
    let (weight, _) = step(0.5, Vec::new());
    let (_, bias) = step(0.125, Vec::new());
    assert_eq!(step(0.5, vec![group("bias", 0.25, None)]), (weight.clone(), bias.clone()));
    let both = vec![group("bias", 0.25, None), group("bia", 7.0, None), group("b", 3.0, None)];
    assert_eq!(step(0.5, both), (weight.clone(), bias));
    assert_eq!(step(0.5, vec![group("bias", 0.0, Some(0.0))]), (weight, vec![1e-6, 2.0]));
}
