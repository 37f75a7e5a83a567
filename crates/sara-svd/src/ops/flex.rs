//! Flex: numbers read where they lie, and products with few rows on one side.
//!
//! What takes the time of a randomized SVD is the product of a flat matrix with a large one, and burn-flex is
//! two to three times slower at it than the processor can be: its threads wait for each other at every block,
//! and in the product with a transposed matrix it packs the large one.

use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{Engine, SvdOps, read};
use crate::Error;
use crate::host::blocks;

/// Rows from which a product is no longer flat.
const FLAT: usize = 512;
/// Multiplications that are worth several threads.
const PARALLEL: usize = 1 << 21;
/// Pieces for each thread: gemm copies the piece of the large matrix, and a smaller copy is used again sooner.
const PIECES: usize = 4;

impl Engine for Flex {
    fn largest(a: FlexTensor) -> Result<f64, Error> {
        match values(&a) {
            Some(values) => Ok(f64::from(blocks::largest(values))),
            None => super::largest::<Self>(a),
        }
    }

    fn squared_norm(a: FlexTensor) -> Result<f64, Error> {
        match values(&a) {
            Some(values) => Ok(blocks::squared_norm(values)),
            None => Ok(blocks::squared_norm(&read::<Self>(a)?)),
        }
    }

    fn product(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let flat = a.dtype() == DType::F32
            && a.layout().shape().num_dims() == 2
            && a.layout().shape()[0] <= FLAT
            && a.layout().shape()[0] * b.layout().num_elements() >= PARALLEL;
        match *b.layout().strides() {
            // `b` is a transposed matrix: `(b^T a^T)^T` reads it row by row.
            [1, _] if flat => Self::float_matmul(b.transpose(0, 1), a.transpose(0, 1)).transpose(0, 1),
            [_, 1] if flat => by_columns(&a, &b),
            _ => Self::float_matmul(a, b),
        }
    }

    fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        // From outside the pool every product would wake it and wait for it.
        rayon::scope(|_| work())
    }
}

impl SvdOps for Flex {
    type Engine = Self;

    fn enter(a: FlexTensor) -> FlexTensor {
        a
    }

    fn leave(a: FlexTensor) -> FlexTensor {
        a
    }
}

/// All entries in any order, if they are f32 and fill a buffer.
fn values(a: &FlexTensor) -> Option<&[f32]> {
    let all = a.dtype() == DType::F32 && a.storage::<f32>().len() == a.layout().num_elements();
    all.then(|| a.storage::<f32>())
}

/// `a b` in pieces of columns, each on one thread; two dimensions of f32.
#[expect(unsafe_code, reason = "gemm takes pointers")]
fn by_columns(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let ([rows, inner], [b_rows, columns]): ([usize; 2], [usize; 2]) =
        (a.layout().shape().dims(), b.layout().shape().dims());
    assert_eq!(inner, b_rows, "the right matrix has a row for each column of the left one");
    let (a_values, b_values) = (a.storage::<f32>(), b.storage::<f32>());
    let (a, b) = (a.layout(), b.layout());
    let width = columns.div_ceil(PIECES * rayon::current_num_threads());
    let piece = |start: usize| {
        let width = width.min(columns - start);
        let mut out = vec![0.0_f32; rows * width];
        // SAFETY: both layouts lie inside their buffers, and `out` has a place for every entry of the piece.
        unsafe {
            gemm::gemm(
                rows,
                width,
                inner,
                out.as_mut_ptr(),
                1,
                width as isize,
                false,
                a_values.as_ptr().add(a.start_offset()),
                a.strides()[1],
                a.strides()[0],
                b_values.as_ptr().add(b.start_offset() + start),
                1,
                b.strides()[0],
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        FlexTensor::from_data(TensorData::new(out, [rows, width]))
    };
    let starts: Vec<usize> = (0..columns).step_by(width).collect();
    Flex::float_cat(starts.into_par_iter().map(piece).collect(), 1)
}
