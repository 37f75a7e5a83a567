//! Matrices inside larger buffers, and their product: on one thread, or in blocks on all of them.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::size;

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
        let end = n_rows.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(n_cols));
        assert!(n_rows == 0 || end.is_some_and(|end| end <= data.len()), "a matrix lies inside its buffer");
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

    /// The values of one row.
    ///
    /// # Panics
    /// If there is no such row, or the matrix is transposed.
    pub fn row(self, row: usize) -> &'a [f32] {
        let Self { data, shape: [_, n_cols], .. } = self.rows((row, 1));
        &data[..n_cols]
    }

    /// `count` rows from `start`.
    ///
    /// # Panics
    /// If there are not so many, or the matrix is transposed.
    pub fn rows(self, (start, count): (usize, usize)) -> Self {
        assert!(
            is_within(start, count, self.shape[0]) && self.strides[1] == 1,
            "rows lie inside their matrix"
        );
        let data = if count == 0 { &[] } else { &self.data[start * self.strides[0]..] };
        Self::new(data, count, self.shape[1], self.strides[0])
    }

    /// `count` columns from `start`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn columns(self, (start, count): (usize, usize)) -> Self {
        let ([n_rows, n_cols], [_, col]) = (self.shape, self.strides);
        assert!(is_within(start, count, n_cols), "columns lie inside their matrix");
        let data = if n_rows == 0 || count == 0 { &[] } else { &self.data[start * col..] };
        Self { data, shape: [n_rows, count], strides: self.strides }
    }

    /// Whether the values of a row lie apart.
    pub fn is_transposed(&self) -> bool {
        self.strides[1] != 1
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let ([n_rows, n_cols], [row, col]) = (self.shape, self.strides);
        Self { data: self.data, shape: [n_cols, n_rows], strides: [col, row] }
    }
}

/// `lhs rhs`, row by row, in blocks that the threads share, as [`Unwritten::blocks`] cuts them.
///
/// `finish` has each of them, and which columns it is, while its values are at hand.
///
/// # Panics
/// If the shapes do not fit, or a block is empty.
pub fn product(
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    block: [usize; 2],
    finish: impl Fn(&mut MatrixMut<'_>, Range<usize>) + Sync,
) -> Vec<f32> {
    let operands = |rows, columns| (lhs.rows(rows), rhs.columns(columns));
    product_of([lhs.n_rows(), rhs.n_cols()], block, operands, finish)
}

/// A matrix whose blocks are products of `operands`: those of the rows and columns, start and count, that a block is.
///
/// # Panics
/// If the shapes do not fit, or a block is empty.
pub fn product_of<'a>(
    shape: [usize; 2],
    block: [usize; 2],
    operands: impl Fn((usize, usize), (usize, usize)) -> (Matrix<'a>, Matrix<'a>) + Sync,
    finish: impl Fn(&mut MatrixMut<'_>, Range<usize>) + Sync,
) -> Vec<f32> {
    let mut product = Box::new_uninit_slice(size(shape));
    #[expect(unsafe_code, reason = "blocks interleave in a buffer")]
    // SAFETY: the buffer is as large as the matrix, and is not used otherwise while there are blocks of it.
    let blocks = unsafe { blocks(product.as_mut_ptr().cast(), shape, block) };
    blocks.into_par_iter().for_each(|Block { row, column, matrix }| {
        let [n_rows, n_cols] = matrix.shape;
        let (lhs, rhs) = operands((row, n_rows), (column, n_cols));
        finish(&mut Unwritten(matrix).product(lhs, rhs), column..column + n_cols);
    });
    #[expect(unsafe_code, reason = "no zeros first")]
    // SAFETY: the blocks are all of it, and a product writes the whole of its destination.
    unsafe {
        product.assume_init().into_vec()
    }
}

/// Adds `lhs rhs` to the matrix that fills the buffer, in blocks likewise.
///
/// # Panics
/// If the shapes do not fit, or a block is empty.
pub fn add_product(buffer: &mut [f32], lhs: Matrix<'_>, rhs: Matrix<'_>, block: [usize; 2]) {
    let operands = |rows, columns| (lhs.rows(rows), rhs.columns(columns));
    add_product_of(buffer, [lhs.n_rows(), rhs.n_cols()], block, operands);
}

/// Adds products of `operands` to the blocks of the matrix that fills the buffer.
///
/// # Panics
/// If the shapes do not fit, or a block is empty.
pub fn add_product_of<'a>(
    buffer: &mut [f32],
    shape: [usize; 2],
    block: [usize; 2],
    operands: impl Fn((usize, usize), (usize, usize)) -> (Matrix<'a>, Matrix<'a>) + Sync,
) {
    assert_eq!(buffer.len(), size(shape), "the product fills the buffer");
    #[expect(unsafe_code, reason = "blocks interleave in a buffer")]
    // SAFETY: the buffer is as large as the matrix, and is borrowed while there are blocks of it.
    let blocks = unsafe { blocks(buffer.as_mut_ptr(), shape, block) };
    blocks.into_par_iter().for_each(|Block { row, column, mut matrix }| {
        let [n_rows, n_cols] = matrix.shape;
        let (lhs, rhs) = operands((row, n_rows), (column, n_cols));
        matrix.product(lhs, rhs, true);
    });
}

/// A matrix in a buffer, of which it holds its own elements alone.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: *mut f32,
    shape: [usize; 2],
    stride: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: it has the sole right to its elements, as a `&mut [f32]` has.
#[expect(unsafe_code, reason = "blocks interleave in a buffer, so no slice can stand for one")]
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// The buffer as one matrix without gaps.
    ///
    /// # Panics
    /// If it has another length.
    pub fn new(buffer: &'a mut [f32], n_rows: usize, n_cols: usize) -> Self {
        assert_eq!(size([n_rows, n_cols]), buffer.len(), "a dense matrix fills its buffer");
        Self { data: buffer.as_mut_ptr(), shape: [n_rows, n_cols], stride: n_cols, buffer: PhantomData }
    }

    /// `count` rows from `start`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn rows(&mut self, (start, count): (usize, usize)) -> MatrixMut<'_> {
        assert!(is_within(start, count, self.shape[0]), "rows lie inside their matrix");
        let data = self.data.wrapping_add(start * self.stride);
        MatrixMut { data, shape: [count, self.shape[1]], stride: self.stride, buffer: PhantomData }
    }

    /// Writes `lhs rhs`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn set_product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        self.product(lhs, rhs, false);
    }

    /// Adds `lhs rhs`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn add_product(&mut self, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        self.product(lhs, rhs, true);
    }

    /// Adds `term` to every row.
    ///
    /// # Panics
    /// If it has another length.
    #[expect(unsafe_code, reason = "rows lie apart")]
    pub fn add_to_rows(&mut self, term: &[f32]) {
        let [n_rows, n_cols] = self.shape;
        assert_eq!(term.len(), n_cols, "a term for each column");
        for row in 0..n_rows {
            // SAFETY: every row lies inside the buffer, which is written from the start, and no other has it.
            let row = unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), n_cols) };
            for (x, &term) in row.iter_mut().zip(term) {
                *x += term;
            }
        }
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

/// A matrix in a new buffer, which one of the methods that take it writes.
#[derive(Debug)]
pub struct Unwritten<'a>(MatrixMut<'a>);

impl<'a> Unwritten<'a> {
    /// The blocks of a matrix of `n_cols` columns without gaps, row by row: together all of it.
    ///
    /// Each has `[rows, columns]` as in `block`, but the last of a column what rows are left, and the last of a row the
    /// rest of the columns as well, so that none is narrower.
    ///
    /// # Panics
    /// If the rows do not fill the buffer, or a block is empty.
    pub fn blocks(buffer: &'a mut [MaybeUninit<f32>], n_cols: usize, block: [usize; 2]) -> Vec<Self> {
        let n_rows = buffer.len() / n_cols;
        assert_eq!(n_rows * n_cols, buffer.len(), "rows fill their buffer");
        #[expect(unsafe_code, reason = "blocks interleave in a buffer")]
        // SAFETY: the buffer is as large as the matrix, as was just checked, and is borrowed while there are blocks of it.
        let blocks = unsafe { blocks(buffer.as_mut_ptr().cast(), [n_rows, n_cols], block) };
        blocks.into_iter().map(|block| Self(block.matrix)).collect()
    }

    /// Number of columns.
    pub fn n_cols(&self) -> usize {
        self.0.shape[1]
    }

    /// The first rows and the others.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn split(self, count: usize) -> [Self; 2] {
        let MatrixMut { data, shape: [n_rows, n_cols], stride, buffer } = self.0;
        assert!(count <= n_rows, "rows lie inside their matrix");
        let part = |start: usize, count: usize| {
            Self(MatrixMut {
                data: data.wrapping_add(start * stride),
                shape: [count, n_cols],
                stride,
                buffer,
            })
        };
        [part(0, count), part(count, n_rows - count)]
    }

    /// The matrix, all zero.
    #[expect(unsafe_code, reason = "rows lie apart")]
    pub fn zeros(self) -> MatrixMut<'a> {
        let MatrixMut { data, shape: [n_rows, n_cols], stride, .. } = self.0;
        for row in 0..n_rows {
            // SAFETY: the constructor checked that every row lies inside its buffer, and it has the sole right to it.
            unsafe { data.add(row * stride).write_bytes(0, n_cols) };
        }
        self.0
    }

    /// The matrix, as another.
    ///
    /// # Panics
    /// If that has another shape, or is transposed.
    #[expect(unsafe_code, reason = "rows lie apart")]
    pub fn copy(self, from: Matrix<'_>) -> MatrixMut<'a> {
        let MatrixMut { data, shape, stride, .. } = self.0;
        assert_eq!(from.shape, shape, "a copy is as large");
        for row in 0..shape[0] {
            let values = from.row(row);
            // SAFETY: the constructor checked that every row lies inside its buffer, and it has the sole right to it.
            unsafe { data.add(row * stride).copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        }
        self.0
    }

    /// The matrix, `lhs rhs`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product(self, lhs: Matrix<'_>, rhs: Matrix<'_>) -> MatrixMut<'a> {
        // With a vector gemm takes another way, which looks at its destination in any case.
        let is_vector = self.0.shape.contains(&1);
        let mut matrix = if is_vector { self.zeros() } else { self.0 };
        matrix.product(lhs, rhs, is_vector);
        matrix
    }
}

/// A part of a matrix without gaps, and where in it that starts.
struct Block<'a> {
    row: usize,
    column: usize,
    matrix: MatrixMut<'a>,
}

/// Whether `count` from `start` on are among so many.
fn is_within(start: usize, count: usize, all: usize) -> bool {
    start.checked_add(count).is_some_and(|end| end <= all)
}

/// See [`Unwritten::blocks`].
///
/// # Safety
/// The buffer that begins at `start` must have room for the matrix, and nobody else may use it while there are blocks.
#[expect(unsafe_code, reason = "a pointer with a promise")]
unsafe fn blocks<'a>(
    start: *mut f32,
    [n_rows, n_cols]: [usize; 2],
    [height, width]: [usize; 2],
) -> Vec<Block<'a>> {
    assert!(height > 0 && (1..=n_cols).contains(&width), "a block has rows and columns");
    let blocks_of_row = n_cols / width;
    let block = |index: usize| {
        let (row, column) = (index / blocks_of_row * height, index % blocks_of_row * width);
        let is_last = index % blocks_of_row + 1 == blocks_of_row;
        let shape = [height.min(n_rows - row), if is_last { n_cols - column } else { width }];
        let data = start.wrapping_add(row * n_cols + column);
        Block { row, column, matrix: MatrixMut { data, shape, stride: n_cols, buffer: PhantomData } }
    };
    (0..n_rows.div_ceil(height) * blocks_of_row).map(block).collect()
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
unsafe fn multiply(lhs: Matrix<'_>, rhs: Matrix<'_>, y: *mut f32, stride: usize, add: bool) {
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

#[cfg(test)]
mod tests {
    use super::{Matrix, MatrixMut, add_product, product};

    /// Sizes that overflow: a product of them would be a small number, and the buffer too small.
    #[test]
    fn shapes_that_overflow_are_refused() {
        let refused = |act: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(act).is_err();
        let half = usize::MAX / 2 + 1;
        assert!(refused(&|| _ = Matrix::new(&[0.0; 4], half + 1, 2, 2)));
        assert!(refused(&|| _ = Matrix::new(&[0.0; 4], 2, usize::MAX, 2)));
        assert!(refused(&|| _ = Matrix::new(&[0.0; 4], 2, 2, 2).columns((1, usize::MAX))));
        assert!(refused(&|| _ = Matrix::new(&[0.0; 4], 2, 2, 2).rows((1, usize::MAX))));
        assert!(refused(&|| _ = MatrixMut::new(&mut [], half, 2)));
        // As many rows of no entries as one likes, and a column for each of four: four times as many.
        let many = Matrix::new(&[], half, 0, 0);
        let none = Matrix::new(&[], 0, 4, 4);
        assert!(refused(&|| drop(product(many, none, [1, 1], |_, _| {}))));
        assert!(refused(&|| add_product(&mut [], many, none, [1, 1])));
    }

    fn whole(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed) % 13) as f32 - 6.0).collect()
    }

    /// Every entry, where blocks end before the matrix does, are one row or column, or all of it, and where nothing is
    /// summed.
    #[test]
    fn blocks_together_are_the_product() {
        for ([rows, inner, columns], block) in [
            ([1, 1, 1], [1, 1]),
            ([3, 0, 4], [2, 3]),
            ([5, 3, 7], [2, 3]),
            ([7, 9, 1], [3, 1]),
            ([1, 9, 40], [1, 16]),
            ([130, 70, 200], [128, 64]),
            ([64, 300, 65], [64, 65]),
        ] {
            let (x, a) = (whole(rows * inner, 1), whole(inner * columns, 2));
            let entry = |at: usize| -> f32 {
                let (i, j) = (at / columns, at % columns);
                (0..inner).map(|k| x[i * inner + k] * a[k * columns + j]).sum()
            };
            let expected: Vec<f32> = (0..rows * columns).map(entry).collect();
            let lhs = Matrix::new(&x, rows, inner, inner);
            let flipped: Vec<f32> =
                (0..inner * columns).map(|at| a[at % inner * columns + at / inner]).collect();
            for rhs in [
                Matrix::new(&a, inner, columns, columns),
                Matrix::new(&flipped, columns, inner, inner).transposed(),
            ] {
                assert_eq!(product(lhs, rhs, block, |_, _| {}), expected);
                let with_term = product(lhs, rhs, block, |part, columns| {
                    part.add_to_rows(&columns.map(|j| j as f32).collect::<Vec<_>>());
                });
                let mut known: Vec<f32> = (0..rows * columns).map(|at| (at % columns) as f32).collect();
                add_product(&mut known, lhs, rhs, block);
                let expected: Vec<f32> =
                    expected.iter().enumerate().map(|(at, x)| x + (at % columns) as f32).collect();
                assert_eq!(with_term, expected);
                assert_eq!(known, expected);
            }
        }
    }
}
