use faer::{Accum, Mat, MatRef};
use rayon::prelude::*;

use super::Scaled;
use super::product::{lower_product, product};
use super::tridiagonal::tridiagonal;
use super::{TIE, symmetric};
use crate::{Algorithm, Error};

/// Smallest ratio of the Gram matrix's extreme eigenvalues that the Gram path accepts.
///
/// An eigenvalue carries an error of about `f64::EPSILON` times the largest, so at this ratio (a condition
/// number of 1e5) the smallest singular value is still good to 1e-6 of itself and 1e-11 of the largest, and
/// the raw columns of `u` are orthogonal to 1e-5, of which one Newton-Schulz step leaves 1e-10.
const GRAM_FLOOR: f64 = 1e-10;

/// Ratio of the Gram matrix's extreme eigenvalues (a condition number of 4,500) from which the columns of `u` are
/// orthogonal to 1e-8 as they come, a sixth of what rounding to f32 does; the step that would make them more so,
/// a sixth of the whole time, is left out.
const ORTHONORMAL_FROM: f64 = 5e-8;

/// Largest relative difference between the sum of squares of the entries and of the singular values.
///
/// Rounding leaves 1e-12 at the largest shapes. A solver that lost or invented a singular value is off by
/// that value's own share of the sum.
const SQUARED_NORM_TOLERANCE: f64 = 1e-10;

/// Which of the two ways a result took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Solver {
    Gram,
    Direct,
}

impl Solver {
    pub(crate) fn algorithm(self) -> Algorithm {
        match self {
            Self::Gram => Algorithm::Gram,
            Self::Direct => Algorithm::Bidiagonal,
        }
    }

    /// Bound of the errors of the leading singular values `s` of a matrix whose longer side is `longer`.
    pub(crate) fn error_bound(self, s: &[f64], longer: usize) -> f64 {
        let (Some(first), Some(last)) = (s.first(), s.last()) else { return 0.0 };
        // Both are backward stable: the matrix that was solved is this far away, relative to its norm.
        let backward = 4.0 * longer as f64 * f64::EPSILON * first;
        match self {
            Self::Direct => backward,
            // `|x - y| <= |x^2 - y^2| / x`; the path is not taken where the last value is 0.
            Self::Gram => backward * (first / last),
        }
    }
}

/// Singular vectors as columns, and values.
pub(crate) struct Triplets {
    /// `[m, k]`
    pub(crate) u: Mat<f64>,
    /// `[k]`, descending
    pub(crate) s: Vec<f64>,
    /// `[n, k]`
    pub(crate) v: Mat<f64>,
}

/// `tall = p diag(s) q^T`.
struct Solution {
    solver: Solver,
    p: Mat<f64>,
    s: Vec<f64>,
    q: Mat<f64>,
}

impl Solution {
    fn truncate(mut self, k: usize) -> Self {
        self.s.truncate(k);
        let (p, q) = (self.p.subcols(0, k).to_owned(), self.q.subcols(0, k).to_owned());
        Self { p, q, ..self }
    }
}

impl Scaled {
    pub(crate) fn singular_values(&self) -> Result<(Vec<f64>, Solver), Error> {
        if self.rank_limit() == 0 {
            return Ok((Vec::new(), Solver::Direct));
        }
        let direct = || self.tall().singular_values().ok().filter(|s| self.accepts(s));
        let (s, solver) = match self.gram_values() {
            Some(s) => (s, Solver::Gram),
            None => (direct().ok_or(self.not_converged())?, Solver::Direct),
        };
        Ok((self.unscale(s)?, solver))
    }

    /// The `k` largest values and their vectors, all where there are no more.
    pub(crate) fn svd(&self, k: usize) -> Result<(Triplets, Solver), Error> {
        let k = k.min(self.rank_limit());
        if k == 0 {
            let none = |n| Mat::zeros(n, 0);
            let triplets = Triplets { u: none(self.rows), s: Vec::new(), v: none(self.columns) };
            return Ok((triplets, Solver::Direct));
        }
        let direct = || {
            direct_svd(self.tall()).filter(|solution| self.accepts(&solution.s)).map(|all| all.truncate(k))
        };
        let Solution { solver, p: mut u, s, q: mut v } =
            self.gram_svd(k).or_else(direct).ok_or(self.not_converged())?;
        if self.is_transposed() {
            std::mem::swap(&mut u, &mut v);
        }
        fix_signs(&mut u, &mut v);
        Ok((Triplets { u, s: self.unscale(s)?, v }, solver))
    }

    /// Lower triangle of `a^T a`; only for input whose squares f64 holds exactly.
    fn gram(&self) -> Option<Mat<f64>> {
        if 2 * self.precision > f64::MANTISSA_DIGITS {
            return None;
        }
        let a = self.tall();
        let mut gram = Mat::zeros(a.ncols(), a.ncols());
        lower_product(gram.as_mut(), Accum::Replace, a.transpose(), a, 1.0);
        Some(gram)
    }

    /// `None` where the Gram matrix is too ill-conditioned to tell the small singular values.
    fn gram_values(&self) -> Option<Vec<f64>> {
        let ascending = symmetric::eigenvalues(self.gram()?)?;
        self.square_roots(ascending, self.rank_limit())
    }

    fn gram_svd(&self, k: usize) -> Option<Solution> {
        let tridiagonal = tridiagonal(self.gram()?);
        let (ascending, vectors) = tridiagonal.eigen()?;
        let s = self.square_roots(ascending, k)?;
        let q = tridiagonal.leading(&vectors, k);
        let a = self.tall();
        let mut p = Mat::zeros(a.nrows(), k);
        product(p.as_mut(), Accum::Replace, a, q.as_ref(), 1.0);
        p.par_col_iter_mut().for_each(|column| {
            let norm = column.norm_l2();
            column.iter_mut().for_each(|x| *x /= norm);
        });
        let (first, last) = (s.first()?, s.last()?);
        let orthonormal = last * last > ORTHONORMAL_FROM * first * first;
        let p = if orthonormal { p } else { newton_schulz(&p) };
        Some(Solution { solver: Solver::Gram, p, s, q })
    }

    /// The `k` largest singular values from the ascending eigenvalues of the Gram matrix, if they can be trusted.
    fn square_roots(&self, ascending: Vec<f64>, k: usize) -> Option<Vec<f64>> {
        let mut s: Vec<f64> = ascending.into_iter().rev().map(|x| x.max(0.0).sqrt()).collect();
        let accepted = self.accepts(&s);
        s.truncate(k);
        let (first, last) = (s.first()?, s.last()?);
        (accepted && last * last > GRAM_FLOOR * first * first).then_some(s)
    }

    fn not_converged(&self) -> Error {
        Error::NotConverged { rows: self.rows, columns: self.columns }
    }

    /// Whether `s` is descending and has the sum of squares of the matrix.
    fn accepts(&self, s: &[f64]) -> bool {
        let (expected, found) = (self.squared_norm(), s.iter().map(|x| x * x).sum::<f64>());
        s.is_sorted_by(|x, y| x >= y) && (found - expected).abs() <= SQUARED_NORM_TOLERANCE * expected
    }
}

fn direct_svd(a: MatRef<'_, f64>) -> Option<Solution> {
    let svd = a.thin_svd().ok()?;
    let s = svd.S().column_vector().iter().copied().collect();
    Some(Solution { solver: Solver::Direct, p: svd.U().to_owned(), s, q: svd.V().to_owned() })
}

/// One Newton-Schulz step `p (3 - p^T p) / 2`, which squares the distance of `p` from orthonormal columns.
fn newton_schulz(p: &Mat<f64>) -> Mat<f64> {
    let mut step = Mat::from_fn(p.ncols(), p.ncols(), |i, j| if i == j { 1.5 } else { 0.0 });
    product(step.as_mut(), Accum::Add, p.transpose(), p.as_ref(), -0.5);
    let mut better = Mat::zeros(p.nrows(), p.ncols());
    product(better.as_mut(), Accum::Replace, p.as_ref(), step.as_ref(), 1.0);
    better
}

/// Makes the first entry of largest modulus in each column of `u` positive, where [`TIE`] tells none apart.
fn fix_signs(u: &mut Mat<f64>, v: &mut Mat<f64>) {
    u.par_col_iter_mut().zip(v.par_col_iter_mut()).for_each(|(u, v)| {
        let largest = u.as_ref().iter().fold(0.0_f64, |largest, &x| largest.max(x.abs()));
        let first = u.as_ref().iter().copied().find(|x| x.abs() >= largest * (1.0 - TIE));
        if first.is_some_and(|first| first < 0.0) {
            u.iter_mut().chain(v.iter_mut()).for_each(|x| *x = -*x);
        }
    });
}

/// The entries row by row, rounded, a band of rows on each thread: faer holds them column by column.
pub(crate) fn row_major<T: Copy + Default + Send>(
    a: MatRef<'_, f64>,
    round: impl Fn(f64) -> T + Sync,
) -> Vec<T> {
    const BAND: usize = 16;
    let columns = a.ncols();
    let mut all = vec![T::default(); a.nrows() * columns];
    all.par_chunks_mut((BAND * columns).max(1)).enumerate().for_each(|(band, rows)| {
        for j in 0..columns {
            for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
                row[j] = round(a[(band * BAND + i, j)]);
            }
        }
    });
    all
}
