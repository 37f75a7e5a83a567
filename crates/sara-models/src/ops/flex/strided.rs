//! Matrices inside larger buffers, to be written by several threads.

use std::marker::PhantomData;

use sara_core::strided::{Matrix, multiply};

/// A matrix in a buffer, of which it holds its own elements alone.
pub(super) struct MatrixMut<'a> {
    data: *mut f32,
    shape: [usize; 2],
    stride: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: it has the sole right to its elements, as a `&mut [f32]` has.
#[expect(unsafe_code, reason = "heads interleave in a buffer, so no slice can stand for one")]
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// The buffer as one matrix without gaps.
    pub(super) fn new(buffer: &'a mut [f32], n_rows: usize, n_cols: usize) -> Self {
        assert_eq!(n_rows * n_cols, buffer.len(), "a dense matrix fills its buffer");
        Self { data: buffer.as_mut_ptr(), shape: [n_rows, n_cols], stride: n_cols, buffer: PhantomData }
    }

    /// The heads of each example in a buffer `[batch, seq, d]`, in order.
    pub(super) fn heads(buffer: &'a mut [f32], seq: usize, d: usize, n_heads: usize) -> Vec<Self> {
        let head_dim = d / n_heads;
        assert_eq!(head_dim * n_heads, d, "heads share the features evenly");
        let n_pieces = buffer.len() / (seq * d) * n_heads;
        let start = buffer.as_mut_ptr();
        let head = |index: usize| {
            let (example, head) = (index / n_heads, index % n_heads);
            let data = start.wrapping_add(example * seq * d + head * head_dim);
            Self { data, shape: [seq, head_dim], stride: d, buffer: PhantomData }
        };
        (0..n_pieces).map(head).collect()
    }

    /// `count` rows from `start`.
    pub(super) fn rows(&mut self, (start, count): (usize, usize)) -> MatrixMut<'_> {
        assert!(start + count <= self.shape[0], "rows lie inside their matrix");
        let data = self.data.wrapping_add(start * self.stride);
        MatrixMut { data, shape: [count, self.shape[1]], stride: self.stride, buffer: PhantomData }
    }

    /// Writes `lhs rhs`.
    pub(super) fn set_product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        self.product(lhs, rhs, false);
    }

    /// Adds `lhs rhs`.
    pub(super) fn add_product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        self.product(lhs, rhs, true);
    }

    #[expect(unsafe_code, reason = "rows of the destination lie apart")]
    fn product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>, add: bool) {
        assert_eq!([lhs.n_rows(), rhs.n_cols()], self.shape, "the product fills the matrix");
        // SAFETY: the constructors checked that every row lies inside its buffer, which is written from the start, and
        // the destination cannot be among the operands, because it has the sole right to its elements.
        unsafe {
            multiply(lhs, rhs, self.data, self.stride, add);
        }
    }
}
