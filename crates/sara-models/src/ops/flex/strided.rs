//! Matrices inside larger buffers, to be written by several threads.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

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

/// A matrix in a new buffer, which one of the methods that take it writes.
pub(super) struct Unwritten<'a>(MatrixMut<'a>);

impl<'a> Unwritten<'a> {
    /// The heads of each example in a buffer `[batch, seq, d]`, in order: together all of it.
    pub(super) fn heads(
        buffer: &'a mut [MaybeUninit<f32>],
        seq: usize,
        d: usize,
        n_heads: usize,
    ) -> Vec<Self> {
        let head_dim = d / n_heads;
        assert_eq!(head_dim * n_heads, d, "heads share the features evenly");
        let n_pieces = buffer.len() / (seq * d) * n_heads;
        assert_eq!(n_pieces * seq * head_dim, buffer.len(), "examples fill their buffer");
        let start = buffer.as_mut_ptr().cast::<f32>();
        let head = |index: usize| {
            let (example, head) = (index / n_heads, index % n_heads);
            let data = start.wrapping_add(example * seq * d + head * head_dim);
            Self(MatrixMut { data, shape: [seq, head_dim], stride: d, buffer: PhantomData })
        };
        (0..n_pieces).map(head).collect()
    }

    /// The first rows and the others.
    pub(super) fn split(self, count: usize) -> [Self; 2] {
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
    pub(super) fn zeros(self) -> MatrixMut<'a> {
        let MatrixMut { data, shape: [n_rows, n_cols], stride, .. } = self.0;
        for row in 0..n_rows {
            // SAFETY: the constructor checked that every row lies inside its buffer, and it has the sole right to it.
            unsafe { data.add(row * stride).write_bytes(0, n_cols) };
        }
        self.0
    }

    /// The matrix, `lhs rhs`.
    pub(super) fn product(self, lhs: Matrix<'_>, rhs: Matrix<'_>) -> MatrixMut<'a> {
        // With a vector gemm takes another way, which looks at its destination in any case.
        let is_vector = self.0.shape.contains(&1);
        let mut matrix = if is_vector { self.zeros() } else { self.0 };
        matrix.product(lhs, rhs, is_vector);
        matrix
    }
}

/// A sum of products, which the first of them writes.
pub(super) enum Sum<'a> {
    Empty(Unwritten<'a>),
    Written(MatrixMut<'a>),
}

impl Sum<'_> {
    pub(super) fn add(self, lhs: Matrix<'_>, rhs: Matrix<'_>) -> Self {
        Self::Written(match self {
            Self::Empty(matrix) => matrix.product(lhs, rhs),
            Self::Written(mut matrix) => {
                matrix.add_product(lhs, rhs);
                matrix
            }
        })
    }

    /// Writes zeros where there was no term.
    pub(super) fn finish(self) {
        if let Self::Empty(matrix) = self {
            matrix.zeros();
        }
    }
}
