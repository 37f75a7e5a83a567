//! Products with weights of 16 bits, which stay so in memory: a piece is widened as it is multiplied, and for a few rows
//! each weight is read once, in place.

use burn::tensor::{DType, Shape, bf16, f16};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::kernels::{self, ROWS};
use super::tensor;
use crate::buffer::size;
use crate::linear::ending_in;
use crate::strided::{Matrix, Unwritten};

/// Columns of a piece.
const PANEL: usize = 64;
/// So few rows are multiplied where the weight lies: below, widening it costs more than the product.
const FEW: usize = 32;
/// Weights that one thread reads at a time for a few rows.
const READ: usize = 64 * 1024;

/// A weight `[rows, columns]`, row by row.
pub(super) struct Narrow {
    values: FlexTensor,
    rows: usize,
    columns: usize,
    /// Whether it is multiplied by its transpose.
    is_transposed: bool,
}

impl Narrow {
    /// The weight `[d_in, d_out]`, if it is of 16 bits; `None` for any other.
    pub(super) fn of(weight: FlexTensor) -> Result<Self, FlexTensor> {
        if !matches!(weight.dtype(), DType::BF16 | DType::F16) || weight.layout().num_elements() == 0 {
            return Err(weight);
        }
        let [d_in, d_out]: [usize; 2] = weight.layout().shape().dims();
        // As files have it, turned without a copy.
        let is_turned = weight.layout().strides() == [1, d_in as isize]
            && weight.layout().start_offset() == 0
            && size([d_in, d_out]) == weight.bytes().len() / 2;
        if is_turned {
            return Ok(Self { values: weight, rows: d_out, columns: d_in, is_transposed: true });
        }
        Ok(Self { values: weight.to_contiguous(), rows: d_in, columns: d_out, is_transposed: false })
    }

    /// The same, to be multiplied by from the other side.
    pub(super) fn transposed(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    /// The weight again, `[d_in, d_out]`.
    pub(super) fn into_tensor(self) -> FlexTensor {
        self.values
    }

    /// Columns of a product.
    fn d_out(&self) -> usize {
        if self.is_transposed { self.rows } else { self.columns }
    }

    /// `x` times it, a tensor `[.., d_out]` with the first dimensions of `shape`.
    pub(super) fn product(&self, x: Matrix<'_>, bias: Option<&[f32]>, shape: Shape) -> FlexTensor {
        let (n, d_out) = (x.n_rows(), self.d_out());
        let values = if n <= FEW && self.is_transposed { self.few(x, bias) } else { self.many(x, bias) };
        debug_assert_eq!(values.len(), n * d_out);
        tensor(values, ending_in(shape, d_out))
    }

    /// Each output by itself.
    fn few(&self, x: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        let (n, d_in, d_out) = (x.n_rows(), self.columns, self.rows);
        // Output by output, all rows of one beside each other.
        let mut by_output = vec![0.0; n * d_out];
        let piece = (READ / d_in).max(1);
        by_output.par_chunks_mut(n * piece).enumerate().for_each(|(index, outputs)| {
            for (output, values) in outputs.chunks_exact_mut(n).enumerate() {
                let output = index * piece + output;
                let bias = bias.map_or(0.0, |bias| bias[output]);
                for (group, values) in values.chunks_mut(ROWS).enumerate() {
                    let products = self.dots(output, x, group * ROWS, values.len());
                    values.iter_mut().zip(products).for_each(|(value, product)| *value = product + bias);
                }
            }
        });
        if n == 1 {
            return by_output;
        }
        (0..n * d_out).map(|at| by_output[at % d_out * n + at / d_out]).collect()
    }

    /// Panel by panel.
    fn many(&self, x: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        let (n, d_out) = (x.n_rows(), self.d_out());
        let mut product = Box::new_uninit_slice(size([n, d_out]));
        let panels = Unwritten::blocks(&mut product, d_out, [n, PANEL.min(d_out)]);
        panels.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (panel, y)| {
            let start = panel * PANEL.min(d_out);
            let count = y.n_cols();
            let mut y = y.product(x, self.widened((start, count), scratch));
            if let Some(bias) = bias {
                y.add_to_rows(&bias[start..start + count]);
            }
        });
        #[expect(unsafe_code, reason = "no zeros first")]
        // SAFETY: the blocks are all of it, and each was written by a product.
        unsafe {
            product.assume_init().into_vec()
        }
    }

    /// Some columns of what `x` is multiplied by, in `scratch`.
    fn widened<'s>(&self, (start, count): (usize, usize), scratch: &'s mut Vec<f32>) -> Matrix<'s> {
        if self.is_transposed {
            let d_in = self.columns;
            scratch.resize(count * d_in, 0.0);
            self.widen(start * d_in, scratch);
            return Matrix::new(scratch, count, d_in, d_in).transposed();
        }
        scratch.resize(self.rows * count, 0.0);
        for (row, values) in scratch.chunks_exact_mut(count).enumerate() {
            self.widen(row * self.columns + start, values);
        }
        Matrix::new(scratch, self.rows, count, count)
    }

    /// As many values as `out` has room for, from `start` on.
    fn widen(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self.values.dtype() {
            DType::BF16 => kernels::widen_bf16(out, &self.values.storage::<bf16>()[range]),
            _ => kernels::widen_f16(out, &self.values.storage::<f16>()[range]),
        }
    }

    /// The products of a row with `count` rows of `x`, at most [`ROWS`], from `first` on.
    fn dots(&self, row: usize, x: Matrix<'_>, first: usize, count: usize) -> [f32; ROWS] {
        let range = row * self.columns..(row + 1) * self.columns;
        let is_bf16 = self.values.dtype() == DType::BF16;
        if count == 1 {
            let x = [x.row(first)];
            let [product] = if is_bf16 {
                kernels::dot_bf16(&self.values.storage::<bf16>()[range], x)
            } else {
                kernels::dot_f16(&self.values.storage::<f16>()[range], x)
            };
            return [product; ROWS];
        }
        // What is there twice is left out by the caller.
        let x = std::array::from_fn(|at| x.row(first + at.min(count - 1)));
        if is_bf16 {
            kernels::dots_bf16(&self.values.storage::<bf16>()[range], x)
        } else {
            kernels::dots_f16(&self.values.storage::<f16>()[range], x)
        }
    }
}
