//! Small symmetric matrices.

use faer::Mat;

use super::tridiagonal::tridiagonal;

/// The `k` largest eigenvalues, descending, and their eigenvectors as columns, of the symmetric matrix whose lower
/// triangle `a` holds; `None` where the iteration does not converge.
pub(crate) fn leading(a: Mat<f64>, k: usize) -> Option<(Vec<f64>, Mat<f64>)> {
    let tridiagonal = tridiagonal(a);
    let (mut values, vectors) = tridiagonal.eigen()?;
    values.reverse();
    values.truncate(k);
    Some((values, tridiagonal.leading(&vectors, k)))
}
