//! Eigenvalues and eigenvectors of symmetric matrices.

use faer::Mat;

use super::band::tridiagonal_by_band;
use super::tridiagonal::{self, tridiagonal};

/// Columns from which a band is the faster way to a tridiagonal form.
const BY_BAND: usize = 800;

/// All eigenvalues, ascending, of the symmetric matrix whose lower triangle `a` holds; `None` where the iteration does not
/// converge.
pub(super) fn eigenvalues(a: Mat<f64>) -> Option<Vec<f64>> {
    if a.nrows() < BY_BAND {
        return tridiagonal(a).eigenvalues();
    }
    let (diagonal, below) = tridiagonal_by_band(a);
    tridiagonal::eigenvalues(diagonal, &below)
}

/// The `k` largest eigenvalues, descending, and their eigenvectors as columns, of the symmetric matrix whose lower
/// triangle `a` holds; `None` where the iteration does not converge.
pub(crate) fn leading(a: Mat<f64>, k: usize) -> Option<(Vec<f64>, Mat<f64>)> {
    let tridiagonal = tridiagonal(a);
    let (mut values, vectors) = tridiagonal.eigen()?;
    values.reverse();
    values.truncate(k);
    Some((values, tridiagonal.leading(&vectors, k)))
}
