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

#[cfg(test)]
mod tests {
    use super::*;

    /// By a tridiagonal form and by a band.
    #[test]
    fn the_number_of_threads_does_not_change_the_bits() {
        for n in [300, 1600] {
            let a = || Mat::from_fn(n, n, |i, j| ((i.min(j) * 31 + i.max(j) * 17) as f64).sin());
            let with = |threads: usize| {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("there is room");
                pool.install(|| (eigenvalues(a()), leading(a(), 7)))
            };
            let (values, vectors) = with(1);
            assert!(values.is_some() && vectors.is_some(), "{n}: they converge");
            for threads in [2, 3] {
                let (values_again, vectors_again) = with(threads);
                assert_eq!(values, values_again, "{n}: values with {threads} threads");
                assert_eq!(vectors, vectors_again, "{n}: vectors with {threads} threads");
            }
        }
    }
}
