//! What a decoder's block does beside its linear layers: RMS norm, rotary embedding, `SwiGLU`, causal attention.

pub(crate) mod stock;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Int, Tensor};

use crate::{LayerOps, primitive, tensor};

/// What [`causal_attention`] takes, as the backend's own tensors.
#[derive(Clone, Debug)]
pub struct CausalInputs<B: Backend> {
    /// Queries `[batch, n_queries, n_heads * head_dim]`, of the last tokens.
    pub q: FloatTensor<B>,
    /// Keys `[batch, n_keys, n_kv_heads * head_dim]`.
    pub k: FloatTensor<B>,
    /// Values, as the keys.
    pub v: FloatTensor<B>,
    /// The first key that each query sees, `[batch, n_queries]`.
    pub first: IntTensor<B>,
    /// Number of heads of queries.
    pub n_heads: usize,
    /// Number of heads of keys and values, a divisor of `n_heads`.
    pub n_kv_heads: usize,
}

/// `x` over the root of the mean of its squares along the last dimension, times `gamma`.
///
/// # Shapes
/// - `x` and the result: `[batch, seq, d]`
/// - `gamma`: `[d]`
///
/// # Panics
/// If `gamma` has another length than the last dimension.
///
/// # Source
/// Zhang and Sennrich, arXiv 1910.07467.
pub fn rms_norm<B: LayerOps>(x: Tensor<B, 3>, gamma: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 3> {
    let d = x.dims()[2];
    assert_eq!(gamma.dims(), [d], "gamma holds one value for each of the {d} features");
    tensor(B::fused_rms_norm(primitive(x), primitive(gamma), epsilon))
}

/// Rotary embedding: in each head, feature `j` and the one half a head further turn by an angle of their token's.
///
/// The tables are constants: no gradient goes to them.
///
/// # Shapes
/// - `x` and the result: `[batch, seq, heads * head_dim]`
/// - `cos`, `sin`: `[batch, seq, head_dim / 2]`
///
/// # Panics
/// If the shapes differ from these.
///
/// # Source
/// Su et al., arXiv 2104.09864; pairs as in transformers, `j` with `j + head_dim / 2`.
pub fn rotary<B: LayerOps>(x: Tensor<B, 3>, cos: Tensor<B, 3>, sin: Tensor<B, 3>) -> Tensor<B, 3> {
    let ([batch, seq, d], [_, _, half]) = (x.dims(), cos.dims());
    assert_eq!([cos.dims(), sin.dims()], [[batch, seq, half]; 2], "an angle for each token and pair");
    assert!(half > 0 && d.is_multiple_of(2 * half), "pairs of {half} angles do not divide {d} features");
    tensor(B::fused_rotary(primitive(x), primitive(cos), primitive(sin)))
}

/// `gate * sigmoid(gate) * up`.
///
/// # Shapes
/// - `gate`, `up` and the result: `[batch, seq, d]`
///
/// # Panics
/// If the shapes differ.
///
/// # Source
/// Shazeer, arXiv 2002.05202.
pub fn swiglu<B: LayerOps>(gate: Tensor<B, 3>, up: Tensor<B, 3>) -> Tensor<B, 3> {
    assert_eq!(gate.dims(), up.dims(), "a gate for each value");
    tensor(B::fused_swiglu(primitive(gate), primitive(up)))
}

/// `room` with `rows` from row `at` on: in place where nobody else holds it and the backend can.
///
/// # Shapes
/// - `room` and the result: `[batch, n, d]`
/// - `rows`: `[batch, m, d]`, `at + m` at most `n`
///
/// # Panics
/// If the shapes differ from these.
pub fn write_rows<B: LayerOps>(room: Tensor<B, 3>, at: usize, rows: Tensor<B, 3>) -> Tensor<B, 3> {
    let ([batch, n, d], [_, m, _]) = (room.dims(), rows.dims());
    assert_eq!(rows.dims(), [batch, m, d], "rows as wide as the room, in each example");
    assert!(at <= n && m <= n - at, "there is room for the rows");
    tensor(B::fused_write_rows(primitive(room), at, primitive(rows)))
}

/// Attention of each query to the keys from the first that it sees to its own token, with scores scaled by
/// `1 / sqrt(head_dim)`.
///
/// The queries are the last tokens of the keys', so the last query sees every key from its first on. Several heads of
/// queries share one of keys and values: head `h` that of index `h * n_kv_heads / n_heads`. A sliding window, padding on
/// the left and texts packed into one row are all a matter of `first`.
///
/// # Shapes
/// - `q` and the result: `[batch, n_queries, n_heads * head_dim]`, the heads side by side
/// - `k`, `v`: `[batch, n_keys, n_kv_heads * head_dim]`
/// - `first`: `[batch, n_queries]`, none beyond its query's own token
///
/// # Panics
/// If the shapes differ from these, or there are more queries than keys.
pub fn causal_attention<B: LayerOps>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    first: Tensor<B, 2, Int>,
    [n_heads, n_kv_heads]: [usize; 2],
) -> Tensor<B, 3> {
    let ([batch, n_queries, d], [_, n_keys, d_kv]) = (q.dims(), k.dims());
    assert!(
        n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads) && d.is_multiple_of(n_heads),
        "{n_heads} heads that share {n_kv_heads} of keys do not divide {d} features"
    );
    assert_eq!(d_kv * n_heads, d * n_kv_heads, "heads of keys are as wide as those of queries");
    assert_eq!([k.dims(), v.dims()], [[batch, n_keys, d_kv]; 2], "a value for each key");
    assert!(n_queries <= n_keys, "every query is the token of a key");
    assert_eq!(first.dims(), [batch, n_queries], "a first key for each query");
    let (q, k, v, first) = (primitive(q), primitive(k), primitive(v), first.into_primitive());
    tensor(B::fused_causal_attention(CausalInputs { q, k, v, first, n_heads, n_kv_heads }))
}
