//! The linear layer on flex: a product in panels of columns, to which the bias is added while they are at hand. Forward
//! each thread has its own band of rows as well; back it has not, so that each part of the weight, which gemm must
//! transpose, is packed by one thread alone. The gradient of a weight is cut into panels along its longer side, since
//! that of an adapter is a few rows or columns wide.
//!
//! burn-flex hands whole products to several threads, which wait for one another at every block; here they meet once.
//! Only f32 goes this way; weights of fewer bits go that of `narrow.rs`. A value never depends on the piece that it is in, hence not on the threads.

use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::narrow::Narrow;
use super::{contiguous, tensor};
use crate::buffer::transpose;
use crate::linear::{
    ending_in, stock_block_linear, stock_block_linear_backward, stock_block_linear_weight_backward,
    stock_linear, stock_linear_backward, stock_linear_weight_backward,
};
use crate::strided::{self, Matrix, MatrixMut};

/// Rows that are worth a thread of their own.
const ROWS: usize = 128;
/// Columns, or rows, of a panel, and how many times as many it has where every thread gets one.
const PANEL: usize = 64;
const WIDER: usize = 3;
/// A product of so few rows and columns, or of so few columns, gemm sums in another order than a larger one.
const SMALL: usize = 64;
const NARROW: usize = 2;
/// Rows of a piece of a product with a matrix of blocks, for any number of threads.
const BAND: usize = 512;
/// Elements of a sum that one thread adds at a time, 64 KiB.
const CHUNK: usize = 16 * 1024;

pub(super) fn forward(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
    let weight = match Narrow::of(weight) {
        Ok(narrow) if all_fuse([&x, &x], bias.as_ref()) => {
            let shape = x.layout().shape().clone();
            let bias = bias.map(contiguous);
            let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
            return narrow.product(matrix(&contiguous(x)), bias, shape);
        }
        Ok(narrow) => narrow.into_tensor(),
        Err(weight) => weight,
    };
    if !all_fuse([&x, &weight], bias.as_ref()) {
        return stock_linear::<Flex>(x, weight, bias);
    }
    let shape = x.layout().shape().clone();
    let bias = bias.map(contiguous);
    let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
    let onto = bias.map_or(Onto::Nothing, Onto::Bias);
    product(matrix(&contiguous(x)), matrix(&contiguous(weight)), onto, shape)
}

pub(super) fn backward(weight: FlexTensor, grad: FlexTensor, known: Option<FlexTensor>) -> FlexTensor {
    let weight = match Narrow::of(weight) {
        Ok(narrow) if all_fuse([&grad, &grad], known.as_ref()) => {
            let shape = grad.layout().shape().clone();
            let of_x = narrow.transposed().product(matrix(&contiguous(grad)), None, shape);
            return match known {
                Some(known) => sum(of_x, known),
                None => of_x,
            };
        }
        Ok(narrow) => narrow.into_tensor(),
        Err(weight) => weight,
    };
    if !all_fuse([&weight, &grad], known.as_ref()) {
        return stock_linear_backward::<Flex>(weight, grad, known);
    }
    let shape = grad.layout().shape().clone();
    let (weight, grad) = (contiguous(weight), contiguous(grad));
    let (weight, grad) = (matrix(&weight), matrix(&grad));
    product(grad, weight.transposed(), known.map_or(Onto::Nothing, Onto::Tensor), shape)
}

pub(super) fn weight_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
    if !all_fuse([&x, &grad], None) {
        return stock_linear_weight_backward::<Flex>(x, grad);
    }
    let (x, grad) = (contiguous(x), contiguous(grad));
    let (x, grad) = (matrix(&x), matrix(&grad));
    tensor(weight_gradient(x, grad), Shape::new([x.n_cols(), grad.n_cols()]))
}

pub(super) fn block_forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
    if !all_fuse([&x, &weight], None) {
        return stock_block_linear::<Flex>(x, weight);
    }
    let shape = x.layout().shape().clone();
    let (x, weight) = (contiguous(x), contiguous(weight));
    let (x, weight) = (matrix(&x), Blocks::new(&weight));
    let [n, d_in, d_out] = weight.shape;
    let operands = |rows, (column, _)| {
        let i = column / d_out;
        (x.rows(rows).columns((i * d_in, d_in)), weight.block(i))
    };
    let size = [x.n_rows(), n * d_out];
    let values = strided::product_of(size, [BAND.min(x.n_rows()), d_out], operands, |_, _| {});
    tensor(values, ending_in(shape, n * d_out))
}

pub(super) fn block_backward(weight: FlexTensor, grad: FlexTensor, known: Option<FlexTensor>) -> FlexTensor {
    if !all_fuse([&weight, &grad], known.as_ref()) {
        return stock_block_linear_backward::<Flex>(weight, grad, known);
    }
    let shape = grad.layout().shape().clone();
    let (weight, grad) = (contiguous(weight), contiguous(grad));
    let (weight, grad) = (Blocks::new(&weight), matrix(&grad));
    let [n, d_in, d_out] = weight.shape;
    let operands = |rows, (column, _)| {
        let i = column / d_in;
        (grad.rows(rows).columns((i * d_out, d_out)), weight.block(i).transposed())
    };
    let (size, block) = ([grad.n_rows(), n * d_in], [BAND.min(grad.n_rows()), d_in]);
    if let Some(known) = known {
        let mut of_x = contiguous(known);
        strided::add_product_of(of_x.storage_mut::<f32>(), size, block, operands);
        return of_x;
    }
    let values = strided::product_of(size, block, operands, |_, _| {});
    tensor(values, ending_in(shape, n * d_in))
}

pub(super) fn block_weight_backward(x: FlexTensor, grad: FlexTensor, n: usize) -> FlexTensor {
    if !all_fuse([&x, &grad], None) {
        return stock_block_linear_weight_backward::<Flex>(x, grad, n);
    }
    let (x, grad) = (contiguous(x), contiguous(grad));
    let (x, grad) = (matrix(&x), matrix(&grad));
    let (d_in, d_out) = (x.n_cols() / n, grad.n_cols() / n);
    let of_block = |i: usize| weight_gradient(x.columns((i * d_in, d_in)), grad.columns((i * d_out, d_out)));
    let blocks: Vec<_> = (0..n).into_par_iter().map(of_block).collect();
    tensor(blocks.concat(), Shape::new([n, d_in, d_out]))
}

/// Matrices one after another.
struct Blocks<'a> {
    values: &'a [f32],
    /// Their number, rows and columns.
    shape: [usize; 3],
}

impl<'a> Blocks<'a> {
    /// A contiguous tensor `[n, rows, columns]`.
    fn new(tensor: &'a FlexTensor) -> Self {
        let shape = tensor.layout().shape();
        Self { values: tensor.storage::<f32>(), shape: [shape[0], shape[1], shape[2]] }
    }

    fn block(&self, i: usize) -> Matrix<'a> {
        let [_, rows, columns] = self.shape;
        Matrix::new(&self.values[i * rows * columns..], rows, columns, columns)
    }
}

pub(super) fn sum(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    if !all_fuse([&a, &b], None) {
        return Flex::float_add(a, b);
    }
    let (sum, term) = if a.is_unique() { (a, b) } else { (b, a) };
    add(contiguous(sum), &contiguous(term))
}

/// Whether these, and the third where there is one, are f32 and not empty.
fn all_fuse(two: [&FlexTensor; 2], third: Option<&FlexTensor>) -> bool {
    let fuses = |x: &FlexTensor| x.dtype() == DType::F32 && x.layout().num_elements() > 0;
    two.into_iter().chain(third).all(fuses)
}

/// A contiguous tensor `[.., columns]` as a matrix.
fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let columns = tensor.layout().shape().last().copied().unwrap_or(1);
    let values = tensor.storage::<f32>();
    Matrix::new(values, values.len() / columns, columns, columns)
}

/// What a product is added to.
enum Onto<'a> {
    Nothing,
    /// The same to each row.
    Bias(&'a [f32]),
    /// As large as the product.
    Tensor(FlexTensor),
}

/// `x weight` onto something, a tensor `[.., d_out]` with the first dimensions of `shape`; nothing is empty.
fn product(x: Matrix<'_>, weight: Matrix<'_>, onto: Onto<'_>, shape: Shape) -> FlexTensor {
    let block = block(x.n_rows(), weight, rayon::current_num_threads());
    let values = match onto {
        Onto::Tensor(known) => {
            let mut y = contiguous(known);
            strided::add_product(y.storage_mut::<f32>(), x, weight, block);
            return y;
        }
        Onto::Bias(bias) => strided::product(x, weight, block, |y, columns| y.add_to_rows(&bias[columns])),
        Onto::Nothing => strided::product(x, weight, block, |_, _| {}),
    };
    tensor(values, ending_in(shape, weight.n_cols()))
}

/// Rows and columns of a piece of a product with `rows` rows.
fn block(rows: usize, weight: Matrix<'_>, threads: usize) -> [usize; 2] {
    let d_out = weight.n_cols();
    let has_panels = rows >= ROWS && d_out > PANEL;
    let width = if has_panels {
        (d_out / threads).next_multiple_of(PANEL).clamp(PANEL, WIDER * PANEL).min(d_out)
    } else {
        d_out
    };
    let bands = if d_out <= NARROW || has_panels && weight.is_transposed() {
        1
    } else {
        // No piece is small unless the whole is: the last one misses at most a row for each thread.
        (rows / ROWS.max(SMALL + threads)).clamp(1, threads)
    };
    [rows.div_ceil(bands), width]
}

/// The sum of two contiguous tensors of one shape, in place of the first, or of a copy if somebody else holds it.
fn add(mut sum: FlexTensor, term: &FlexTensor) -> FlexTensor {
    let values = sum.storage_mut::<f32>().par_chunks_mut(CHUNK);
    values.zip(term.storage::<f32>().par_chunks(CHUNK)).for_each(|(values, term)| {
        for (value, &term) in values.iter_mut().zip(term) {
            *value += term;
        }
    });
    sum
}

/// `xᵀ grad`; nothing is empty.
fn weight_gradient(x: Matrix<'_>, grad: Matrix<'_>) -> Vec<f32> {
    let (d_in, d_out) = (x.n_cols(), grad.n_cols());
    if d_in < d_out {
        let transposed = by_rows(grad, x);
        transpose(d_out, d_in, |i| transposed[i])
    } else {
        by_rows(x, grad)
    }
}

/// `tallᵀ wide`, a panel of its rows at a time, of which it should have more than columns.
fn by_rows(tall: Matrix<'_>, wide: Matrix<'_>) -> Vec<f32> {
    let (rows, columns) = (tall.n_cols(), wide.n_cols());
    let mut product = vec![0.0; rows * columns];
    product.par_chunks_mut(PANEL * columns).enumerate().for_each_init(
        Vec::new,
        |scratch, (panel, product)| {
            let count = product.len() / columns;
            // gemm's registers run along the rows of a result: here they are the longer side.
            scratch.clear();
            scratch.resize(columns * count, 0.0);
            let tall = tall.columns((panel * PANEL, count));
            MatrixMut::new(scratch, columns, count).add_product(wide.transposed(), tall);
            for (row, product) in product.chunks_exact_mut(columns).enumerate() {
                for (column, x) in product.iter_mut().enumerate() {
                    *x = scratch[column * count + row];
                }
            }
        },
    );
    product
}
