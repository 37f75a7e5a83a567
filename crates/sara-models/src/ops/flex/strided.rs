//! Matrices inside larger buffers, and their product.

use std::marker::PhantomData;

/// A matrix in a buffer, read only.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// The matrix whose first row starts `data`, and every further one `stride` later.
    pub(super) fn new(data: &'a [f32], n_rows: usize, n_cols: usize, stride: usize) -> Self {
        assert!(
            n_rows == 0 || (n_rows - 1) * stride + n_cols <= data.len(),
            "a matrix lies inside its buffer"
        );
        Self { data, shape: [n_rows, n_cols], strides: [stride, 1] }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.shape[0]
    }

    pub(super) fn n_cols(&self) -> usize {
        self.shape[1]
    }

    /// `count` rows from `start`.
    pub(super) fn rows(self, (start, count): (usize, usize)) -> Self {
        assert!(start + count <= self.shape[0] && self.strides[1] == 1, "rows lie inside their matrix");
        let data = if count == 0 { &[] } else { &self.data[start * self.strides[0]..] };
        Self::new(data, count, self.shape[1], self.strides[0])
    }

    pub(super) fn transposed(self) -> Self {
        let ([n_rows, n_cols], [row, col]) = (self.shape, self.strides);
        Self { data: self.data, shape: [n_cols, n_rows], strides: [col, row] }
    }
}

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
        self.product(lhs, rhs, None);
    }

    /// Adds `lhs rhs`.
    pub(super) fn add_product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        self.product(lhs, rhs, Some(1.0));
    }

    /// Writes `lhs rhs`, plus a multiple of what stands there.
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    fn product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>, kept: Option<f32>) {
        let ([m, n], inner) = (self.shape, lhs.shape[1]);
        assert_eq!((lhs.shape, rhs.shape), ([m, inner], [inner, n]), "shapes fit");
        let strides = |matrix: &Matrix<'_>| (matrix.strides[1] as isize, matrix.strides[0] as isize);
        let ((lhs_col, lhs_row), (rhs_col, rhs_row)) = (strides(&lhs), strides(&rhs));
        // SAFETY: the constructors checked that every element lies inside its buffer, the shapes fit, and the
        // destination cannot be among the operands, because it has the sole right to its elements.
        unsafe {
            gemm::gemm(
                m,
                n,
                inner,
                self.data,
                1,
                self.stride as isize,
                kept.is_some(),
                lhs.data.as_ptr(),
                lhs_col,
                lhs_row,
                rhs.data.as_ptr(),
                rhs_col,
                rhs_row,
                kept.unwrap_or(0.0),
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}
