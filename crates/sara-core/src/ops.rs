//! The linear layer as an extension of burn's backends: most of the work of every model goes through it.
//!
//! [`LinearOps`] has burn's own operations as default bodies, so a backend joins with an empty `impl`. Flex overrides
//! them (`ops/flex.rs`); `Autodiff` records the layer as one node of the graph (`ops/autodiff.rs`). [`add`] stands beside
//! the layer for the sums around it, which burn takes on one thread.

mod autodiff;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata, TensorPrimitive};

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

    /// Gradient of [`linear`] by its input, `grad weightᵀ`, added to what is known of it.
    fn fused_linear_backward(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        known: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        stock_linear_backward::<Self>(weight, grad, known)
    }

    /// Gradient of [`linear`] by its weight: `xᵀ grad`.
    fn fused_linear_weight_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        stock_linear_weight_backward::<Self>(x, grad)
    }

    /// See [`add`].
    fn fused_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(a, b)
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
/// - `x`: `[.., d_in]`
/// - `weight`: `[d_in, d_out]`, `bias`: `[d_out]`
/// - returns `[.., d_out]`
///
/// # Panics
/// If the shapes differ from these.
pub fn linear<B: LinearOps, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let (dims, [rows, d_out]) = (x.dims(), weight.dims());
    assert_eq!(dims.last(), Some(&rows), "the weight has a row for each feature of the input");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [d_out], "the bias has a value for each column of the weight");
    }
    tensor(B::fused_linear(primitive(x), primitive(weight), bias.map(primitive)))
}

/// `a + b`, of one shape.
///
/// # Panics
/// If the shapes differ.
pub fn add<B: LinearOps, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
    assert_eq!(a.dims(), b.dims(), "a sum is of one shape");
    tensor(B::fused_add(primitive(a), primitive(b)))
}

fn stock_linear<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let y = rows::<B>(x).matmul(tensor(weight));
    let y = match bias {
        Some(bias) => y + tensor::<B, 1>(bias).unsqueeze(),
        None => y,
    };
    like_rows::<B>(y, shape)
}

fn stock_linear_backward<B: Backend>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    known: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let shape = grad.shape();
    let of_x = rows::<B>(grad).matmul(tensor::<B, 2>(weight).transpose());
    let of_x = like_rows::<B>(of_x, shape);
    match known {
        Some(known) => B::float_add(of_x, known),
        None => of_x,
    }
}

fn stock_linear_weight_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    primitive(rows::<B>(x).transpose().matmul(rows::<B>(grad)))
}

/// `[.., d]` as `[rows, d]`.
fn rows<B: Backend>(x: FloatTensor<B>) -> Tensor<B, 2> {
    let shape = x.shape();
    let last = shape.rank() - 1;
    let rows = shape[..last].iter().product();
    tensor(B::float_reshape(x, Shape::new([rows, shape[last]])))
}

/// `[rows, d]` as `[.., d]`, with the first dimensions of `shape`.
fn like_rows<B: Backend>(y: Tensor<B, 2>, shape: Shape) -> FloatTensor<B> {
    let shape = ending_in(shape, y.dims()[1]);
    B::float_reshape(primitive(y), shape)
}

/// `shape` with another last dimension.
fn ending_in(mut shape: Shape, d: usize) -> Shape {
    let last = shape.rank() - 1;
    shape[last] = d;
    shape
}

/// A tensor of a backend's own, of rank `D`.
pub fn tensor<B: Backend, const D: usize>(x: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// The backend's own of a tensor.
pub fn primitive<B: Backend, const D: usize>(x: Tensor<B, D>) -> FloatTensor<B> {
    x.into_primitive().tensor()
}
