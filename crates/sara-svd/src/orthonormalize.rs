//! Orthonormal rows from given ones: by the Cholesky factor of their Gram matrix where that is safe, checked.

use burn::tensor::Tensor;

use crate::Error;
use crate::ops::{Engine, PANEL, primitive, product, tensor};
use crate::prepare::epsilon;
use crate::rows::{identity, off_identity};

/// Distance from the identity that the Gram matrix of orthonormal rows may have, in units of rounding.
const ORTHONORMAL: f64 = 64.0;
/// Distance from the identity, not in units of rounding, that it may have for rows that only have to span the right space.
const NEAR: f64 = 0.1;
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
        let rows = straightened(x.clone(), 0.0)?;
        if largest(off_identity(&rows))? <= NEAR {
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
    let tolerance = ORTHONORMAL * epsilon(&rows);
    // The shift keeps the factor positive definite, and costs a pass.
    let shift = 11.0 * (n + l + 1) as f64 * epsilon(&rows);
    for (shift, passes) in [(0.0, 2), (shift, 3)] {
        let mut q = straightened(rows.clone(), shift)?;
        for _ in 1..passes {
            q = straightened(q, 0.0)?;
        }
        if largest(off_identity(&q))? <= tolerance {
            return Ok(q);
        }
    }
    let norms = (rows.clone() * rows.clone()).sum_dim(1).sqrt();
    let rows = rows / norms.clamp_min(f64::from(f32::MIN_POSITIVE));
    Ok(tensor(E::gram_schmidt(primitive(rows), SPARE_SEED)?))
}

/// The rows turned by the inverse of the Cholesky factor of their Gram matrix, with `shift` added to its diagonal: nearly
/// orthonormal, unless they were nearly dependent.
fn straightened<E: Engine>(rows: Tensor<E, 2>, shift: f64) -> Result<Tensor<E, 2>, Error> {
    let identity = identity(rows.dims()[0], &rows);
    let gram = product(rows.clone(), rows.clone().transpose());
    // That of rows of one length: the squares of very different ones would leave no digits for the short.
    let norms = (gram.clone() * identity.clone()).sum_dim(1).sqrt();
    let scale = norms.clamp_min(f64::from(f32::MIN_POSITIVE)).recip(); // [l, 1]
    let gram = gram * scale.clone() * scale.clone().transpose();
    let gram = if shift > 0.0 { gram + identity * shift } else { gram };
    let inverse = tensor::<E, 2>(E::cholesky_inverse(primitive(gram))?);
    Ok(product(inverse * scale.transpose(), rows))
}

/// Largest modulus; not a number below any other where an entry is not one.
fn largest<E: Engine>(x: Tensor<E, 2>) -> Result<f64, Error> {
    let largest = E::largest(primitive(x))?;
    Ok(if largest.is_nan() { f64::INFINITY } else { largest })
}
