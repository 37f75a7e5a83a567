//! The linear layer, most of the work of every model, that of blocks, and the sum, which burn takes on one thread.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, Tensor, TensorMetadata};

use crate::{LayerOps, primitive, tensor, widened};

/// `x weight + bias`; a weight of another element type is widened to that of `x`. One exception, for all products here:
/// on flex more than 32 rows of `x` are rounded to bf16 beside a weight in bf16, where the processor multiplies such.
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

/// `x rowsᵀ`: the product of each vector with every row of a table.
///
/// # Shapes
/// - `x`: `[.., d]`
/// - `rows`: `[n, d]`
/// - returns `[.., n]`
///
/// # Panics
/// If the shapes differ from these.
pub fn linear_of_rows<B: LayerOps, const D: usize>(x: Tensor<B, D>, rows: Tensor<B, 2>) -> Tensor<B, D> {
    let (dims, [_, d]) = (x.dims(), rows.dims());
    assert_eq!(dims.last(), Some(&d), "the rows are as long as the input");
    // What a linear layer does on the way back.
    tensor(B::fused_linear_backward(primitive(rows), primitive(x), None))
}

/// `x` times a weight of blocks along the diagonal: each slice of the features by the block of its own.
///
/// # Shapes
/// - `x`: `[.., n * d_in]`
/// - `weight`: `[n, d_in, d_out]`
/// - returns `[.., n * d_out]`
///
/// # Panics
/// If the shapes differ from these.
pub fn block_linear<B: LayerOps, const D: usize>(x: Tensor<B, D>, weight: Tensor<B, 3>) -> Tensor<B, D> {
    let (dims, [n, d_in, _]) = (x.dims(), weight.dims());
    assert_eq!(dims.last(), Some(&(n * d_in)), "the blocks have a row for each feature of the input");
    tensor(B::fused_block_linear(primitive(x), primitive(weight)))
}

/// `a + b`, of one shape.
///
/// # Panics
/// If the shapes differ.
pub fn add<B: LayerOps, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
    assert_eq!(a.dims(), b.dims(), "a sum is of one shape");
    tensor(B::fused_add(primitive(a), primitive(b)))
}

pub(crate) fn stock_linear<B: LayerOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let x = rows::<B>(x);
    let weight = of_type(tensor::<B, 2>(weight), x.dtype());
    let y = x.matmul(weight);
    let y = match bias {
        Some(bias) => y + tensor::<B, 1>(bias).unsqueeze(),
        None => y,
    };
    like_rows::<B>(y, shape)
}

pub(crate) fn stock_linear_backward<B: LayerOps>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    known: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let shape = grad.shape();
    let grad = rows::<B>(grad);
    let weight = of_type(tensor::<B, 2>(weight), grad.dtype());
    let of_x = grad.matmul(weight.transpose());
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

pub(crate) fn stock_block_linear<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let (shape, weight) = (x.shape(), tensor::<B, 3>(weight));
    let y = slices::<B>(x, weight.dims()[0]).matmul(weight);
    like_rows::<B>(side_by_side(y), shape)
}

pub(crate) fn stock_block_linear_backward<B: Backend>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    known: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let (shape, weight) = (grad.shape(), tensor::<B, 3>(weight));
    let of_x = slices::<B>(grad, weight.dims()[0]).matmul(weight.transpose());
    let of_x = like_rows::<B>(side_by_side(of_x), shape);
    match known {
        Some(known) => B::float_add(of_x, known),
        None => of_x,
    }
}

pub(crate) fn stock_block_linear_weight_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    n_blocks: usize,
) -> FloatTensor<B> {
    primitive(slices::<B>(x, n_blocks).transpose().matmul(slices::<B>(grad, n_blocks)))
}

/// The weight in the element type of what it is multiplied with.
fn of_type<B: LayerOps>(weight: Tensor<B, 2>, dtype: DType) -> Tensor<B, 2> {
    if weight.dtype() == dtype { weight } else { widened(weight).cast(dtype) }
}

/// `[.., n * d]` as `[n, rows, d]`.
fn slices<B: Backend>(x: FloatTensor<B>, n: usize) -> Tensor<B, 3> {
    let x = rows::<B>(x);
    let [rows, d] = x.dims();
    x.reshape([rows, n, d / n]).swap_dims(0, 1)
}

/// `[n, rows, d]` as `[rows, n * d]`.
fn side_by_side<B: Backend>(y: Tensor<B, 3>) -> Tensor<B, 2> {
    let [n, rows, d] = y.dims();
    y.swap_dims(0, 1).reshape([rows, n * d])
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
