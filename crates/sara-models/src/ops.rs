//! The encoder's operations as an extension of burn's backends: GELU, layer norm, attention.
//!
//! [`EncoderOps`] has burn's own operations as default bodies, so a backend joins with an empty `impl`.
//! Flex overrides them with fused loops (`ops/flex.rs`); `Autodiff` records each as one node of the graph
//! (`ops/autodiff.rs`), which keeps only the operation's inputs and recomputes the rest in the backward pass.

mod autodiff;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
#[cfg(feature = "flex")]
mod flex;
mod stock;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{BoolTensor, FloatTensor};
use burn::tensor::{Bool, Tensor};
use sara_core::LinearOps;
use sara_core::ops::{primitive, tensor};

/// Backend extension: fused encoder operations, by default burn's own ones.
///
/// The free functions of this module are the interface; the methods here are what a backend may override.
/// Gradients are methods of their own, because a parent that is not trained needs none.
pub trait EncoderOps: LinearOps {
    /// See [`gelu`].
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        stock::gelu::<Self>(x)
    }

    /// Gradient of [`gelu`] by its input.
    fn fused_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        stock::gelu_backward::<Self>(x, grad)
    }

    /// See [`layer_norm`].
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        stock::layer_norm::<Self>(x, gamma, beta, epsilon)
    }

    /// Gradient of [`layer_norm`] by its input.
    fn fused_layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        stock::layer_norm_backward::<Self>(x, gamma, epsilon, grad)
    }

    /// Gradient of [`layer_norm`] by `gamma`. That by `beta` is the sum of `grad` over batch and sequence.
    fn fused_layer_norm_gamma_backward(
        x: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        stock::layer_norm_gamma_backward::<Self>(x, epsilon, grad)
    }

    /// See [`attention`].
    fn fused_attention(inputs: AttentionInputs<Self>) -> FloatTensor<Self> {
        stock::attention::<Self>(inputs)
    }

    /// Gradients of [`attention`] by query, key and value, each where `wanted` in that order.
    fn fused_attention_backward(
        inputs: AttentionInputs<Self>,
        grad: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        stock::attention_backward::<Self>(inputs, grad, wanted)
    }
}

/// What [`attention`] takes, as the backend's own tensors.
#[derive(Clone, Debug)]
pub struct AttentionInputs<B: Backend> {
    /// Queries `[batch, n_queries, d]`, heads side by side.
    pub q: FloatTensor<B>,
    /// Keys `[batch, n_keys, d]`.
    pub k: FloatTensor<B>,
    /// Values `[batch, n_keys, d]`.
    pub v: FloatTensor<B>,
    /// Which keys count, `[batch, n_keys]`.
    pub mask: Option<BoolTensor<B>>,
    /// Number of heads, a divisor of `d`.
    pub n_heads: usize,
}

#[cfg(feature = "ndarray")]
impl<E, I, Q> EncoderOps for burn_ndarray::NdArray<E, I, Q>
where
    Self: Backend,
    burn_ndarray::NdArrayTensor: From<burn_ndarray::SharedArray<E>> + From<burn_ndarray::SharedArray<I>>,
{
}

/// Exact GELU, `x * (1 + erf(x / sqrt(2))) / 2`.
///
/// # Shapes
/// - `x` and the result: `[batch, seq, d]`
pub fn gelu<B: EncoderOps>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    tensor(B::fused_gelu(primitive(x)))
}

/// Layer norm over the last dimension, with the biased variance.
///
/// # Shapes
/// - `x` and the result: `[batch, seq, d]`
/// - `gamma`, `beta`: `[d]`
///
/// # Panics
/// If `gamma` or `beta` has another length than the last dimension.
pub fn layer_norm<B: EncoderOps>(
    x: Tensor<B, 3>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, 3> {
    let d = x.dims()[2];
    assert_eq!(
        [gamma.dims(), beta.dims()],
        [[d]; 2],
        "gamma and beta hold one value for each of the {d} features"
    );
    tensor(B::fused_layer_norm(primitive(x), primitive(gamma), primitive(beta), epsilon))
}

/// Attention of every query to every key that counts, with scores scaled by `1 / sqrt(d / n_heads)`.
///
/// Keys where `mask` is false take no part at all. Where that leaves a sequence without keys, its output
/// and the gradients through it are zero. A `dropout` on the probabilities above 0 acts only on a backend
/// that differentiates, and is left to burn's own operations.
///
/// # Shapes
/// - `q` and the result: `[batch, n_queries, d]`, the heads side by side
/// - `k`, `v`: `[batch, n_keys, d]`
/// - `mask`: `[batch, n_keys]`, true where a key counts
///
/// # Panics
/// If the shapes differ from these, or `n_heads` does not divide `d`.
pub fn attention<B: EncoderOps>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    n_heads: usize,
    mask: Option<Tensor<B, 2, Bool>>,
    dropout: f64,
) -> Tensor<B, 3> {
    let ([batch, _, d], [_, n_keys, _]) = (q.dims(), k.dims());
    assert_eq!(
        [k.dims(), v.dims()],
        [[batch, n_keys, d]; 2],
        "a value for each key, both as wide as a query"
    );
    assert!(n_heads > 0 && d.is_multiple_of(n_heads), "{n_heads} heads do not divide {d} features");
    if let Some(mask) = &mask {
        assert_eq!(mask.dims(), [batch, n_keys], "the mask has one value for each key");
    }
    if dropout > 0.0 && B::ad_enabled(&q.device()) {
        return stock::attention_with_dropout(q, k, v, n_heads, mask, dropout);
    }
    let (q, k, v) = (primitive(q), primitive(k), primitive(v));
    tensor(B::fused_attention(AttentionInputs { q, k, v, mask: mask.map(Tensor::into_primitive), n_heads }))
}
