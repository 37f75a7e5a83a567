//! Flex: numbers read where they lie, and products with few rows on one side.
//!
//! What takes the time of a randomized SVD is the product of a flat matrix with a large one, and burn-flex is
//! two to three times slower at it than the processor can be: with a few rows because it packs the large one first, with
//! more because its threads wait for one another at every block.

use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexTensor};
use sara_ops::strided::{Matrix, product};

use super::flat::{self, Rows};
use super::{Engine, SvdOps};
use crate::Error;
use crate::host::blocks;

/// Rows from which a product is no longer flat, and the same of a transposed large matrix from which it is large.
const FLAT: usize = 512;
/// Rows up to which the large matrix is read where it lies; more are worth packing it, as gemm does, unless it is
/// transposed: to pack it then would be to transpose it.
const READ_IN_PLACE: usize = 48;
/// Dot products in a block, and rows of it.
const DOTS: usize = 256;
const FLAT_BLOCK: usize = 64;
/// Columns of the large matrix that are packed on one thread.
const PANEL: usize = 256;
/// Multiplications that are worth several threads.
const PARALLEL: usize = 1 << 21;

impl Engine for Flex {
    fn largest(a: FlexTensor) -> Result<f64, Error> {
        match values(&a) {
            Some(values) => Ok(f64::from(blocks::largest(values))),
            None => super::largest::<Self>(a),
        }
    }

    fn norms(a: FlexTensor) -> Result<(f64, f64), Error> {
        if let Some(values) = values(&a) {
            let (largest, squares) = blocks::norms(values);
            return Ok((f64::from(largest), squares));
        }
        super::two_norms::<Self>(a)
    }

    fn product(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        flat_product(&a, &b).unwrap_or_else(|| Self::float_matmul(a, b))
    }

    fn there_and_back(x: FlexTensor, a: FlexTensor) -> (FlexTensor, FlexTensor) {
        if let (Some(few), Some(large)) = (rows(&x), rows(&a))
            && is_flat(few, &a)
        {
            let (there, back) = flat::there_and_back(few, large);
            return (matrix(there, few.height, large.height), matrix(back, few.height, large.columns));
        }
        super::two_products::<Self>(x, a)
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

/// `a b`, where `a` is flat and both are matrices of f32 whose rows, or columns for `b`, are contiguous.
fn flat_product(a: &FlexTensor, b: &FlexTensor) -> Option<FlexTensor> {
    let x = rows(a)?;
    if !is_flat(x, b) {
        return None;
    }
    let (values, columns) = if let Some(b) = rows(b) {
        let values = if x.height > READ_IN_PLACE { by_panels(x, b) } else { flat::times(x, b) };
        (values, b.columns)
    } else {
        let b = b.transpose(0, 1);
        let b = rows(&b)?;
        let values = if b.height <= FLAT { by_dots(x, b) } else { flat::times_transposed(x, b) };
        (values, b.height)
    };
    Some(matrix(values, x.height, columns))
}

/// `x a` by panels of `a` that one thread packs and multiplies.
fn by_panels(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    product(strided(x), strided(a), [x.height, PANEL.min(a.columns)], |_, _| {})
}

/// `x a^T` in blocks that gemm takes where they lie, but for a last one of uneven width now and then; it would pack
/// larger ones, and transpose to do so.
fn by_dots(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    let height = x.height.min(FLAT_BLOCK);
    let blocks = a.height.div_ceil(DOTS / height);
    product(strided(x), strided(a).transposed(), [height, a.height / blocks], |_, _| {})
}

fn strided(x: Rows<'_>) -> Matrix<'_> {
    Matrix::new(x.values, x.height, x.columns, x.stride)
}

/// Whether a product of these rows with a matrix is one of a few with a large one.
fn is_flat(x: Rows<'_>, large: &FlexTensor) -> bool {
    x.height <= FLAT && x.height * large.layout().num_elements() >= PARALLEL
}

fn matrix(values: Vec<f32>, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

/// The matrix, if it is one of f32 with contiguous rows.
fn rows(a: &FlexTensor) -> Option<Rows<'_>> {
    let layout = a.layout();
    let &[rows, columns] = layout.shape().as_slice() else { return None };
    let &[stride, 1] = layout.strides() else { return None };
    if a.dtype() != DType::F32 {
        return None;
    }
    let values = a.storage::<f32>().get(layout.start_offset()..)?;
    Some(Rows { values, height: rows, columns, stride: usize::try_from(stride).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
        blocks::sketch([rows, columns], seed).into_iter().map(|x| x as f32).collect()
    }

    /// On every way, beside matrices of its own size that end in the middle of a block.
    #[test]
    fn flat_products_are_those_of_the_definition() {
        for (few, width) in [(5, 7), (8, 11), (16, 600), (65, 7), (65, 130), (80, 513)] {
            let inner = PARALLEL.div_ceil(few * width).max(70);
            let (x, a) = (made(few, inner, 1), made(width, inner, 2));
            let expected: Vec<f64> = (0..few * width)
                .map(|at| (&x[at / width * inner..][..inner], &a[at % width * inner..][..inner]))
                .map(|(x, a)| x.iter().zip(a).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum())
                .collect();
            let by_rows: Vec<f32> = (0..inner * width).map(|at| a[at % width * inner + at / width]).collect();
            let x = matrix(x, few, inner);
            for (layout, b) in [
                ("columns", matrix(a, width, inner).transpose(0, 1)),
                ("rows", matrix(by_rows, inner, width)),
            ] {
                let what = format!("{few} x {inner} x {width} by {layout}");
                let found = flat_product(&x, &b).unwrap_or_else(|| panic!("{what} is not flat"));
                for (found, expected) in found.storage::<f32>().iter().zip(&expected) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off <= 1e-6 * inner as f64, "{what}: {found}, not {expected}");
                }
            }
        }
    }
}
