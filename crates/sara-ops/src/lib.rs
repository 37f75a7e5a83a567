//! The layers of a transformer as an extension of burn's backends, and what computes them on the CPU.
//!
//! [`LayerOps`] has burn's own operations as default bodies, so a backend joins with an empty `impl`. Flex overrides them
//! (`flex.rs`) with loops that are fused, vectorised and shared by the threads; `Autodiff` records each as one node of
//! the graph (`autodiff.rs`), which keeps no more than the gradients that are wanted need. The free functions of
//! [`linear`](mod@linear), [`packed`], [`block`], [`decoder`],
//! [`token_loss`](mod@token_loss) and [`quantize`](mod@quantize) are the interface.
//!
//! [`strided`] is the product of matrices inside larger buffers, [`buffer`] makes new buffers, and
//! [`threads`] keeps the threads awake between two pieces of work.

mod autodiff;
pub mod block;
pub mod buffer;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
pub mod decoder;
#[cfg(feature = "flex")]
mod flex;
pub mod linear;
pub mod packed;
pub mod quantize;
#[cfg(feature = "flex")]
pub mod strided;
pub mod threads;
pub mod token_loss;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{FloatDType, Tensor, TensorData, TensorPrimitive};

pub use block::{AttentionInputs, attention, gelu, layer_norm};
pub use decoder::{CausalInputs, causal_attention, rms_norm, rotary, swiglu, write_rows};
pub use linear::{add, block_linear, linear};
pub use packed::{Packed, table_rows, widened};
pub use quantize::quantize;
pub use token_loss::token_loss;

/// Backend extension: layers and their gradients, by default burn's own operations.
///
/// The free functions are the interface; the methods here are what a backend may override. Gradients are methods of
/// their own, because a parent that is not trained needs none.
pub trait LayerOps: Backend {
    /// Whether this backend takes every sum in a fixed order, burn's own operations included: then the same seed gives
    /// the same bits.
    const BIT_FOR_BIT: bool = false;

    /// Whether weights of 16 bits stay so in memory: linear layers and tables of rows widen them piece by piece. Elsewhere
    /// a weight is widened as a whole each time.
    const NARROW_WEIGHTS: bool = false;

    /// Whether weights of linear layers in 8 or 4 bits stay so in memory.
    const PACKED_WEIGHTS: bool = false;

    /// A frozen table `[rows, columns]` of these values, in as few bits as this backend can hold it.
    fn packed_table(packed: Packed, device: &Self::Device) -> FloatTensor<Self> {
        let data = TensorData::new(packed.values(), packed.shape());
        Self::float_from_data(data, device)
    }

    /// The frozen weight of a linear layer likewise, `[columns, rows]`: files have it turned. In so few bits where
    /// [`PACKED_WEIGHTS`](Self::PACKED_WEIGHTS) says so.
    fn packed_weight(packed: Packed, device: &Self::Device) -> FloatTensor<Self> {
        Self::float_swap_dims(Self::packed_table(packed, device), 0, 1)
    }

    /// See [`widened`].
    fn widened(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cast(weight, FloatDType::F32)
    }

    /// The rows of a frozen table at `ids`, `[n, d]`; see [`table_rows`].
    fn fused_table_rows(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        packed::stock_table_rows::<Self>(table, ids)
    }

    /// See [`linear`](linear()).
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        linear::stock_linear::<Self>(x, weight, bias)
    }

    /// Gradient of [`linear`](linear()) by its input, `grad weightᵀ`, added to what is known of it.
    fn fused_linear_backward(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        known: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        linear::stock_linear_backward::<Self>(weight, grad, known)
    }

    /// Gradient of [`linear`](linear()) by its weight: `xᵀ grad`.
    fn fused_linear_weight_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::stock_linear_weight_backward::<Self>(x, grad)
    }

    /// See [`block_linear`].
    fn fused_block_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::stock_block_linear::<Self>(x, weight)
    }

    /// Gradient of [`block_linear`] by its input, added to what is known of it.
    fn fused_block_linear_backward(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        known: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        linear::stock_block_linear_backward::<Self>(weight, grad, known)
    }

    /// Gradient of [`block_linear`] by its weight of so many blocks.
    fn fused_block_linear_weight_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        n_blocks: usize,
    ) -> FloatTensor<Self> {
        linear::stock_block_linear_weight_backward::<Self>(x, grad, n_blocks)
    }

    /// See [`add`].
    fn fused_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(a, b)
    }

    /// See [`gelu`].
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        block::stock::gelu::<Self>(x)
    }

    /// Gradient of [`gelu`] by its input.
    fn fused_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        block::stock::gelu_backward::<Self>(x, grad)
    }

    /// See [`layer_norm`].
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        block::stock::layer_norm::<Self>(x, gamma, beta, epsilon)
    }

    /// Gradient of [`layer_norm`] by its input.
    fn fused_layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        block::stock::layer_norm_backward::<Self>(x, gamma, epsilon, grad)
    }

    /// Gradient of [`layer_norm`] by `gamma`. That by `beta` is the sum of `grad` over batch and sequence.
    fn fused_layer_norm_gamma_backward(
        x: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        block::stock::layer_norm_gamma_backward::<Self>(x, epsilon, grad)
    }

    /// See [`attention`].
    fn fused_attention(inputs: AttentionInputs<Self>) -> FloatTensor<Self> {
        block::stock::attention::<Self>(inputs)
    }

    /// Gradients of [`attention`] by query, key and value, each where `wanted` in that order.
    fn fused_attention_backward(
        inputs: AttentionInputs<Self>,
        grad: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        block::stock::attention_backward::<Self>(inputs, grad, wanted)
    }

    /// See [`rms_norm`].
    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        decoder::stock::rms_norm::<Self>(x, gamma, epsilon)
    }

    /// Gradient of [`rms_norm`] by its input.
    fn fused_rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        decoder::stock::rms_norm_backward::<Self>(x, gamma, epsilon, grad)
    }

    /// Gradient of [`rms_norm`] by `gamma`.
    fn fused_rms_norm_gamma_backward(
        x: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        decoder::stock::rms_norm_gamma_backward::<Self>(x, epsilon, grad)
    }

    /// See [`rotary`]. Its gradient is the same with the other sign of `sin`.
    fn fused_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        decoder::stock::rotary::<Self>(x, cos, sin)
    }

    /// See [`write_rows`].
    fn fused_write_rows(room: FloatTensor<Self>, at: usize, rows: FloatTensor<Self>) -> FloatTensor<Self> {
        decoder::stock::write_rows::<Self>(room, at, rows)
    }

    /// See [`swiglu`].
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        decoder::stock::swiglu::<Self>(gate, up)
    }

    /// Gradients of [`swiglu`] by gate and up, each where `wanted` in that order.
    fn fused_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        wanted: [bool; 2],
    ) -> [Option<FloatTensor<Self>>; 2] {
        decoder::stock::swiglu_backward::<Self>(gate, up, grad, wanted)
    }

    /// See [`causal_attention`].
    fn fused_causal_attention(inputs: CausalInputs<Self>) -> FloatTensor<Self> {
        decoder::stock::causal_attention::<Self>(inputs)
    }

    /// Gradients of [`causal_attention`] by query, key and value, each where `wanted` in that order.
    fn fused_causal_attention_backward(
        inputs: CausalInputs<Self>,
        grad: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        decoder::stock::causal_attention_backward::<Self>(inputs, grad, wanted)
    }

    /// See [`token_loss`](token_loss()).
    fn fused_token_loss(
        hidden: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        targets: IntTensor<Self>,
        wanted: token_loss::Wanted,
    ) -> token_loss::TokenLoss<Self> {
        token_loss::stock::<Self>(hidden, rows, targets, wanted)
    }

    /// See [`quantize`](quantize()).
    fn fused_quantize(
        x: FloatTensor<Self>,
        step: FloatTensor<Self>,
        open: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        quantize::stock::<Self>(x, step, open)
    }

    /// Gradient of [`quantize`](quantize()) by its gates. That by `x` is `grad`.
    fn fused_quantize_open_backward(
        x: FloatTensor<Self>,
        step: FloatTensor<Self>,
        open: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        quantize::stock_open_backward::<Self>(x, step, open, grad)
    }
}

/// A backend on which adapters train: it and its inner backend have [`LayerOps`].
pub trait TrainOps: AutodiffBackend<InnerBackend: LayerOps> + LayerOps {}

impl<B: AutodiffBackend<InnerBackend: LayerOps> + LayerOps> TrainOps for B {}

#[cfg(feature = "ndarray")]
impl<E, I, Q> LayerOps for burn_ndarray::NdArray<E, I, Q>
where
    Self: Backend,
    burn_ndarray::NdArrayTensor: From<burn_ndarray::SharedArray<E>> + From<burn_ndarray::SharedArray<I>>,
{
    const BIT_FOR_BIT: bool = true;
}

/// A tensor of a backend's own, of rank `D`.
pub fn tensor<B: Backend, const D: usize>(x: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// The backend's own of a tensor.
pub fn primitive<B: Backend, const D: usize>(x: Tensor<B, D>) -> FloatTensor<B> {
    x.into_primitive().tensor()
}
