//! The decoder's operations in burn's own: default bodies of the backend extension, with gradients written out.

use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Bool, Int, Tensor};

use super::CausalInputs;
use crate::block::stock::sum_rows;
use crate::{primitive, tensor};

pub(crate) fn rms_norm<B: Backend>(x: FloatTensor<B>, gamma: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let x = tensor::<B, 3>(x);
    let root = root_mean_square(x.clone(), epsilon);
    primitive(x / root * tensor::<B, 1>(gamma).unsqueeze())
}

pub(crate) fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let x = tensor::<B, 3>(x);
    let root = root_mean_square(x.clone(), epsilon);
    let grad = tensor::<B, 3>(grad) * tensor::<B, 1>(gamma).unsqueeze();
    let normal = x / root.clone();
    let along = (grad.clone() * normal.clone()).mean_dim(2);
    primitive((grad - normal * along) / root)
}

pub(crate) fn rms_norm_gamma_backward<B: Backend>(
    x: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let x = tensor::<B, 3>(x);
    let root = root_mean_square(x.clone(), epsilon);
    sum_rows::<B>(primitive(tensor::<B, 3>(grad) * (x / root)))
}

fn root_mean_square<B: Backend>(x: Tensor<B, 3>, epsilon: f64) -> Tensor<B, 3> {
    (x.square().mean_dim(2) + epsilon).sqrt()
}

/// Its gradient turns back: the same with `-sin`.
pub(crate) fn rotary<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let (x, cos, sin) = (tensor::<B, 3>(x), tensor::<B, 3>(cos), tensor::<B, 3>(sin));
    let ([batch, seq, d], [_, _, half]) = (x.dims(), cos.dims());
    let x = x.reshape([batch, seq, d / (2 * half), 2 * half]);
    let [a, b] = [0, half].map(|start| x.clone().narrow(3, start, half));
    let [cos, sin] = [cos, sin].map(|table| table.unsqueeze_dim::<4>(2));
    let turned = [a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    primitive(Tensor::cat(turned.to_vec(), 3).reshape([batch, seq, d]))
}

/// burn's own rounds to f32, and `recip` has fourteen bits on ndarray, which takes the processor's estimate for it.
fn sigmoid<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    x.ones_like() / (x.neg().exp() + 1.0)
}

pub(crate) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let gate = tensor::<B, 3>(gate);
    primitive(gate.clone() * sigmoid(gate) * tensor(up))
}

pub(crate) fn swiglu_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
    wanted: [bool; 2],
) -> [Option<FloatTensor<B>>; 2] {
    let (gate, up, grad) = (tensor::<B, 3>(gate), tensor::<B, 3>(up), tensor::<B, 3>(grad));
    let open = sigmoid(gate.clone());
    let of_up = wanted[1].then(|| primitive(grad.clone() * gate.clone() * open.clone()));
    let of_gate = wanted[0].then(|| {
        let slope = open.clone() * (gate * (open.neg() + 1.0) + 1.0);
        primitive(grad * up * slope)
    });
    [of_gate, of_up]
}

pub(crate) fn causal_attention<B: Backend>(inputs: CausalInputs<B>) -> FloatTensor<B> {
    let (n_heads, Grouped { q, k, v, hidden }) = (inputs.n_heads, Grouped::of(inputs));
    primitive(join(probabilities(q, k, hidden).matmul(v), n_heads))
}

pub(crate) fn causal_attention_backward<B: Backend>(
    inputs: CausalInputs<B>,
    grad: FloatTensor<B>,
    wanted: [bool; 3],
) -> [Option<FloatTensor<B>>; 3] {
    let n_kv_heads = inputs.n_kv_heads;
    let (n_heads, Grouped { q, k, v, hidden }) = (inputs.n_heads, Grouped::of(inputs));
    let grad = grouped(tensor::<B, 3>(grad), n_heads, n_kv_heads);
    let scale = (q.dims()[3] as f64).sqrt().recip();
    let p = probabilities(q.clone(), k.clone(), hidden);
    let dv = wanted[2].then(|| primitive(join(p.clone().transpose().matmul(grad.clone()), n_kv_heads)));
    if !wanted[0] && !wanted[1] {
        return [None, None, dv];
    }
    let dp = grad.matmul(v.transpose());
    let along = (dp.clone() * p.clone()).sum_dim(3);
    let ds = p * (dp - along) * scale;
    let dq = wanted[0].then(|| primitive(join(ds.clone().matmul(k), n_heads)));
    let dk = wanted[1].then(|| primitive(join(ds.transpose().matmul(q), n_kv_heads)));
    [dq, dk, dv]
}

/// Queries `[batch, n_kv_heads, group * n_queries, head_dim]`, where `group` heads share one of keys and values, and
/// which of their keys each must not see.
struct Grouped<B: Backend> {
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    hidden: Tensor<B, 4, Bool>,
}

impl<B: Backend> Grouped<B> {
    fn of(inputs: CausalInputs<B>) -> Self {
        let CausalInputs { q, k, v, first, n_heads, n_kv_heads } = inputs;
        let q = grouped(tensor::<B, 3>(q), n_heads, n_kv_heads);
        let [k, v] = [k, v].map(|x| grouped(tensor::<B, 3>(x), n_kv_heads, n_kv_heads));
        let first = Tensor::<B, 2, Int>::from_primitive(first);
        let ([batch, n_queries], n_keys, group) = (first.dims(), k.dims()[2], n_heads / n_kv_heads);
        let device = first.device();
        let row = |from: usize, to: usize| Tensor::<B, 1, Int>::arange(from as i64..to as i64, &device);
        let shape = [batch, n_queries, n_keys];
        let key = row(0, n_keys).reshape([1, 1, n_keys]).expand(shape);
        let own = row(n_keys - n_queries, n_keys).reshape([1, n_queries, 1]).expand(shape);
        let first = first.reshape([batch, n_queries, 1]).expand(shape);
        let hidden = key.clone().lower(first).bool_or(key.greater(own));
        let hidden = hidden
            .reshape([batch, 1, 1, n_queries, n_keys])
            .expand([batch, n_kv_heads, group, n_queries, n_keys])
            .reshape([batch, n_kv_heads, group * n_queries, n_keys]);
        Self { q, k, v, hidden }
    }
}

/// `[batch, seq, n_heads * head_dim]` -> `[batch, n_groups, n_heads / n_groups * seq, head_dim]`.
fn grouped<B: Backend>(x: Tensor<B, 3>, n_heads: usize, n_groups: usize) -> Tensor<B, 4> {
    let [batch, seq, d] = x.dims();
    x.reshape([batch, seq, n_heads, d / n_heads]).swap_dims(1, 2).reshape([
        batch,
        n_groups,
        n_heads / n_groups * seq,
        d / n_heads,
    ])
}

/// The other way round.
fn join<B: Backend>(x: Tensor<B, 4>, n_heads: usize) -> Tensor<B, 3> {
    let [batch, n_groups, rows, head_dim] = x.dims();
    let seq = rows * n_groups / n_heads;
    x.reshape([batch, n_heads, seq, head_dim]).swap_dims(1, 2).reshape([batch, seq, n_heads * head_dim])
}

/// Softmax of the scaled scores over the keys that are seen, zero for the others.
fn probabilities<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, hidden: Tensor<B, 4, Bool>) -> Tensor<B, 4> {
    let scale = (q.dims()[3] as f64).sqrt().recip();
    let scores = q.matmul(k.transpose()) * scale;
    // Every query sees its own token, so no row is hidden as a whole.
    let lowest = scores.dtype().finfo().map_or(f64::from(f32::MIN), |info| info.min);
    softmax(scores.mask_fill(hidden, lowest), 3)
}

pub(crate) fn write_rows<B: Backend>(
    room: FloatTensor<B>,
    at: usize,
    rows: FloatTensor<B>,
) -> FloatTensor<B> {
    let (room, rows) = (tensor::<B, 3>(room), tensor::<B, 3>(rows));
    let [batch, m, d] = rows.dims();
    primitive(room.slice_assign([0..batch, at..at + m, 0..d], rows))
}
