//! The decoder's operations against the same formulas in burn's own operations, values and gradients.

use burn::tensor::activation::softmax;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use sara_ops::{self as ops, LayerOps};

use super::{EPSILON, F32_TOLERANCE, F64_TOLERANCE, Outcome, assert_close, flat, noise, outcome};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    RmsNorm,
    Rotary { head_dim: usize },
    Swiglu,
    Causal { n_heads: usize, n_kv_heads: usize, n_queries: usize },
}

/// An operation, its inputs drawn from a seed; `shape` is that of the keys for attention.
#[derive(Clone, Debug)]
struct Case {
    op: Op,
    shape: [usize; 3],
    /// The first key that each query sees.
    first: Vec<i64>,
    inputs: Vec<Vec<f64>>,
    tracked: Vec<bool>,
}

impl Case {
    fn new(op: Op, shape: [usize; 3]) -> Self {
        let [batch, seq, d] = shape;
        let n = batch * seq * d;
        let sizes = match op {
            Op::RmsNorm => vec![n, d],
            Op::Rotary { .. } => vec![n],
            Op::Swiglu => vec![n, n],
            Op::Causal { n_heads, n_kv_heads, n_queries } => {
                vec![batch * n_queries * d / n_kv_heads * n_heads, n, n]
            }
        };
        let inputs: Vec<_> = sizes.into_iter().enumerate().map(|(i, n)| noise(i as u64, n)).collect();
        Self { op, shape, first: Vec::new(), tracked: vec![true; inputs.len()], inputs }.seeing(|_, _| 0)
    }

    /// The same where query `i` of a row sees its keys from `first(row, own)` on.
    fn seeing(mut self, first: impl Fn(usize, usize) -> usize) -> Self {
        if let Op::Causal { n_queries, .. } = self.op {
            let [batch, n_keys, _] = self.shape;
            let own = |i: usize| n_keys - n_queries + i;
            let all = (0..batch).flat_map(|row| (0..n_queries).map(move |i| (row, own(i))));
            self.first = all.map(|(row, own)| first(row, own) as i64).collect();
        }
        self
    }

    fn cube<B: Backend>(&self, x: &Tensor<B, 1>, d: usize) -> Tensor<B, 3> {
        let batch = self.shape[0];
        x.clone().reshape([batch, x.dims()[0] / (batch * d), d])
    }

    /// Angles of each token and pair, by place and row.
    fn angles<B: Backend>(&self, half: usize, like: &Tensor<B, 1>) -> [Tensor<B, 3>; 2] {
        let [batch, seq, _] = self.shape;
        let place =
            |i: usize| 0.3 * (1 + i / half % seq + 5 * (i / half / seq)) as f64 / (1 + i % half) as f64;
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> = (0..batch * seq * half).map(|i| f(place(i))).collect();
            flat::<B>(&values, like.dtype()).reshape([batch, seq, half])
        };
        [table(f64::cos), table(f64::sin)]
    }

    fn fused<B: LayerOps>(&self, x: &[Tensor<B, 1>]) -> Tensor<B, 3> {
        let [batch, _, d] = self.shape;
        match self.op {
            Op::RmsNorm => ops::rms_norm(self.cube(&x[0], d), x[1].clone(), EPSILON),
            Op::Rotary { head_dim } => {
                let [cos, sin] = self.angles(head_dim / 2, &x[0]);
                ops::rotary(self.cube(&x[0], d), cos, sin)
            }
            Op::Swiglu => ops::swiglu(self.cube(&x[0], d), self.cube(&x[1], d)),
            Op::Causal { n_heads, n_kv_heads, n_queries } => {
                let first = TensorData::new(self.first.clone(), [batch, n_queries]);
                let first = Tensor::<B, 2, Int>::from_data(first, &x[0].device());
                let [q, k, v] =
                    [(0, d / n_kv_heads * n_heads), (1, d), (2, d)].map(|(i, d)| self.cube(&x[i], d));
                ops::causal_attention(q, k, v, first, [n_heads, n_kv_heads])
            }
        }
    }

    fn plain<B: Backend>(&self, x: &[Tensor<B, 1>]) -> Tensor<B, 3> {
        let [batch, n_keys, d] = self.shape;
        match self.op {
            Op::RmsNorm => {
                let x0 = self.cube(&x[0], d);
                let square = x0.clone().square().sum_dim(2) * (d as f64).recip();
                x0 / (square + EPSILON).sqrt() * x[1].clone().unsqueeze()
            }
            Op::Rotary { head_dim } => {
                let half = head_dim / 2;
                let [cos, sin] = self.angles(half, &x[0]);
                let x0 = self.cube(&x[0], d);
                let heads = (0..d / head_dim).flat_map(|head| {
                    let [a, b] = [0, half].map(|at| x0.clone().narrow(2, head * head_dim + at, half));
                    let a_turned = a.clone() * cos.clone() - b.clone() * sin.clone();
                    [a_turned, b * cos.clone() + a * sin.clone()]
                });
                Tensor::cat(heads.collect(), 2)
            }
            Op::Swiglu => {
                let gate = self.cube(&x[0], d);
                gate.clone() * (gate.neg().exp() + 1.0).recip() * self.cube(&x[1], d)
            }
            Op::Causal { n_heads, n_kv_heads, n_queries } => {
                let head_dim = d / n_kv_heads;
                let q = self.cube(&x[0], n_heads * head_dim);
                let [k, v] = [1, 2].map(|i| self.cube(&x[i], d));
                let hidden = (0..batch * n_queries * n_keys).map(|i| {
                    let (row, key) = (i / n_keys, i % n_keys);
                    (key as i64) < self.first[row] || key > n_keys - n_queries + row % n_queries
                });
                let hidden = TensorData::new(hidden.collect::<Vec<_>>(), [batch, n_queries, n_keys]);
                let hidden = Tensor::<B, 3, Bool>::from_data(hidden, &q.device());
                let heads = (0..n_heads).map(|head| {
                    let of_keys = head / (n_heads / n_kv_heads);
                    let part = |x: &Tensor<B, 3>, head: usize| x.clone().narrow(2, head * head_dim, head_dim);
                    let scores = part(&q, head).matmul(part(&k, of_keys).transpose());
                    let scores = scores * (head_dim as f64).sqrt().recip();
                    softmax(scores.mask_fill(hidden.clone(), -1e30), 2).matmul(part(&v, of_keys))
                });
                Tensor::cat(heads.collect(), 2)
            }
        }
    }

    fn run<B: AutodiffBackend>(
        &self,
        dtype: DType,
        compute: impl Fn(&Self, &[Tensor<B, 1>]) -> Tensor<B, 3>,
    ) -> Outcome {
        outcome(&self.inputs, &self.tracked, dtype, |leaves| compute(self, leaves))
    }
}

fn causal(n_heads: usize, n_kv_heads: usize, n_queries: usize, shape: [usize; 3]) -> Case {
    Case::new(Op::Causal { n_heads, n_kv_heads, n_queries }, shape)
}

/// Odd sizes, one token, several blocks of queries, shared heads, cached keys, a window, padding, packed texts.
fn cases() -> Vec<Case> {
    vec![
        Case::new(Op::RmsNorm, [1, 1, 5]),
        Case::new(Op::RmsNorm, [3, 9, 1021]),
        Case::new(Op::Rotary { head_dim: 2 }, [1, 1, 2]),
        Case::new(Op::Rotary { head_dim: 6 }, [3, 7, 18]),
        Case::new(Op::Rotary { head_dim: 64 }, [2, 150, 256]),
        Case::new(Op::Swiglu, [1, 1, 1]),
        Case::new(Op::Swiglu, [3, 9, 1021]),
        causal(1, 1, 1, [1, 1, 3]),
        causal(3, 3, 7, [2, 7, 15]),
        causal(4, 2, 33, [2, 33, 10]),
        causal(6, 1, 150, [2, 150, 4]),
        causal(4, 2, 1, [3, 70, 10]),
        causal(4, 4, 5, [1, 9, 8]),
        causal(2, 1, 70, [2, 170, 6]),
        causal(2, 2, 150, [2, 150, 6]).seeing(|_, own| own.saturating_sub(10)),
        causal(4, 2, 20, [3, 20, 6]).seeing(|row, own| (4 * row).min(own)),
        causal(2, 1, 130, [1, 130, 6]).seeing(|_, own| own / 50 * 50),
        causal(2, 2, 9, [2, 90, 6]).seeing(|row, own| own - 3 * row),
    ]
}

#[test]
fn fused_equals_plain_on_both_cpu_backends() {
    for case in cases() {
        let fused = case.run::<Autodiff<Flex>>(DType::F32, Case::fused);
        let what = format!("{:?} {:?}", case.op, case.shape);
        let plain = case.run::<Autodiff<Flex>>(DType::F64, Case::plain);
        assert_close(&fused, &plain, F32_TOLERANCE, &what);
        let default = case.run::<Autodiff<Flex>>(DType::F64, Case::fused);
        assert_close(&default, &plain, F64_TOLERANCE, &format!("default body of {what}"));
        let single = case.run::<Autodiff<NdArray>>(DType::F32, Case::fused);
        assert_close(&single, &plain, F32_TOLERANCE, &format!("default body of {what} in f32 on ndarray"));
        let elsewhere = case.run::<Autodiff<NdArray>>(DType::F64, Case::plain);
        assert_close(&plain, &elsewhere, F64_TOLERANCE, &format!("plain on ndarray, {what}"));
    }
}

#[test]
fn only_wanted_gradients_are_computed() {
    for case in cases().into_iter().filter(|case| case.inputs.len() > 1) {
        let whole = case.run::<Autodiff<Flex>>(DType::F32, Case::fused);
        for wanted in 0..case.inputs.len() {
            let mut one = case.clone();
            one.tracked = (0..case.inputs.len()).map(|input| input == wanted).collect();
            let found = one.run::<Autodiff<Flex>>(DType::F32, Case::fused);
            for (input, gradient) in found.grads.iter().enumerate() {
                let expected = whole.grads[input].as_ref().filter(|_| input == wanted);
                assert_eq!(gradient.as_ref(), expected, "{:?} {:?}", case.op, case.shape);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with = |threads: usize, case: &Case| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.run::<Autodiff<Flex>>(DType::F32, Case::fused))
    };
    for case in cases() {
        let alone = with(1, &case);
        for threads in [2, 3] {
            assert!(with(threads, &case) == alone, "{:?} {:?}", case.op, case.shape);
        }
    }
}

/// Keys that no query sees have no say, not even where they are not finite, and get no gradient.
#[test]
fn what_is_not_seen_does_not_count() {
    let mut case = causal(2, 2, 3, [1, 6, 4]).seeing(|_, _| 2);
    let before = case.run::<Autodiff<Flex>>(DType::F32, Case::fused);
    for input in 1..3 {
        case.inputs[input][..8].fill(f64::from(f32::MAX));
    }
    let after = case.run::<Autodiff<Flex>>(DType::F32, Case::fused);
    assert_eq!(before, after);
    for gradient in &after.grads[1..] {
        let gradient = gradient.as_ref().unwrap();
        assert!(gradient[..8].iter().all(|&x| x == 0.0) && gradient[8..].iter().any(|&x| x != 0.0));
    }
}

/// A token's output is the same with the keys of those before it at hand as in one pass over all.
#[test]
fn a_cache_of_keys_changes_nothing() {
    let whole = causal(4, 2, 12, [2, 12, 6]);
    let all = whole.run::<Autodiff<Flex>>(DType::F32, Case::fused).output;
    let mut last = causal(4, 2, 3, [2, 12, 6]);
    last.inputs[1..].clone_from_slice(&whole.inputs[1..]);
    let queries = |row: usize| whole.inputs[0][(row * 12 + 9) * 12..(row + 1) * 12 * 12].to_vec();
    last.inputs[0] = [queries(0), queries(1)].concat();
    let part = last.run::<Autodiff<Flex>>(DType::F32, Case::fused).output;
    let expected = [&all[9 * 12..12 * 12], &all[21 * 12..24 * 12]].concat();
    for (found, expected) in part.iter().zip(expected) {
        assert!((found - expected).abs() < F32_TOLERANCE, "{found}, expected {expected}");
    }
}

/// Keys and values inside a larger room, as a cache has them, and turned ones: the bits of copies.
#[test]
fn keys_may_be_views() {
    let [batch, n_queries, n_keys, d] = [3, 4, 9, 16];
    let device = burn_flex::FlexDevice;
    let room = |seed: u64| flat::<Flex>(&noise(seed, 5 * 20 * 24), DType::F32).reshape([5, 20, 24]);
    let views: [fn(Tensor<Flex, 3>) -> Tensor<Flex, 3>; 3] = [
        |room| room.slice([1..4, 0..9, 0..16]),
        |room| room.slice([0..3, 5..14, 8..24]),
        |room| room.slice([0..3, 0..16, 0..9]).swap_dims(1, 2),
    ];
    let q = flat::<Flex>(&noise(1, batch * n_queries * 2 * d), DType::F32).reshape([batch, n_queries, 2 * d]);
    let first = Tensor::<Flex, 2, Int>::from_data([[0, 0, 2, 3], [1, 1, 1, 1], [0, 5, 7, 8]], &device);
    let run = |k: &Tensor<Flex, 3>, v: &Tensor<Flex, 3>| {
        let leaves = [&q, k, v].map(|x| Tensor::<Autodiff<Flex>, 3>::from_inner(x.clone()).require_grad());
        let [q, k, v] = leaves.clone();
        let y = ops::causal_attention(q, k, v, Tensor::from_inner(first.clone()), [4, 2]);
        let grads = y.clone().powi_scalar(2).sum().backward();
        let of_inputs = leaves.map(|leaf| leaf.grad(&grads).map(super::read).unwrap_or_default());
        (super::read(y.inner()), of_inputs)
    };
    for view in views {
        let [k, v] = [2, 3].map(|seed| view(room(seed)));
        assert_eq!(k.dims(), [batch, n_keys, d]);
        let [copied_k, copied_v] = [&k, &v].map(|x| Tensor::from_data(x.to_data(), &device));
        let (found, expected) = (run(&k, &v), run(&copied_k, &copied_v));
        assert!(expected.1.iter().all(|grad| !grad.is_empty()));
        assert_eq!(found, expected);
    }
}

/// The loss of predicting tokens over more of them than one block has, and its gradient: by the formula, on both backends.
#[test]
fn the_loss_of_tokens_is_that_of_its_formula() {
    fn run<B: AutodiffBackend + LayerOps>(dtype: DType, fused: bool) -> Vec<f64> {
        let [n, d, vocab_size] = [150, 12, 37];
        let hidden = flat::<B>(&noise(1, n * d), dtype).reshape([n, d]).require_grad();
        // In f64 they have digits that f32 has not.
        let rows: Vec<f64> = noise(2, vocab_size * d).into_iter().map(|x| x / 3.0).collect();
        let rows = flat::<B>(&rows, dtype).reshape([vocab_size, d]);
        let targets: Vec<i64> = (0..n as i64).map(|i| i * 7 % vocab_size as i64).collect();
        let targets = Tensor::<B, 1, Int>::from_data(TensorData::new(targets, [n]), &hidden.device());
        let loss = if fused {
            ops::token_loss(hidden.clone(), rows, targets)
        } else {
            let logits = hidden.clone().matmul(rows.transpose());
            let highest = logits.clone().max_dim(1);
            let total = (logits.clone() - highest.clone()).exp().sum_dim(1).log() + highest;
            (total - logits.gather(1, targets.reshape([n, 1]))).sum()
        };
        let grads = (loss.clone() * 0.5).backward();
        let of_hidden = hidden.grad(&grads).map(super::read).unwrap_or_default();
        assert_eq!(of_hidden.len(), n * d);
        [super::read(loss.inner()), of_hidden].concat()
    }
    let expected = run::<Autodiff<NdArray<f64>>>(DType::F64, false);
    for (found, tolerance) in [
        (run::<Autodiff<NdArray<f64>>>(DType::F64, true), F64_TOLERANCE),
        (run::<Autodiff<NdArray>>(DType::F32, true), F32_TOLERANCE),
        (run::<Autodiff<Flex>>(DType::F32, true), F32_TOLERANCE),
    ] {
        let sizes = [expected[0].abs(), expected[1..].iter().fold(0.0, |size: f64, x| size.max(x.abs()))];
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let size = sizes[at.min(1)];
            assert!((found - expected).abs() <= tolerance * size, "{at}: {found}, expected {expected}");
        }
    }
}

/// A room is written in place where nobody else holds it, and else a copy of it.
#[test]
fn rows_are_written_in_place() {
    let device = burn_flex::FlexDevice;
    let values = noise(1, 2 * 5 * 3);
    let room = || flat::<Flex>(&values, DType::F32).reshape([2, 5, 3]);
    let rows = flat::<Flex>(&noise(2, 2 * 2 * 3), DType::F32).reshape([2, 2, 3]);
    let expected = super::read(room().slice_assign([0..2, 1..3, 0..3], rows.clone()));
    let place = |x: &burn_flex::FlexTensor| x.storage::<f32>().as_ptr();
    let alone = ops::primitive(room());
    let before = place(&alone);
    let written = ops::primitive(ops::write_rows(ops::tensor::<Flex, 3>(alone), 1, rows.clone()));
    assert_eq!(place(&written), before);
    assert_eq!(super::read(ops::tensor::<Flex, 3>(written)), expected);
    let held = Tensor::<Flex, 3>::from_data(room().into_data(), &device);
    assert_eq!(super::read(ops::write_rows(held.clone(), 1, rows.clone())), expected);
    assert_eq!(super::read(held), super::read(room()));
    let other = flat::<NdArray>(&values, DType::F32).reshape([2, 5, 3]);
    let rows = flat::<NdArray>(&super::read(rows), DType::F32).reshape([2, 2, 3]);
    assert_eq!(super::read(ops::write_rows(other, 1, rows)), expected);
}
