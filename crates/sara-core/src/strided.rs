//! Matrices inside larger buffers, and their product on one thread.

/// A matrix in a buffer, read only.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// The matrix whose first row starts `data`, and every further one `stride` later.
    ///
    /// # Panics
    /// If it does not lie inside `data`.
    pub fn new(data: &'a [f32], n_rows: usize, n_cols: usize, stride: usize) -> Self {
        assert!(
            n_rows == 0 || (n_rows - 1) * stride + n_cols <= data.len(),
            "a matrix lies inside its buffer"
        );
        Self { data, shape: [n_rows, n_cols], strides: [stride, 1] }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.shape[0]
    }

    /// Number of columns.
    pub fn n_cols(&self) -> usize {
        self.shape[1]
    }

    /// `count` rows from `start`.
    ///
    /// # Panics
    /// If there are not so many, or the matrix is transposed.
    pub fn rows(self, (start, count): (usize, usize)) -> Self {
        assert!(start + count <= self.shape[0] && self.strides[1] == 1, "rows lie inside their matrix");
        let data = if count == 0 { &[] } else { &self.data[start * self.strides[0]..] };
        Self::new(data, count, self.shape[1], self.strides[0])
    }

    /// `count` columns from `start`.
    ///
    /// # Panics
    /// If there are not so many, or the matrix is transposed.
    pub fn columns(self, (start, count): (usize, usize)) -> Self {
        assert!(start + count <= self.shape[1] && self.strides[1] == 1, "columns lie inside their matrix");
        let data = if self.shape[0] == 0 { &[] } else { &self.data[start..] };
        Self::new(data, self.shape[0], count, self.strides[0])
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let ([n_rows, n_cols], [row, col]) = (self.shape, self.strides);
        Self { data: self.data, shape: [n_cols, n_rows], strides: [col, row] }
    }
}

/// Writes `lhs rhs` from `y` on, a row every `stride` elements; where `add`, adds it to what stands there.
///
/// # Safety
/// There must be room for every row, nobody else may use their elements meanwhile, the operands included, and they must
/// have been written where `add`.
///
/// # Panics
/// If the shapes do not fit.
#[expect(unsafe_code, reason = "gemm takes pointers")]
pub unsafe fn multiply(lhs: Matrix<'_>, rhs: Matrix<'_>, y: *mut f32, stride: usize, add: bool) {
    let ([m, inner], n) = (lhs.shape, rhs.shape[1]);
    assert_eq!(rhs.shape[0], inner, "the right matrix has a row for each column of the left one");
    let strides = |matrix: &Matrix<'_>| (matrix.strides[1] as isize, matrix.strides[0] as isize);
    let ((lhs_col, lhs_row), (rhs_col, rhs_row)) = (strides(&lhs), strides(&rhs));
    // SAFETY: a matrix lies inside its buffer, as its constructor checked; for `y` the caller promises it.
    unsafe {
        gemm::gemm(
            m,
            n,
            inner,
            y,
            1,
            stride as isize,
            add,
            lhs.data.as_ptr(),
            lhs_col,
            lhs_row,
            rhs.data.as_ptr(),
            rhs_col,
            rhs_row,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
