//! The linear layer as an extension of burn's backends: most of the work of every model goes through it.
//!
//! [`LinearOps`] has burn's own operations as default bodies, so a backend joins with an empty `impl`. Flex overrides
//! them (`ops/flex.rs`); `Autodiff` records the layer as one node of the graph (`ops/autodiff.rs`).

mod autodiff;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};

/// Backend extension: the linear layer and its gradients, by default burn's own products.
///
/// [`linear`] is the interface; the methods here are what a backend may override.
pub trait LinearOps: Backend {
    /// Whether this backend takes every sum in a fixed order, burn's own operations included: then the same seed gives
    /// the same bits.
    const BIT_FOR_BIT: bool = false;

    /// See [`linear`].
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        stock_linear::<Self>(x, weight, bias)
    }

    /// Gradient of [`linear`] by its input: `grad weightᵀ`.
    fn fused_linear_backward(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        stock_linear_backward::<Self>(weight, grad)
    }

    /// Gradient of [`linear`] by its weight: `xᵀ grad`.
    fn fused_linear_weight_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        stock_linear_weight_backward::<Self>(x, grad)
    }
}

/// A backend on which adapters train: it and its inner backend have [`LinearOps`].
pub trait TrainOps: AutodiffBackend<InnerBackend: LinearOps> + LinearOps {}

impl<B: AutodiffBackend<InnerBackend: LinearOps> + LinearOps> TrainOps for B {}

#[cfg(feature = "ndarray")]
impl<E, I, Q> LinearOps for burn_ndarray::NdArray<E, I, Q>
where
    Self: Backend,
    burn_ndarray::NdArrayTensor: From<burn_ndarray::SharedArray<E>> + From<burn_ndarray::SharedArray<I>>,
{
    const BIT_FOR_BIT: bool = true;
}

/// `x weight + bias`.
///
/// # Shapes
/// - `x`: `[rows, d_in]`
/// - `weight`: `[d_in, d_out]`, `bias`: `[d_out]`
/// - returns `[rows, d_out]`
///
/// # Panics
/// If the shapes differ from these.
pub fn linear<B: LinearOps>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    let ([_, d_in], [rows, d_out]) = (x.dims(), weight.dims());
    assert_eq!(d_in, rows, "the weight has a row for each feature of the input");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [d_out], "the bias has a value for each column of the weight");
    }
    tensor(B::fused_linear(primitive(x), primitive(weight), bias.map(primitive)))
}

fn stock_linear<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let y = tensor::<B, 2>(x).matmul(tensor(weight));
    primitive(match bias {
        Some(bias) => y + tensor::<B, 1>(bias).unsqueeze(),
        None => y,
    })
}

fn stock_linear_backward<B: Backend>(weight: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    primitive(tensor::<B, 2>(grad).matmul(tensor::<B, 2>(weight).transpose()))
}

fn stock_linear_weight_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    primitive(tensor::<B, 2>(x).transpose().matmul(tensor(grad)))
}

/// A tensor of a backend's own, of rank `D`.
pub fn tensor<B: Backend, const D: usize>(x: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// The backend's own of a tensor.
pub fn primitive<B: Backend, const D: usize>(x: Tensor<B, D>) -> FloatTensor<B> {
    x.into_primitive().tensor()
}
