//! The linear layer, most of the work of every model, and the sum, which burn takes on one thread.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata};

use crate::{LayerOps, primitive, tensor};

/// `x weight + bias`.
///
/// # Shapes
/// - `x`: `[.., d_in]`
/// - `weight`: `[d_in, d_out]`, `bias`: `[d_out]`
/// - returns `[.., d_out]`
///
/// # Panics
/// If the shapes differ from these.
pub fn linear<B: LayerOps, const D: usize>(
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
pub fn add<B: LayerOps, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
    assert_eq!(a.dims(), b.dims(), "a sum is of one shape");
    tensor(B::fused_add(primitive(a), primitive(b)))
}

pub(crate) fn stock_linear<B: Backend>(
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

pub(crate) fn stock_linear_backward<B: Backend>(
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

pub(crate) fn stock_linear_weight_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    primitive(rows::<B>(x).transpose().matmul(rows::<B>(grad)))
}

/// `[.., d]` as `[rows, d]`.
pub(crate) fn rows<B: Backend>(x: FloatTensor<B>) -> Tensor<B, 2> {
    let shape = x.shape();
    let last = shape.rank() - 1;
    let rows = shape[..last].iter().product();
    tensor(B::float_reshape(x, Shape::new([rows, shape[last]])))
}

/// `[rows, d]` as `[.., d]`, with the first dimensions of `shape`.
pub(crate) fn like_rows<B: Backend>(y: Tensor<B, 2>, shape: Shape) -> FloatTensor<B> {
    let shape = ending_in(shape, y.dims()[1]);
    B::float_reshape(primitive(y), shape)
}

/// `shape` with another last dimension.
pub(crate) fn ending_in(mut shape: Shape, d: usize) -> Shape {
    let last = shape.rank() - 1;
    shape[last] = d;
    shape
}
