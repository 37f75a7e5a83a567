//! What a transformer block does beside its linear layers: GELU, layer norm, attention.

pub(crate) mod stock;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{BoolTensor, FloatTensor};
use burn::tensor::{Bool, Tensor};

use crate::{LayerOps, primitive, tensor};

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

/// Exact GELU, `x * (1 + erf(x / sqrt(2))) / 2`.
///
/// # Shapes
/// - `x` and the result: `[batch, seq, d]`
pub fn gelu<B: LayerOps>(x: Tensor<B, 3>) -> Tensor<B, 3> {
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
pub fn layer_norm<B: LayerOps>(
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
pub fn attention<B: LayerOps>(
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
