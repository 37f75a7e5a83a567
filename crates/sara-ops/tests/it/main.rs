//! The fused operations against the same formulas in burn's own operations, values and gradients.

mod decoder;
mod narrow;
mod quantize;

use burn::tensor::activation::softmax;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Bool, DType, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sara_ops::{self as ops, LayerOps};

/// f32, of the largest value: the rational erf and sums of some hundred terms are each right to 5e-7.
const F32_TOLERANCE: f64 = 1.2e-6;
/// f64 against f64, the same formula in another order.
const F64_TOLERANCE: f64 = 1e-12;
/// f16 has 11 bits; some of them go in sums.
const F16_TOLERANCE: f64 = 1e-2;
/// Central differences in f32 with step 0.02: cubic error and `1e-7 / 0.02` of rounding, times the loss.
const DIFFERENCE_TOLERANCE: f64 = 2e-3;
const EPSILON: f64 = 1e-5;
/// The quantiser's coarsest step.
const STEP: f64 = 0.75;

fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| f64::from(rng.random_range(-2.0_f32..2.0))).collect()
}

fn flat<B: Backend>(values: &[f64], dtype: DType) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::from(values), (&B::Device::default(), dtype))
}

fn read<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Gelu,
    LayerNorm,
    Attention {
        n_heads: usize,
        n_queries: usize,
    },
    Linear {
        d_out: usize,
        bias: bool,
    },
    /// Two linear layers on one input, and their sum.
    Fork {
        d_out: usize,
    },
    Quantize,
    /// Two linear layers of so many blocks on one input, and their sum.
    Blocks {
        n: usize,
        d_out: usize,
    },
}

/// An operation on tensors of one shape, attention's queries apart, its inputs drawn from a seed.
#[derive(Clone, Debug)]
struct Case {
    op: Op,
    shape: [usize; 3],
    mask: Option<Vec<bool>>,
    inputs: Vec<Vec<f64>>,
    tracked: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    output: Vec<f64>,
    grads: Vec<Option<Vec<f64>>>,
}

/// What `compute` makes of the inputs, and the gradients of a weighted sum of it by those that are tracked.
fn outcome<B: AutodiffBackend>(
    inputs: &[Vec<f64>],
    tracked: &[bool],
    dtype: DType,
    compute: impl Fn(&[Tensor<B, 1>]) -> Tensor<B, 3>,
) -> Outcome {
    let leaf = |(values, &tracked): (&Vec<f64>, _)| flat::<B>(values, dtype).set_require_grad(tracked);
    let leaves: Vec<_> = inputs.iter().zip(tracked).map(leaf).collect();
    let y = compute(&leaves);
    let weights = flat::<B>(&noise(99, y.shape().num_elements()), dtype).reshape(y.dims());
    let grads = (y.clone() * weights).sum().backward();
    let grads = leaves.iter().map(|leaf| leaf.grad(&grads).map(read)).collect();
    Outcome { output: read(y.inner()), grads }
}

impl Case {
    fn new(op: Op, shape: [usize; 3]) -> Self {
        let (d, n) = (shape[2], shape.iter().product());
        let sizes = match op {
            Op::Gelu => vec![n],
            Op::LayerNorm => vec![n, d, d],
            Op::Attention { n_queries, .. } => vec![shape[0] * n_queries * d, n, n],
            Op::Linear { d_out, bias: true } => vec![n, d * d_out, d_out],
            Op::Linear { d_out, bias: false } => vec![n, d * d_out],
            Op::Fork { d_out } | Op::Blocks { d_out, .. } => vec![n, d * d_out, d * d_out],
            Op::Quantize => vec![n, 4],
        };
        let inputs: Vec<_> = sizes.into_iter().enumerate().map(|(i, n)| noise(i as u64, n)).collect();
        Self { op, shape, mask: None, tracked: vec![true; inputs.len()], inputs }
    }

    fn masked(mut self, counts: impl Fn(usize, usize) -> bool) -> Self {
        let [batch, seq, _] = self.shape;
        self.mask = Some((0..batch * seq).map(|i| counts(i / seq, i % seq)).collect());
        self
    }

    fn mask<B: Backend>(&self) -> Option<Tensor<B, 2, Bool>> {
        let data = TensorData::new(self.mask.clone()?, [self.shape[0], self.shape[1]]);
        Some(Tensor::from_data(data, &B::Device::default()))
    }

    fn cube<B: Backend>(&self, x: &Tensor<B, 1>) -> Tensor<B, 3> {
        let [batch, _, d] = self.shape;
        x.clone().reshape([batch, x.dims()[0] / (batch * d), d])
    }

    fn weight<B: Backend>(&self, x: &Tensor<B, 1>, d_out: usize) -> Tensor<B, 2> {
        x.clone().reshape([self.shape[2], d_out])
    }

    /// The operation under test.
    fn fused<B: LayerOps>(&self, x: &[Tensor<B, 1>]) -> Tensor<B, 3> {
        let cube = |i: usize| self.cube(&x[i]);
        match self.op {
            Op::Gelu => ops::gelu(cube(0)),
            Op::LayerNorm => ops::layer_norm(cube(0), x[1].clone(), x[2].clone(), EPSILON),
            Op::Attention { n_heads, .. } => {
                ops::attention(cube(0), cube(1), cube(2), n_heads, self.mask(), 0.0)
            }
            Op::Linear { d_out, .. } => ops::linear(cube(0), self.weight(&x[1], d_out), x.get(2).cloned()),
            Op::Fork { d_out } => {
                let x0 = cube(0);
                let [a, b] = [1, 2].map(|i| ops::linear(x0.clone(), self.weight(&x[i], d_out), None));
                ops::add(a, b)
            }
            Op::Quantize => {
                let step = Tensor::from_data([STEP], (&x[0].device(), x[0].dtype()));
                ops::quantize(cube(0), step, x[1].clone())
            }
            Op::Blocks { n, d_out } => {
                let x0 = cube(0);
                let weight = |i: usize| x[i].clone().reshape([n, self.shape[2] / n, d_out]);
                let [a, b] = [1, 2].map(|i| ops::block_linear(x0.clone(), weight(i)));
                ops::add(a, b)
            }
        }
    }

    /// The same by burn's own operations, differentiated by burn. Never divides by a number: burn's gradient rounds
    /// it to f32.
    fn plain<B: Backend>(&self, x: &[Tensor<B, 1>]) -> Tensor<B, 3> {
        let [batch, seq, d] = self.shape;
        let cube = |i: usize| self.cube(&x[i]);
        match self.op {
            Op::Gelu => cube(0) * ((cube(0) * 0.5_f64.sqrt()).erf() + 1.0) * 0.5,
            Op::LayerNorm => {
                let mean = |x: Tensor<B, 3>| x.sum_dim(2) * (d as f64).recip();
                let centered = cube(0) - mean(cube(0));
                let deviation = (mean(centered.clone().square()) + EPSILON).sqrt();
                centered / deviation * x[1].clone().unsqueeze() + x[2].clone().unsqueeze()
            }
            Op::Attention { n_heads, n_queries } => {
                let split = |i: usize| {
                    let rows = x[i].dims()[0] / (batch * d);
                    cube(i).reshape([batch, rows, n_heads, d / n_heads]).swap_dims(1, 2)
                };
                let mut scores =
                    split(0).matmul(split(1).transpose()) * ((d / n_heads) as f64).sqrt().recip();
                if let Some(mask) = self.mask::<B>() {
                    let padded =
                        mask.bool_not().reshape([batch, 1, 1, seq]).expand([batch, n_heads, n_queries, seq]);
                    scores = scores.mask_fill(padded, -1e30);
                }
                softmax(scores, 3).matmul(split(2)).swap_dims(1, 2).reshape([batch, n_queries, d])
            }
            Op::Linear { d_out, .. } => match x.get(2) {
                Some(bias) => self.product(x, 1, d_out) + bias.clone().reshape([1, 1, d_out]),
                None => self.product(x, 1, d_out),
            },
            Op::Fork { d_out } => self.product(x, 1, d_out) + self.product(x, 2, d_out),
            Op::Quantize => {
                let mut rest = cube(0).detach();
                let mut step = Tensor::<B, 3>::from_data([[[STEP]]], (&x[0].device(), x[0].dtype()));
                let parts = [1.0, 5.0, 17.0, 257.0, 65537.0].map(|finer| {
                    step = step.clone() / finer;
                    let part = (rest.clone() / step.clone()).round() * step.clone();
                    rest = rest.clone() - part.clone();
                    part
                });
                let [coarse, finer @ ..] = parts;
                // Each part behind its own gate and all before it.
                let mut behind = None;
                let gate = |i: usize| x[1].clone().narrow(0, i, 1).reshape([1, 1, 1]);
                let finer = finer.into_iter().enumerate().map(|(i, part)| {
                    let open = match behind.take() {
                        Some(before) => before * gate(i),
                        None => gate(i),
                    };
                    behind = Some(open.clone());
                    part * open
                });
                finer.fold(cube(0) + (coarse - cube(0)).detach(), |sum, part| sum + part)
            }
            Op::Blocks { n, d_out } => {
                let slices = cube(0).reshape([batch * seq, n, d / n, 1]);
                let terms = slices * (x[1].clone() + x[2].clone()).reshape([1, n, d / n, d_out]);
                terms.sum_dim(2).reshape([batch, seq, n * d_out])
            }
        }
    }

    /// The first input times the one at `weight`, without a matrix product.
    fn product<B: Backend>(&self, x: &[Tensor<B, 1>], weight: usize, d_out: usize) -> Tensor<B, 3> {
        let [batch, seq, d] = self.shape;
        let terms = self.cube(&x[0]).reshape([batch * seq, d, 1]) * x[weight].clone().reshape([1, d, d_out]);
        terms.sum_dim(1).reshape([batch, seq, d_out])
    }

    fn run<B: AutodiffBackend>(
        &self,
        dtype: DType,
        compute: impl Fn(&Self, &[Tensor<B, 1>]) -> Tensor<B, 3>,
    ) -> Outcome {
        outcome(&self.inputs, &self.tracked, dtype, |leaves| compute(self, leaves))
    }

    fn fused_on_flex(&self) -> Outcome {
        self.run::<Autodiff<Flex>>(DType::F32, Self::fused)
    }
}

#[track_caller]
fn assert_close(actual: &Outcome, expected: &Outcome, tolerance: f64, what: &str) {
    let close = |actual: &[f64], expected: &[f64], part: &str| {
        assert_eq!(actual.len(), expected.len());
        let size = expected.iter().fold(1.0, |size: f64, x| size.max(x.abs()));
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!((a - e).abs() <= tolerance * size, "{what}, {part}[{i}]: {a}, expected {e}");
        }
    };
    close(&actual.output, &expected.output, "output");
    for (i, (actual, expected)) in actual.grads.iter().zip(&expected.grads).enumerate() {
        assert_eq!(actual.is_some(), expected.is_some(), "{what}, gradient {i}");
        close(actual.as_deref().unwrap_or(&[]), expected.as_deref().unwrap_or(&[]), &format!("gradient {i}"));
    }
}

/// Every token asks, and every token answers.
fn attention(n_heads: usize, shape: [usize; 3]) -> Case {
    Case::new(Op::Attention { n_heads, n_queries: shape[1] }, shape)
}

/// Odd sizes, one position, more than a chunk, a block of queries and a piece of rows, padding at the end and inside.
fn cases() -> Vec<Case> {
    let linear = |d_out, bias, shape| Case::new(Op::Linear { d_out, bias }, shape);
    let blocks = |n, d_out, shape| Case::new(Op::Blocks { n, d_out }, shape);
    let fork = |d_out, shape| Case::new(Op::Fork { d_out }, shape);
    vec![
        Case::new(Op::Gelu, [1, 1, 1]),
        Case::new(Op::Gelu, [2, 7, 13]),
        Case::new(Op::Gelu, [3, 9, 1021]),
        Case::new(Op::LayerNorm, [1, 1, 5]),
        Case::new(Op::LayerNorm, [2, 7, 13]),
        Case::new(Op::LayerNorm, [3, 9, 1021]),
        Case::new(Op::LayerNorm, [2, 1, 17_000]),
        Case::new(Op::Quantize, [1, 1, 1]),
        Case::new(Op::Quantize, [2, 7, 13]),
        Case::new(Op::Quantize, [3, 9, 1021]),
        linear(5, true, [2, 7, 13]),
        linear(1, true, [1, 1, 3]),
        linear(8, false, [2, 150, 40]),
        linear(70, true, [3, 150, 33]),
        linear(150, false, [2, 70, 20]),
        linear(8, false, [2, 70, 140]),
        linear(300, true, [2, 150, 20]),
        blocks(1, 5, [2, 7, 13]),
        blocks(3, 2, [2, 7, 15]),
        blocks(5, 8, [2, 7, 15]),
        blocks(2, 1, [3, 250, 140]),
        blocks(4, 150, [1, 70, 40]),
        fork(5, [2, 7, 13]),
        fork(1, [1, 1, 3]),
        fork(40, [2, 150, 130]),
        fork(8, [1, 300, 2]),
        attention(1, [1, 1, 3]),
        attention(3, [2, 7, 15]),
        attention(1, [2, 7, 13]),
        attention(4, [1, 33, 64]),
        attention(2, [2, 300, 6]),
        attention(2, [2, 1, 6]).masked(|_, _| true),
        attention(3, [2, 7, 15]).masked(|_, key| key < 5),
        attention(3, [3, 7, 15]).masked(|row, key| key < 7 - 2 * row),
        attention(2, [2, 9, 8]).masked(|row, key| key % 3 != row),
        attention(2, [2, 300, 6]).masked(|row, key| key >= 3 && key < 290 - 150 * row),
        Case::new(Op::Attention { n_heads: 3, n_queries: 1 }, [2, 7, 15]),
        Case::new(Op::Attention { n_heads: 3, n_queries: 2 }, [3, 7, 15])
            .masked(|row, key| key < 7 - 2 * row),
        Case::new(Op::Attention { n_heads: 2, n_queries: 300 }, [2, 5, 6]),
    ]
}

#[test]
fn fused_equals_plain_on_both_cpu_backends() {
    for case in cases() {
        let fused = case.fused_on_flex();
        let what = format!("{:?} {:?}", case.op, case.shape);
        assert_close(&fused, &case.run::<Autodiff<Flex>>(DType::F32, Case::plain), F32_TOLERANCE, &what);
        // In f64: the gradient of a division by a tensor is right to 6e-5 alone in f32 on ndarray. But there the quantiser
        // rounds some values to the other side.
        let dtype = if case.op == Op::Quantize { DType::F32 } else { DType::F64 };
        assert_close(&fused, &case.run::<Autodiff<NdArray>>(dtype, Case::plain), F32_TOLERANCE, &what);
    }
}

/// f64 is not fused: this is the default body of every backend, with gradients written by hand.
#[test]
fn default_bodies_equal_plain() {
    for case in cases() {
        let fused = case.run::<Autodiff<Flex>>(DType::F64, Case::fused);
        let plain = case.run::<Autodiff<Flex>>(DType::F64, Case::plain);
        assert_close(&fused, &plain, F64_TOLERANCE, &format!("{:?} {:?}", case.op, case.shape));
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn default_bodies_equal_plain_on_ndarray() {
    for case in cases() {
        let fused = case.run::<Autodiff<NdArray>>(DType::F64, Case::fused);
        let plain = case.run::<Autodiff<NdArray>>(DType::F64, Case::plain);
        assert_close(&fused, &plain, F64_TOLERANCE, &format!("{:?} {:?}", case.op, case.shape));
    }
}

#[test]
fn half_precision_takes_the_default_body() {
    // The quantiser's finer steps are zero in half precision.
    let fits = |case: &Case| case.op != Op::Quantize && case.shape.iter().product::<usize>() < 1000;
    for case in cases().into_iter().filter(fits) {
        let half = case.run::<Autodiff<Flex>>(DType::F16, Case::fused);
        let full = case.run::<Autodiff<Flex>>(DType::F64, Case::plain);
        assert_close(&half, &full, F16_TOLERANCE, &format!("{:?} {:?}", case.op, case.shape));
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let cases = [
        Case::new(Op::Gelu, [1, 2, 5]),
        Case::new(Op::LayerNorm, [1, 2, 5]),
        Case::new(Op::Linear { d_out: 3, bias: true }, [1, 2, 5]),
        Case::new(Op::Fork { d_out: 3 }, [1, 2, 5]),
        Case::new(Op::Blocks { n: 2, d_out: 3 }, [1, 2, 4]),
        attention(2, [2, 3, 4]),
        attention(2, [2, 3, 4]).masked(|row, key| key != row),
        Case::new(Op::Attention { n_heads: 2, n_queries: 1 }, [2, 3, 4]),
    ];
    let h = 0.02;
    for case in cases {
        let grads = case.fused_on_flex().grads;
        let loss = |case: &Case| {
            let output = case.fused_on_flex().output;
            output.iter().zip(noise(99, output.len())).map(|(y, w)| y * w).sum::<f64>()
        };
        for (input, grad) in grads.iter().enumerate() {
            for (i, grad) in grad.as_ref().unwrap().iter().enumerate() {
                let (mut above, mut below) = (case.clone(), case.clone());
                above.inputs[input][i] += h;
                below.inputs[input][i] -= h;
                let difference = (loss(&above) - loss(&below)) / (2.0 * h);
                let bound = DIFFERENCE_TOLERANCE * (1.0 + grad.abs());
                assert!((grad - difference).abs() < bound, "{:?} {input} {i}: {grad}, {difference}", case.op);
            }
        }
    }
}

#[test]
fn a_sequence_without_keys_gives_zeros() {
    let case = attention(3, [3, 7, 15]).masked(|row, _| row != 1);
    let without = attention(3, [3, 7, 15]).fused_on_flex();
    let (start, end) = (7 * 15, 2 * 7 * 15);
    for dtype in [DType::F16, DType::F32, DType::F64] {
        let outcome = case.run::<Autodiff<Flex>>(dtype, Case::fused);
        for values in outcome.grads.iter().flatten().chain([&outcome.output]) {
            assert!(values[start..end].iter().all(|&x| x == 0.0), "{dtype:?}");
            assert!(values[..start].iter().chain(&values[end..]).all(|&x| x.is_finite()), "{dtype:?}");
        }
        if dtype == DType::F32 {
            assert_eq!(outcome.output[..start], without.output[..start]);
            assert_eq!(outcome.output[end..], without.output[end..]);
        }
    }
}

#[test]
fn padded_keys_have_no_influence() {
    let mut case = attention(3, [2, 7, 15]).masked(|_, key| key != 2 && key < 5);
    let before = case.fused_on_flex();
    for row in 0..2 {
        for key in [2, 5, 6] {
            let start = (row * 7 + key) * 15;
            case.inputs[1][start..start + 15].fill(50.0);
            case.inputs[2][start..start + 15].fill(-70.0);
        }
    }
    let after = case.fused_on_flex();
    assert_eq!(before, after);
    let padded = 5 * 15..7 * 15;
    for grad in &after.grads[1..] {
        assert!(grad.as_ref().unwrap()[padded.clone()].iter().all(|&x| x == 0.0));
    }
}

#[test]
fn gradients_come_only_where_asked_for() {
    for case in cases().into_iter().filter(|case| case.inputs.len() == 3 && case.shape[1] < 100) {
        let all = case.fused_on_flex();
        for wanted in 1..7 {
            let mut some = case.clone();
            some.tracked = (0..3).map(|i| wanted >> i & 1 == 1).collect();
            let outcome = some.fused_on_flex();
            assert_eq!(outcome.output, all.output);
            for (i, grad) in outcome.grads.iter().enumerate() {
                assert_eq!(*grad, all.grads[i].clone().filter(|_| some.tracked[i]), "{:?} {i}", case.op);
            }
        }
    }
}

#[test]
fn three_runs_give_the_same_bits() {
    for case in cases() {
        let first = case.fused_on_flex();
        assert!((0..2).all(|_| case.fused_on_flex() == first), "{:?} {:?}", case.op, case.shape);
    }
}

/// Rows are cut by the number of threads, which no value may show.
#[test]
fn threads_do_not_change_the_bits() {
    let with = |threads: usize, case: &Case| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.fused_on_flex())
    };
    let wide = [(1, true), (1, false), (8, false), (64, true), (384, true)]
        .map(|(d_out, bias)| Case::new(Op::Linear { d_out, bias }, [5, 150, 1100]));
    // On the way back: two columns, whose pieces of rows gemm could take another way, and a column beyond whole panels.
    let narrow = [([1, 256, 2], 8), ([1, 384, 2], 40), ([1, 130, 193], 40), ([1, 130, 65], 40)]
        .map(|(shape, d_out)| Case::new(Op::Linear { d_out, bias: false }, shape));
    for case in cases().into_iter().chain(wide).chain(narrow) {
        let alone = with(1, &case);
        for threads in [2, 3, 5] {
            assert!(with(threads, &case) == alone, "{:?} {:?}, {threads} threads", case.op, case.shape);
        }
    }
}

#[test]
fn examples_are_independent() {
    for mut case in cases().into_iter().filter(|case| case.shape[0] > 1) {
        let before = case.fused_on_flex();
        let inputs = if matches!(case.op, Op::Attention { .. }) { 3 } else { 1 };
        for input in &mut case.inputs[..inputs] {
            let n = input.len() / case.shape[0];
            input[..n].iter_mut().for_each(|x| *x = 0.7 - *x);
        }
        let after = case.fused_on_flex();
        let n_out = after.output.len() / case.shape[0];
        assert_eq!(before.output[n_out..], after.output[n_out..], "{:?}", case.op);
        assert_ne!(before.output[..n_out], after.output[..n_out], "{:?}", case.op);
        for (before, after) in before.grads.iter().zip(&after.grads).take(inputs) {
            let (before, after) = (before.as_ref().unwrap(), after.as_ref().unwrap());
            let n = before.len() / case.shape[0];
            assert_eq!(before[n..], after[n..], "{:?}", case.op);
        }
    }
}

/// Views whose buffer has another order, a start further in, or a longer end.
#[test]
fn views_give_the_bits_of_copies() {
    let shape = [3, 7, 15];
    let device = burn_flex::FlexDevice;
    let view = |seed: u64, kind: usize| -> Tensor<Flex, 3> {
        let big = flat::<Flex>(&noise(seed, 4 * 7 * 15), DType::F32);
        match kind {
            0 => big.slice(0..315).reshape([15, 7, 3]).swap_dims(0, 2),
            1 => big.reshape([4, 7, 15]).slice(1..4),
            _ => big.reshape([4, 7, 15]).slice(0..3),
        }
    };
    let copy = |x: &Tensor<Flex, 3>| Tensor::<Flex, 3>::from_data(x.to_data(), &device);
    let [gamma, beta] = [4, 5].map(|seed| flat::<Flex>(&noise(seed, 30), DType::F32).slice(15..30));
    let apply = |[x, y, z]: [Tensor<Flex, 3>; 3]| {
        assert_eq!(x.dims(), shape);
        let mask = Tensor::<Flex, 2>::from_data(TensorData::new(noise(7, 21), [7, 3]), &device);
        let mask = mask.greater_elem(-1.0).transpose();
        [
            read(ops::gelu(x.clone())),
            read(ops::layer_norm(y.clone(), gamma.clone(), beta.clone(), EPSILON)),
            read(ops::attention(x, y, z, 3, Some(mask), 0.0)),
        ]
    };
    for kinds in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let views = [1, 2, 3].map(|i| view(i as u64, kinds[i - 1]));
        let copies = views.each_ref().map(copy);
        let before = views.each_ref().map(Tensor::to_data);
        assert_eq!(apply(views.clone()), apply(copies));
        // What is written in place is never seen by another owner.
        assert_eq!(views.each_ref().map(Tensor::to_data), before);
    }
}

/// The gradient reaches the operation transposed or expanded.
#[test]
fn gradients_may_be_views() {
    for case in cases().into_iter().filter(|case| case.shape == [2, 7, 15] || case.shape == [2, 7, 13]) {
        let transpose = |y: Tensor<Autodiff<Flex>, 3>| y.swap_dims(1, 2).swap_dims(0, 1);
        let run = |copied: bool| {
            let leaves: Vec<_> =
                case.inputs.iter().map(|x| flat::<Autodiff<Flex>>(x, DType::F32).require_grad()).collect();
            let y = case.fused(&leaves);
            let dims = y.dims();
            let weights = noise(99, y.shape().num_elements());
            let weights = flat::<Autodiff<Flex>>(&weights, DType::F32).reshape([dims[2], dims[0], dims[1]]);
            let loss = if copied {
                (y * weights.swap_dims(0, 1).swap_dims(1, 2)).sum()
            } else {
                (transpose(y) * weights).sum()
            };
            let grads = loss.backward();
            leaves.iter().map(|x| read(x.grad(&grads).unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(run(true), run(false), "{:?}", case.op);
    }
}

#[test]
fn extreme_values_stay_right() {
    let device = burn_flex::FlexDevice;
    let row = |values: [f32; 4]| Tensor::<Flex, 3>::from_data([[values]], &device);
    let y: Vec<f32> = ops::gelu(row([-1e30, 1e30, -6.0, f32::NAN])).into_data().to_vec().unwrap();
    assert_eq!(y[..3], [0.0, 1e30, 0.0]);
    assert!(y[3].is_nan());
    // Scores of 2e8: all the weight on one key, without overflow.
    let key = Tensor::<Flex, 3>::from_data([[[1e4_f32, 1e4], [-1e4, -1e4], [0.0, 1.0]]], &device);
    let y = ops::attention(key.clone(), key.clone(), key.clone(), 1, None, 0.0);
    assert_eq!(read(y)[..4], [1e4, 1e4, -1e4, -1e4]);
    let y = ops::attention(key.clone() * f32::NAN, key.clone(), key, 1, None, 0.0);
    assert!(read(y).iter().all(|x| x.is_nan()));
    let constant =
        ops::layer_norm(row([3.0; 4]), row([2.0; 4]).flatten(0, 2), row([0.5; 4]).flatten(0, 2), EPSILON);
    assert_eq!(read(constant), [0.5; 4]);
}

#[test]
fn empty_tensors_pass() {
    for shape in [[0, 3, 4], [2, 0, 4]] {
        let x = Tensor::<Flex, 3>::empty(shape, &burn_flex::FlexDevice);
        assert_eq!(ops::gelu(x.clone()).dims(), shape);
        assert_eq!(ops::attention(x.clone(), x.clone(), x, 2, None, 0.0).dims(), shape);
    }
}

#[test]
fn dropout_acts_on_probabilities_in_training_alone() {
    let shape = [4, 64, 6];
    let device = burn_flex::FlexDevice;
    let (q, v) = (Tensor::<Flex, 3>::zeros(shape, &device), Tensor::<Flex, 3>::ones(shape, &device));
    let evaluated = read(ops::attention(q.clone(), q.clone(), v.clone(), 2, None, 0.5));
    assert_eq!(evaluated, vec![1.0; evaluated.len()]);
    let (q, v) = (Tensor::<Autodiff<Flex>, 3>::from_inner(q), Tensor::from_inner(v));
    let trained = read(ops::attention(q.clone(), q, v, 2, None, 0.5).inner());
    // Each of 512 sums of 64 probabilities has deviation 1/8; their mean has 1/181, here allowed nine times.
    let mean = trained.iter().sum::<f64>() / trained.len() as f64;
    assert!((mean - 1.0).abs() < 0.05, "mean {mean}");
    assert!(trained.iter().filter(|&&y| (y - 1.0).abs() > 0.01).count() > trained.len() / 2);
}
