//! The linear layer on flex: forward a piece of rows for each thread, which starts from the bias; back a panel of
//! columns at a time, so that each part of the weight is packed by one thread alone. The gradient of a weight is cut
//! into panels along its longer side, since that of an adapter is a few rows or columns wide.
//!
//! burn-flex hands whole products to several threads, which wait for one another at every block; here they meet once.
//! Only f32 goes this way. A value never depends on the piece that it is in, hence not on the threads.

use std::mem::MaybeUninit;

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{Flex, FlexTensor, Layout};
use rayon::prelude::*;

use super::{LinearOps, stock_linear, stock_linear_backward, stock_linear_weight_backward};
use crate::buffer::{filled, transpose};
use crate::strided::{Matrix, multiply};

/// Rows that are worth a thread of their own.
const ROWS: usize = 128;
/// Columns, or rows, of a panel, and how many times as many it has on the way back where every thread gets one.
const PANEL: usize = 64;
const WIDER: usize = 3;
/// A product of so few rows and columns, or of so few columns, gemm sums in another order than a larger one.
const SMALL: usize = 64;
const NARROW: usize = 2;

impl LinearOps for Flex {
    const BIT_FOR_BIT: bool = true;

    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let fuses = [Some(&x), Some(&weight), bias.as_ref()].into_iter().flatten().all(fuses);
        if !fuses {
            return stock_linear::<Self>(x, weight, bias);
        }
        let bias = bias.map(contiguous);
        let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
        product(matrix(&contiguous(x)), matrix(&contiguous(weight)), bias)
    }

    fn fused_linear_backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        if !(fuses(&weight) && fuses(&grad)) {
            return stock_linear_backward::<Self>(weight, grad);
        }
        let (weight, grad) = (contiguous(weight), contiguous(grad));
        let (weight, grad) = (matrix(&weight), matrix(&grad));
        if grad.n_rows() < ROWS || weight.n_rows() <= PANEL {
            return product(grad, weight.transposed(), None);
        }
        product_by_panels(grad, weight)
    }

    fn fused_linear_weight_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        if !(fuses(&x) && fuses(&grad)) {
            return stock_linear_weight_backward::<Self>(x, grad);
        }
        let (x, grad) = (contiguous(x), contiguous(grad));
        weight_gradient(matrix(&x), matrix(&grad))
    }
}

fn fuses(x: &FlexTensor) -> bool {
    x.dtype() == DType::F32 && x.layout().num_elements() > 0
}

/// `x` in a buffer of its own length and order; without a copy where it is so already.
#[expect(clippy::needless_pass_by_value, reason = "`x` is done with")]
fn contiguous(x: FlexTensor) -> FlexTensor {
    x.to_contiguous()
}

/// The whole of a contiguous tensor.
fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let [rows, columns]: [usize; 2] = tensor.layout().shape().dims();
    Matrix::new(tensor.storage::<f32>(), rows, columns, columns)
}

/// `x weight + bias`; nothing is empty.
fn product(x: Matrix<'_>, weight: Matrix<'_>, bias: Option<&[f32]>) -> FlexTensor {
    let (rows, d_out) = (x.n_rows(), weight.n_cols());
    assert!(bias.is_none_or(|bias| bias.len() == d_out), "the bias has a value for each column");
    let threads = rayon::current_num_threads();
    // No piece is small unless the whole is: the last one misses at most a row for each thread.
    let pieces = if d_out <= NARROW { 1 } else { (rows / ROWS.max(SMALL + threads)).clamp(1, threads) };
    let rows_of_piece = rows.div_ceil(pieces);
    let write = |piece: usize, y: &mut [MaybeUninit<f32>]| {
        let rows = y.len() / d_out;
        let x = x.rows((piece * rows_of_piece, rows));
        if let Some(bias) = bias {
            for row in y.chunks_exact_mut(d_out) {
                for (y, &bias) in row.iter_mut().zip(bias) {
                    y.write(bias);
                }
            }
        } else if rows == 1 {
            // Here gemm takes a product with a vector, which looks at its destination in any case.
            y.fill(MaybeUninit::new(0.0));
        }
        let written = bias.is_some() || rows == 1;
        #[expect(unsafe_code, reason = "the destination may not be written yet")]
        // SAFETY: the piece is `rows * d_out` long, borrowed alone, and was written where it is read.
        unsafe {
            multiply(x, weight, y.as_mut_ptr().cast(), d_out, written);
        }
    };
    #[expect(unsafe_code, reason = "no zeros first")]
    // SAFETY: a product writes the whole of its destination.
    let y = unsafe { filled(rows * d_out, rows_of_piece * d_out, write) };
    tensor(y, [rows, d_out])
}

/// `grad weightᵀ`; nothing is empty.
fn product_by_panels(grad: Matrix<'_>, weight: Matrix<'_>) -> FlexTensor {
    /// The start of the destination, of which each panel writes its own columns.
    struct Start(*mut f32);
    #[expect(unsafe_code, reason = "columns interleave in a buffer, so no slice can stand for some")]
    // SAFETY: no element is written by two threads, and none is read.
    unsafe impl Sync for Start {}

    let (rows, d_in) = (grad.n_rows(), weight.n_rows());
    let mut dx = Vec::<f32>::with_capacity(rows * d_in);
    let start = Start(dx.as_mut_ptr());
    let width = (d_in / rayon::current_num_threads()).next_multiple_of(PANEL).clamp(PANEL, WIDER * PANEL);
    // No panel is narrow: the last one has the rest as well.
    let panels = (d_in / width).max(1);
    (0..panels).into_par_iter().for_each(|panel| {
        let start = &start;
        let first = panel * width;
        let part = weight.rows((first, if panel + 1 == panels { d_in - first } else { width }));
        #[expect(unsafe_code, reason = "the destination is not written yet")]
        // SAFETY: these columns lie inside the buffer of `rows` rows of `d_in`, and no other panel has them.
        unsafe {
            multiply(grad, part.transposed(), start.0.add(first), d_in, false);
        }
    });
    #[expect(unsafe_code, reason = "no zeros first")]
    // SAFETY: the panels are all the columns, and a product writes the whole of its destination.
    unsafe {
        dx.set_len(rows * d_in);
    }
    tensor(dx, [rows, d_in])
}

/// `xᵀ grad`; nothing is empty.
fn weight_gradient(x: Matrix<'_>, grad: Matrix<'_>) -> FlexTensor {
    let (d_in, d_out) = (x.n_cols(), grad.n_cols());
    let gradient = if d_in < d_out {
        let transposed = by_rows(grad, x);
        transpose(d_out, d_in, |i| transposed[i])
    } else {
        by_rows(x, grad)
    };
    tensor(gradient, [d_in, d_out])
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
            #[expect(unsafe_code, reason = "gemm takes pointers")]
            // SAFETY: the buffer has a row for each column of the result, is borrowed alone, and was written.
            unsafe {
                let tall = tall.columns((panel * PANEL, count));
                multiply(wide.transposed(), tall, scratch.as_mut_ptr(), count, true);
            }
            for (row, product) in product.chunks_exact_mut(columns).enumerate() {
                for (column, x) in product.iter_mut().enumerate() {
                    *x = scratch[column * count + row];
                }
            }
        },
    );
    product
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}
