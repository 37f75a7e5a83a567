//! Products with weights of 16, 8 or 4 bits, which stay so in memory: a piece is widened as it is multiplied, and for a few
//! rows each weight is read once, in place.

use std::ops::Range;

use burn::tensor::{Bytes, DType, Shape, bf16};
use burn_flex::{FlexTensor, Layout};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::pairs::{Pairing, Rounded};
use super::stored::{self, Blocks, ROWS, Stored};
use super::tensor;
use crate::buffer::size;
use crate::linear::ending_in;
use crate::packed::{BLOCK, Bits, Packed};
use crate::strided::{Matrix, MatrixMut, Unwritten};

/// Columns of a piece.
const PANEL: usize = 64;
/// So few rows are multiplied where the weight lies: below, widening it costs more than the product.
const FEW: usize = 32;
/// Weights that one thread reads at a time for a few rows.
const READ: usize = 64 * 1024;

/// A table of rows in blocks.
pub(super) fn packed(packed: Packed) -> FlexTensor {
    let (shape, dtype) = (Shape::new(packed.shape()), packed.dtype());
    FlexTensor::new(Bytes::from_elems(packed.into_bytes()), Layout::contiguous(shape), dtype)
}

/// Bytes of a weight of this shape.
fn n_bytes(shape: [usize; 2], bits: Option<Bits>) -> usize {
    match bits {
        Some(bits) => size(shape) / BLOCK * bits.block_bytes(),
        None => size(shape) * 2,
    }
}

/// A weight `[rows, columns]`, row by row.
pub(super) struct Narrow {
    values: FlexTensor,
    /// Of a value in blocks; none for one of 16 bits.
    bits: Option<Bits>,
    rows: usize,
    columns: usize,
    /// Whether it is multiplied by its transpose.
    is_transposed: bool,
}

impl Narrow {
    /// The weight `[d_in, d_out]`, if it is of fewer than 32 bits; any other again.
    ///
    /// # Panics
    /// If it is a part of one in blocks.
    pub(super) fn of(weight: FlexTensor) -> Result<Self, FlexTensor> {
        let bits = Bits::of(weight.dtype());
        let is_narrow = matches!(weight.dtype(), DType::BF16 | DType::F16) || bits.is_some();
        if !is_narrow || weight.layout().num_elements() == 0 {
            return Err(weight);
        }
        let [d_in, d_out]: [usize; 2] = weight.layout().shape().dims();
        let (bytes, strides) = (weight.bytes().len(), weight.layout().strides());
        let is_whole = weight.layout().start_offset() == 0 && bytes == n_bytes([d_in, d_out], bits);
        // As files have it, turned without a copy.
        if is_whole && strides == [1, d_in as isize] {
            return Ok(Self { values: weight, bits, rows: d_out, columns: d_in, is_transposed: true });
        }
        assert!(
            bits.is_none() || is_whole && strides == [d_out as isize, 1],
            "a weight of blocks is used as a whole"
        );
        let values = if bits.is_none() { weight.to_contiguous() } else { weight };
        Ok(Self { values, bits, rows: d_in, columns: d_out, is_transposed: false })
    }

    /// The same, to be multiplied by from the other side.
    pub(super) fn transposed(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    /// The weight again, `[d_in, d_out]`.
    pub(super) fn into_tensor(self) -> FlexTensor {
        self.values
    }

    /// All of it, `[d_in, d_out]`, in f32.
    pub(super) fn into_wide(self) -> FlexTensor {
        let mut values = vec![0.0; self.rows * self.columns];
        let rows = values.par_chunks_mut(self.columns);
        rows.enumerate().for_each(|(row, values)| self.widen(row * self.columns, values));
        tensor(values, Shape::new([self.rows, self.columns])).with_layout(self.values.layout().clone())
    }

    /// Some of the rows of a table, in f32.
    ///
    /// # Panics
    /// If it is turned: no table is.
    pub(super) fn rows_at(&self, rows: &[usize]) -> FlexTensor {
        assert!(!self.is_transposed, "the rows of a table lie as they are");
        let mut values = vec![0.0; rows.len() * self.columns];
        for (values, row) in values.chunks_exact_mut(self.columns).zip(rows) {
            self.widen(row * self.columns, values);
        }
        tensor(values, Shape::new([rows.len(), self.columns]))
    }

    /// Columns of a product.
    fn d_out(&self) -> usize {
        if self.is_transposed { self.rows } else { self.columns }
    }

    /// `x` times it, a tensor `[.., d_out]` with the first dimensions of `shape`.
    pub(super) fn product(&self, x: Matrix<'_>, bias: Option<&[f32]>, shape: Shape) -> FlexTensor {
        let (n, d_out) = (x.n_rows(), self.d_out());
        let pairing = Pairing::find().filter(|_| n > FEW && self.values.dtype() == DType::BF16);
        let values = match pairing {
            None if n <= FEW && self.is_transposed => self.few(x, bias),
            Some(pairing) => self.by_pairs(&pairing.round(x), n, bias),
            None => self.many(x, bias),
        };
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

    /// By the processor's own instruction.
    fn by_pairs(&self, x: &Rounded, n: usize, bias: Option<&[f32]>) -> Vec<f32> {
        self.in_panels(n, bias, |scratch, start, y| x.product(self, start, y, scratch))
    }

    /// In f32.
    fn many(&self, x: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        self.in_panels(x.n_rows(), bias, |scratch: &mut Vec<f32>, start, y| {
            let columns = (start, y.n_cols());
            y.product(x, self.widened(columns, scratch))
        })
    }

    /// A product of `n` rows, of which `write` makes the columns from a place on, onto a bias.
    fn in_panels<S: Default>(
        &self,
        n: usize,
        bias: Option<&[f32]>,
        write: impl for<'y> Fn(&mut S, usize, Unwritten<'y>) -> MatrixMut<'y> + Sync,
    ) -> Vec<f32> {
        let d_out = self.d_out();
        let width = PANEL.min(d_out);
        let mut product = Box::new_uninit_slice(size([n, d_out]));
        let panels = Unwritten::blocks(&mut product, d_out, [n, width]);
        panels.into_par_iter().enumerate().for_each_init(S::default, |scratch, (panel, y)| {
            let (start, count) = (panel * width, y.n_cols());
            let mut y = write(scratch, start, y);
            if let Some(bias) = bias {
                y.add_to_rows(&bias[start..start + count]);
            }
        });
        #[expect(unsafe_code, reason = "no zeros first")]
        // SAFETY: the blocks are all of it, and a block that was handed back was written.
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
        stored::widen(out, self.stored(start..start + out.len()));
    }

    /// The products of a row with `count` rows of `x`, at most [`ROWS`], from `first` on.
    fn dots(&self, row: usize, x: Matrix<'_>, first: usize, count: usize) -> [f32; ROWS] {
        let values = self.stored(row * self.columns..(row + 1) * self.columns);
        if count == 1 {
            let [product] = stored::dot(values, [x.row(first)]);
            return [product; ROWS];
        }
        // What is there twice is left out by the caller.
        stored::dots(values, std::array::from_fn(|at| x.row(first + at.min(count - 1))))
    }

    /// Whether it is multiplied by its transpose.
    pub(super) fn is_transposed(&self) -> bool {
        self.is_transposed
    }

    /// How many rows are stored.
    pub(super) fn stored_rows(&self) -> usize {
        self.rows
    }

    /// A row that is stored, of values of 16 bits.
    pub(super) fn stored_row(&self, row: usize) -> &[u16] {
        let values: &[bf16] = self.values.storage();
        values[row * self.columns..][..self.columns].reinterpret_cast()
    }

    /// Values as they lie in memory; of blocks, whole ones.
    fn stored(&self, range: Range<usize>) -> Stored<'_> {
        match self.bits {
            Some(Bits::Eight) => Stored::Int8(self.blocks(range)),
            Some(Bits::Four) => Stored::Int4(self.blocks(range)),
            None if self.values.dtype() == DType::BF16 => Stored::Bf16(&self.values.storage()[range]),
            None => Stored::F16(&self.values.storage()[range]),
        }
    }

    fn blocks<const BYTES: usize>(&self, range: Range<usize>) -> Blocks<'_, BYTES> {
        let blocks = range.start / BLOCK..range.end / BLOCK;
        let (codes, scales) = self.values.bytes().split_at(self.rows * self.columns / BLOCK * BYTES);
        Blocks { codes: &codes.as_chunks().0[blocks.clone()], scales: &scales.as_chunks().0[blocks] }
    }
}
