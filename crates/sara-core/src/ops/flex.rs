//! The linear layer on flex: a piece of rows for each thread, each a product that starts from the bias.
//!
//! burn-flex hands whole products to several threads, which wait for one another at every block; here they meet once.
//! Only f32 goes this way. A row's values never depend on the piece that it is in, hence not on the threads.

use std::mem::MaybeUninit;

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{Flex, FlexTensor, Layout};

use super::{LinearOps, stock_linear, stock_linear_backward};
use crate::buffer::{filled, transpose};

/// Rows that are worth a thread of their own.
const ROWS: usize = 128;
/// A product of so few rows and columns, or of one column, gemm sums in another order than a larger one.
const SMALL: usize = 64;

impl LinearOps for Flex {
    const BIT_FOR_BIT: bool = true;

    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let fuses = [Some(&x), Some(&weight), bias.as_ref()].into_iter().flatten().all(fuses);
        if !fuses {
            return stock_linear::<Self>(x, weight, bias);
        }
        let bias = bias.map(contiguous);
        let bias = bias.as_ref().map(|bias| bias.storage::<f32>());
        product(&contiguous(x), &Weight::of(&contiguous(weight)), bias)
    }

    fn fused_linear_backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        if !(fuses(&weight) && fuses(&grad)) {
            return stock_linear_backward::<Self>(weight, grad);
        }
        let (weight, grad) = (contiguous(weight), contiguous(grad));
        let weight = Weight::of(&weight);
        let [d_in, d_out] = weight.shape;
        if grad.layout().shape()[0] < ROWS {
            return product(&grad, &weight.transposed(), None);
        }
        // With many rows, one pass over the weight costs less than reading it across in each piece.
        let transposed = transpose(d_in, d_out, |i| weight.values[i]);
        product(&grad, &Weight { values: &transposed, shape: [d_out, d_in], strides: [d_in, 1] }, None)
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

/// A matrix of weights with the distances between its rows and between its columns.
struct Weight<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Weight<'a> {
    /// The whole of a contiguous tensor.
    fn of(weight: &'a FlexTensor) -> Self {
        let shape: [usize; 2] = weight.layout().shape().dims();
        Self { values: weight.storage::<f32>(), shape, strides: [shape[1], 1] }
    }

    fn transposed(&self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        Self { values: self.values, shape: [columns, rows], strides: [column, row] }
    }
}

/// `x weight + bias`, with a contiguous `x`; nothing is empty.
fn product(x: &FlexTensor, weight: &Weight<'_>, bias: Option<&[f32]>) -> FlexTensor {
    let [rows, d_in]: [usize; 2] = x.layout().shape().dims();
    let d_out = weight.shape[1];
    let threads = rayon::current_num_threads();
    // No piece is small unless the whole is: the last one misses at most a row for each thread.
    let pieces = if d_out == 1 { 1 } else { (rows / ROWS.max(SMALL + threads)).clamp(1, threads) };
    let rows_of_piece = rows.div_ceil(pieces);
    let write = |piece: usize, y: &mut [MaybeUninit<f32>]| {
        let x = &x.storage::<f32>()[piece * rows_of_piece * d_in..][..y.len() / d_out * d_in];
        product_of_rows(x, weight, bias, y);
    };
    #[expect(unsafe_code, reason = "no zeros first")]
    // SAFETY: a product writes the whole of its destination.
    let y = unsafe { filled(rows * d_out, rows_of_piece * d_out, write) };
    FlexTensor::new(Bytes::from_elems(y), Layout::contiguous(Shape::new([rows, d_out])), DType::F32)
}

/// Writes `x weight + bias` on one thread.
#[expect(unsafe_code, reason = "gemm takes pointers")]
fn product_of_rows(x: &[f32], weight: &Weight<'_>, bias: Option<&[f32]>, y: &mut [MaybeUninit<f32>]) {
    let ([d_in, d_out], [row, column]) = (weight.shape, weight.strides);
    let rows = y.len() / d_out;
    assert!(
        x.len() == rows * d_in
            && y.len() == rows * d_out
            && weight.values.len() == d_in * d_out
            && bias.is_none_or(|bias| bias.len() == d_out),
        "every operand is as large as its shape"
    );
    if let Some(bias) = bias {
        for y in y.chunks_exact_mut(d_out) {
            for (y, &bias) in y.iter_mut().zip(bias) {
                y.write(bias);
            }
        }
    } else if rows == 1 {
        // Here gemm takes a product with a vector, which looks at its destination in any case.
        y.fill(MaybeUninit::new(0.0));
    }
    // SAFETY: the lengths are those of the shapes, and the strides those of dense matrices; `y` is borrowed alone, was
    // written above where it is read, and is written in full.
    unsafe {
        gemm::gemm(
            rows,
            d_out,
            d_in,
            y.as_mut_ptr().cast::<f32>(),
            1,
            d_out as isize,
            bias.is_some() || rows == 1,
            x.as_ptr(),
            1,
            d_in as isize,
            weight.values.as_ptr(),
            column as isize,
            row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
