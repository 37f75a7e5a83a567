//! The encoder's operations in burn's own: default bodies of the backend extension.
//!
//! Gradients are written out, because burn's GELU differentiates the tanh approximation on most backends,
//! and because its attention would keep the probabilities of every layer.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::nn::DropoutConfig;
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Bool, Tensor};

use super::AttentionInputs;
use crate::{primitive, tensor};

pub(crate) fn gelu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = tensor::<B, 3>(x);
    primitive(x.clone() * normal_cdf(x))
}

pub(crate) fn gelu_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let (x, grad) = (tensor::<B, 3>(x), tensor::<B, 3>(grad));
    let density = (x.clone().square() * -0.5).exp() / (2.0 * PI).sqrt();
    primitive(grad * (normal_cdf(x.clone()) + x * density))
}

fn normal_cdf<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

pub(crate) fn layer_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (gamma, beta) = (tensor::<B, 1>(gamma), tensor::<B, 1>(beta));
    let (normal, _) = standardize::<B>(x, epsilon);
    primitive(normal * gamma.unsqueeze() + beta.unsqueeze())
}

pub(crate) fn layer_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let (normal, deviation) = standardize::<B>(x, epsilon);
    let grad = tensor::<B, 3>(grad) * tensor::<B, 1>(gamma).unsqueeze();
    let along = (grad.clone() * normal.clone()).mean_dim(2);
    primitive((grad.clone() - grad.mean_dim(2) - normal * along) / deviation)
}

pub(crate) fn layer_norm_gamma_backward<B: Backend>(
    x: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let (normal, _) = standardize::<B>(x, epsilon);
    sum_rows::<B>(primitive(tensor::<B, 3>(grad) * normal))
}

/// Sum over batch and sequence, `[batch, seq, d]` -> `[d]`.
pub(crate) fn sum_rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = tensor::<B, 3>(x);
    let [batch, seq, d] = x.dims();
    primitive(x.reshape([batch * seq, d]).sum_dim(0).reshape([d]))
}

/// `x` with mean 0 and variance 1 along the last dimension, and the deviation it was divided by.
fn standardize<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> (Tensor<B, 3>, Tensor<B, 3>) {
    let x = tensor::<B, 3>(x);
    let centered = x.clone() - x.mean_dim(2);
    let deviation = (centered.clone().square().mean_dim(2) + epsilon).sqrt();
    (centered / deviation.clone(), deviation)
}

pub(crate) fn attention<B: Backend>(inputs: AttentionInputs<B>) -> FloatTensor<B> {
    let n_heads = inputs.n_heads;
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|x| split(tensor::<B, 3>(x), n_heads));
    primitive(join(probabilities(q, k, inputs.mask.map(Tensor::from_primitive)).matmul(v)))
}

pub(crate) fn attention_with_dropout<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    n_heads: usize,
    mask: Option<Tensor<B, 2, Bool>>,
    dropout: f64,
) -> Tensor<B, 3> {
    let [q, k, v] = [q, k, v].map(|x| split(x, n_heads));
    let dropout = DropoutConfig::new(dropout).init();
    join(dropout.forward(probabilities(q, k, mask)).matmul(v))
}

pub(crate) fn attention_backward<B: Backend>(
    inputs: AttentionInputs<B>,
    grad: FloatTensor<B>,
    wanted: [bool; 3],
) -> [Option<FloatTensor<B>>; 3] {
    let n_heads = inputs.n_heads;
    let [q, k, v, grad] = [inputs.q, inputs.k, inputs.v, grad].map(|x| split(tensor::<B, 3>(x), n_heads));
    let scale = (q.dims()[3] as f64).sqrt().recip();
    let p = probabilities(q.clone(), k.clone(), inputs.mask.map(Tensor::from_primitive));
    let dv = wanted[2].then(|| primitive(join(p.clone().transpose().matmul(grad.clone()))));
    if !wanted[0] && !wanted[1] {
        return [None, None, dv];
    }
    let dp = grad.matmul(v.transpose());
    let along = (dp.clone() * p.clone()).sum_dim(3);
    let ds = p * (dp - along) * scale;
    let dq = wanted[0].then(|| primitive(join(ds.clone().matmul(k))));
    let dk = wanted[1].then(|| primitive(join(ds.transpose().matmul(q))));
    [dq, dk, dv]
}

/// `[batch, seq, d]` -> `[batch, heads, seq, d / heads]`.
fn split<B: Backend>(x: Tensor<B, 3>, n_heads: usize) -> Tensor<B, 4> {
    let [batch, seq, d] = x.dims();
    x.reshape([batch, seq, n_heads, d / n_heads]).swap_dims(1, 2)
}

/// `[batch, heads, seq, d / heads]` -> `[batch, seq, d]`.
fn join<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, n_heads, seq, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, seq, n_heads * head_dim])
}

/// Softmax of the scaled scores over the keys that count, zero for the others.
fn probabilities<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    mask: Option<Tensor<B, 2, Bool>>,
) -> Tensor<B, 4> {
    let ([batch, n_heads, n_queries, head_dim], n_keys) = (q.dims(), k.dims()[2]);
    let scores = q.matmul(k.transpose()) * (head_dim as f64).sqrt().recip();
    let Some(mask) = mask else { return softmax(scores, 3) };
    let padded = mask.bool_not().reshape([batch, 1, 1, n_keys]).expand([batch, n_heads, n_queries, n_keys]);
    // Not minus infinity, whose softmax is NaN where no key counts.
    let lowest = scores.dtype().finfo().map_or(f64::from(f32::MIN), |info| info.min);
    softmax(scores.mask_fill(padded.clone(), lowest), 3).mask_fill(padded, 0.0)
}
