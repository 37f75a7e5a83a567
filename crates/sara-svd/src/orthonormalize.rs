//! Orthonormal rows from given ones: by the Cholesky factor of their Gram matrix where that is safe, checked.

use burn::tensor::Tensor;

use crate::Error;
use crate::ops::{Engine, PANEL, entries, primitive, product, tensor};
use crate::prepare::epsilon;

/// Distance from the identity that the Gram matrix of nearly orthonormal rows may have.
const NEAR: f64 = 0.1;
/// Passes after which rows that did not come near are shifted, or made orthonormal one by one.
const PASSES: usize = 3;
/// Cosine to the rows before that a row may keep, in units of rounding.
const ORTHOGONAL: f64 = 32.0;
/// Rounds of projection: two are enough unless rows had to be replaced.
const PROJECTIONS: usize = 6;
/// Seed of the rows that replace dependent ones.
const SPARE_SEED: u32 = 0x5A5A_0001;

/// Orthonormal rows with the span of the rows of `x [l, n]`, `l <= n`; where they are dependent, with more.
pub(crate) fn orthonormalize<E: Engine>(x: Tensor<E, 2>) -> Result<Tensor<E, 2>, Error> {
    let [l, _] = x.dims();
    if l == 0 { Ok(x) } else { extend(None, x) }
}

/// Rows with the span of the rows of `x [l, n]`, `l <= n`, near enough to orthonormal to be multiplied by a matrix and
/// keep their digits.
pub(crate) fn near_orthonormal<E: Engine>(x: Tensor<E, 2>) -> Result<Tensor<E, 2>, Error> {
    if (1..=PANEL).contains(&x.dims()[0]) {
        let (rows, growth) = straightened(x.clone(), 0.0)?;
        if is_near(entries(growth)?[0], &x) {
            return Ok(rows);
        }
    }
    orthonormalize(x)
}

/// `rows` with all after the first `good` of them replaced by some that make the whole orthonormal.
pub(crate) fn complete<E: Engine>(rows: Tensor<E, 2>, good: usize) -> Result<Tensor<E, 2>, Error> {
    let [l, n] = rows.dims();
    if good == l {
        return Ok(rows);
    }
    let spare = E::sketch([l - good, n], SPARE_SEED, rows.dtype(), &rows.device());
    let kept = (good > 0).then(|| rows.slice([0..good, 0..n]));
    extend(kept, tensor(spare))
}

/// `basis` with the rows of `x` added, made orthonormal panel by panel.
fn extend<E: Engine>(mut basis: Option<Tensor<E, 2>>, x: Tensor<E, 2>) -> Result<Tensor<E, 2>, Error> {
    let [l, n] = x.dims();
    for start in (0..l).step_by(PANEL) {
        let rows = x.clone().slice([start..l.min(start + PANEL), 0..n]);
        basis = Some(match basis {
            None => panel(rows)?,
            Some(basis) => {
                let rows = orthonormal_to(&basis, rows)?;
                Tensor::cat(vec![basis, rows], 0)
            }
        });
    }
    Ok(basis.unwrap_or(x))
}

/// Orthonormal rows that are orthogonal to the rows of `basis` too, and span the same with them as `rows` do; at
/// most [`PANEL`].
pub(crate) fn orthonormal_to<E: Engine>(
    basis: &Tensor<E, 2>,
    mut rows: Tensor<E, 2>,
) -> Result<Tensor<E, 2>, Error> {
    let tolerance = ORTHOGONAL * epsilon(&rows);
    for round in 0..PROJECTIONS {
        let shared = product(rows.clone(), basis.clone().transpose());
        if round > 0 && largest(shared.clone())? <= tolerance {
            break;
        }
        rows = panel(rows - product(shared, basis.clone()))?;
    }
    Ok(rows)
}

/// At most [`PANEL`] orthonormal rows.
fn panel<E: Engine>(rows: Tensor<E, 2>) -> Result<Tensor<E, 2>, Error> {
    let [l, n] = rows.dims();
    // The shift keeps the factor positive definite, and costs a pass.
    for shift in [0.0, 11.0 * (n + l + 1) as f64 * epsilon(&rows)] {
        let (mut q, mut shift) = (rows.clone(), shift);
        for _ in 0..PASSES {
            let (straighter, growth) = straightened(q, shift)?;
            let growth = entries(growth)?[0];
            // After a shift it says nothing of what the shift left.
            if shift <= 0.0 && is_near(growth, &rows) {
                return Ok(straightened(straighter, 0.0)?.0);
            }
            if !growth.is_finite() {
                break;
            }
            (q, shift) = (straighter, 0.0);
        }
    }
    let norms = (rows.clone() * rows.clone()).sum_dim(1).sqrt();
    let rows = rows / norms.clamp_min(f64::from(f32::MIN_POSITIVE));
    Ok(tensor(E::gram_schmidt(primitive(rows), SPARE_SEED)?))
}

/// The rows turned by the inverse of the Cholesky factor of their Gram matrix, with `shift` of the square of
/// each length added to it; and how many times larger the errors of that matrix are in the one of the result.
fn straightened<E: Engine>(rows: Tensor<E, 2>, shift: f64) -> Result<(Tensor<E, 2>, Tensor<E, 1>), Error> {
    let gram = product(rows.clone(), rows.clone().transpose());
    let (inverse, growth) = E::cholesky_inverse(primitive(gram), shift)?;
    Ok((product(tensor(inverse), rows), tensor(growth)))
}

/// Whether rows like these, straightened with this growth, are nearly orthonormal: so near that once more makes them
/// orthonormal to rounding.
fn is_near<E: Engine>(growth: f64, rows: &Tensor<E, 2>) -> bool {
    // Of sums of so many products, as they come out with signs at random. Not so where it is not a number.
    growth * (rows.dims()[1] as f64).sqrt() * epsilon(rows) <= NEAR
}

/// Largest modulus; not a number below any other where an entry is not one.
fn largest<E: Engine>(x: Tensor<E, 2>) -> Result<f64, Error> {
    let largest = E::largest(primitive(x))?;
    Ok(if largest.is_nan() { f64::INFINITY } else { largest })
}
