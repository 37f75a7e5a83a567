//! Tridiagonal form by way of a band, for eigenvalues alone.
//!
//! A matrix becomes a band by products of matrices, which read it once for many columns, where [`super::tridiagonal`]
//! reads it for each. The band becomes tridiagonal in a core's own cache. Eigenvectors would have to be taken back through
//! both, which costs more than is gained.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a dispatch does not use vector registers"
)]

use std::ops::Range;

use faer::{Accum, Mat, MatRef};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::product::{multiply, product, strips, symmetric_update};
use super::tridiagonal::{reflect, triangle};
use super::vectors::{add, dot};

/// Entries below the diagonal that the band has in each column, and columns that are reduced together.
const WIDTH: usize = 32;
/// Columns of a strip that are multiplied together, after their block on the diagonal is filled up to a square.
const STEP: usize = 64;
/// Columns from which the threads share products.
const SHARED: usize = 256;

/// Diagonal, `[n]`, and what is below it, `[n - 1]`, of a tridiagonal matrix with the eigenvalues of the symmetric matrix
/// whose lower triangle `a` holds.
pub(super) fn tridiagonal_by_band(a: Mat<f64>) -> (Vec<f64>, Vec<f64>) {
    // From outside the pool every join would wake it and wait for it.
    let mut band = rayon::scope(|_| Band::of(a));
    pulp::Arch::new().dispatch(Chase(&mut band));
    band.diagonals()
}

/// From one column to the next; the columns overlap where both hold zeros.
const STRIDE: usize = 3 * WIDTH;

/// A symmetric matrix with nothing outside of a band, by its lower triangle.
///
/// Column `k` has room for rows `k` to `k + 2 WIDTH - 1`. Before and after it, and in columns and rows after the last,
/// there are zeros, so that every block is whole.
struct Band {
    n: usize,
    entries: Vec<f64>,
}

fn index(row: usize, column: usize) -> usize {
    column * STRIDE + row
}

impl Band {
    /// With the eigenvalues of the symmetric matrix whose lower triangle `a` holds.
    fn of(mut a: Mat<f64>) -> Self {
        let n = a.nrows();
        let mut band = Self { n, entries: vec![0.0; index(n + 3 * WIDTH, n + WIDTH)] };
        let mut start = 0;
        while n - start > WIDTH + 1 {
            let below = start + WIDTH;
            let (v, triangle) = factor(&mut a, below, start);
            band.take(&a, start..below);
            update(&mut a, below, &v, &triangle);
            start = below;
        }
        band.take(&a, start..n);
        band
    }

    /// Columns of a matrix, as far as the band reaches.
    fn take(&mut self, a: &Mat<f64>, columns: Range<usize>) {
        for k in columns {
            let column = &a.col_as_slice(k)[k..self.n.min(k + WIDTH + 1)];
            self.entries[index(k, k)..][..column.len()].copy_from_slice(column);
        }
    }

    /// The diagonal and what is right below it.
    fn diagonals(&self) -> (Vec<f64>, Vec<f64>) {
        let diagonal = (0..self.n).map(|k| self.entries[index(k, k)]).collect();
        (diagonal, (1..self.n).map(|k| self.entries[index(k, k - 1)]).collect())
    }
}

/// Reflectors, `[n - below, r]`, that bring the entries of a panel from row `below` on into triangular form, where they are
/// written, and the triangle that joins the reflectors.
fn factor(a: &mut Mat<f64>, below: usize, start: usize) -> (Mat<f64>, Mat<f64>) {
    let rows = a.nrows() - below;
    let count = WIDTH.min(rows - 1);
    let (mut v, mut taus) = (Mat::<f64>::zeros(rows, count), Vec::<f64>::new());
    for i in 0..WIDTH {
        let column = &mut a.col_as_slice_mut(start + i)[below..];
        for (j, tau) in taus.iter().enumerate() {
            let v: &[f64] = &v.col_as_slice(j)[j..];
            let overlap = dot(v, &column[j..]);
            add(&mut column[j..], &[(-tau * overlap, v)]);
        }
        if i < count {
            let (tau, first) = reflect(&mut column[i..]);
            v.col_as_slice_mut(i)[i..].copy_from_slice(&column[i..]);
            column[i] = first;
            column[i + 1..].fill(0.0);
            taus.push(tau);
        }
    }
    let triangle = triangle(&v, &taus);
    (v, triangle)
}

/// Turns the matrix from row and column `start` on by the reflectors, from both sides.
fn update(a: &mut Mat<f64>, start: usize, v: &Mat<f64>, triangle: &Mat<f64>) {
    let times = |x: MatRef<'_, f64>, y: &Mat<f64>| {
        let mut xy = Mat::zeros(x.nrows(), y.ncols());
        product(xy.as_mut(), Accum::Replace, x, y.as_ref(), 1.0);
        xy
    };
    let a = a.as_mut().submatrix_mut(start, start, v.nrows(), v.nrows());
    let mut x = times(symmetric_times(a.as_ref(), v).as_ref(), triangle);
    let shared = times(triangle.transpose(), &times(v.transpose(), &x));
    multiply(x.as_mut(), Accum::Add, v.as_ref(), shared.as_ref(), -0.5);
    symmetric_update(a, x.as_ref(), v.as_ref());
}

/// The symmetric matrix whose lower triangle `a` holds, times `v`.
fn symmetric_times(a: MatRef<'_, f64>, v: &Mat<f64>) -> Mat<f64> {
    let (n, count) = (v.nrows(), v.ncols());
    let parts = strips(n, n >= SHARED).into_par_iter().map(|strip| {
        let mut y = Mat::zeros(n, count);
        for start in strip.clone().step_by(STEP) {
            let width = STEP.min(strip.end - start);
            let columns = a.get(.., start..start + width);
            let block = columns.subrows(start, width);
            let block = Mat::from_fn(width, width, |i, j| block[(i.max(j), i.min(j))]);
            let below = columns.split_at_row(start + width).1;
            let (mut first, rest) = y.as_mut().split_at_row_mut(start + width);
            let (v, beside) = (v.as_ref().subrows(start, width), v.as_ref().split_at_row(start + width).1);
            let mut first = first.as_mut().subrows_mut(start, width);
            multiply(first.as_mut(), Accum::Add, block.as_ref(), v, 1.0);
            multiply(first, Accum::Add, below.transpose(), beside, 1.0);
            multiply(rest, Accum::Add, below, v, 1.0);
        }
        y
    });
    let mut sum = Mat::zeros(n, count);
    for part in parts.collect::<Vec<Mat<f64>>>() {
        sum += part;
    }
    sum
}

/// Brings a band into tridiagonal form.
///
/// A reflector of `WIDTH` rows takes out a column below the first entry beside the diagonal, and is applied from both
/// sides. What that adds below the band is taken out by a next one in its first column, and so on to the end of the
/// matrix; the other columns are left for the columns after this one.
struct Chase<'a>(&'a mut Band);

impl WithSimd for Chase<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(Band { n, entries }) = self;
        match S::F64_LANES {
            8 => chase::<S, { WIDTH / 8 }>(simd, entries, *n),
            4 => chase::<S, { WIDTH / 4 }>(simd, entries, *n),
            2 => chase::<S, { WIDTH / 2 }>(simd, entries, *n),
            _ => chase::<S, WIDTH>(simd, entries, *n),
        }
    }
}

/// `V` registers hold `WIDTH` numbers.
#[inline(always)]
fn chase<S: Simd, const V: usize>(simd: S, entries: &mut [f64], n: usize) {
    for k in 0..n.saturating_sub(2) {
        let mut reflector = [0.0; WIDTH];
        let column = &mut entries[index(k + 1, k)..][..WIDTH];
        reflector.copy_from_slice(column);
        let (mut tau, first) = reflect(&mut reflector);
        column.fill(0.0);
        column[0] = first;
        // To the end, though there may be nothing to take out here: what was chased before lies further down.
        for start in (k + 1..n).step_by(WIDTH) {
            two_sided::<S, V>(simd, entries, start, &reflector, tau);
            if start + WIDTH < n {
                tau = below::<S, V>(simd, entries, start, &mut reflector, tau);
            }
        }
    }
}

/// Applies a reflector to the block on the diagonal from `start` on, from both sides.
#[inline(always)]
fn two_sided<S: Simd, const V: usize>(
    simd: S,
    entries: &mut [f64],
    start: usize,
    reflector: &[f64; WIDTH],
    tau: f64,
) {
    const ROWS: [f64; WIDTH] = {
        let mut rows = [0.0; WIDTH];
        let mut i = 0;
        while i < WIDTH {
            rows[i] = i as f64;
            i += 1;
        }
        rows
    };
    let zero = simd.splat_f64s(0.0);
    let (rows, v) = (load::<S, V>(&ROWS), load::<S, V>(reflector));
    let mut y = [zero; V];
    let mut beside = [0.0; WIDTH];
    for q in 0..WIDTH {
        // Above the diagonal are zeros.
        let column = &entries[index(start, start + q)..][..WIDTH];
        let diagonal = column[q];
        let (column, factor) = (load::<S, V>(column), simd.splat_f64s(reflector[q]));
        let mut sum = zero;
        for i in 0..V {
            y[i] = simd.mul_add_e_f64s(column[i], factor, y[i]);
            sum = simd.mul_add_e_f64s(column[i], v[i], sum);
        }
        beside[q] = simd.reduce_sum_f64s(sum) - diagonal * reflector[q];
    }
    let beside = load::<S, V>(&beside);
    let mut overlap = zero;
    for i in 0..V {
        y[i] = simd.mul_f64s(simd.add_f64s(y[i], beside[i]), simd.splat_f64s(tau));
        overlap = simd.mul_add_e_f64s(y[i], v[i], overlap);
    }
    let shift = simd.splat_f64s(-0.5 * tau * simd.reduce_sum_f64s(overlap));
    for i in 0..V {
        y[i] = simd.mul_add_e_f64s(v[i], shift, y[i]);
    }
    let mut w = [0.0; WIDTH];
    S::as_mut_simd_f64s(&mut w).0.copy_from_slice(&y);
    for q in 0..WIDTH {
        let column = &mut entries[index(start, start + q)..][..WIDTH];
        let column = S::as_mut_simd_f64s(column).0;
        let (first, by_v, by_w) =
            (simd.splat_f64s(q as f64), simd.splat_f64s(-w[q]), simd.splat_f64s(-reflector[q]));
        for i in 0..V {
            let x = simd.mul_add_e_f64s(y[i], by_w, simd.mul_add_e_f64s(v[i], by_v, column[i]));
            column[i] = simd.select_f64s(simd.greater_than_or_equal_f64s(rows[i], first), x, zero);
        }
    }
}

/// Applies a reflector to the block below the one on the diagonal from `start` on, from the right, and then the one that
/// takes out its first column, from the left, which replaces the reflector; returns the `tau` of that.
#[inline(always)]
fn below<S: Simd, const V: usize>(
    simd: S,
    entries: &mut [f64],
    start: usize,
    reflector: &mut [f64; WIDTH],
    tau: f64,
) -> f64 {
    let zero = simd.splat_f64s(0.0);
    let mut sums = [[zero; V]; 2];
    for q in 0..WIDTH {
        let column = load::<S, V>(&entries[index(start + WIDTH, start + q)..][..WIDTH]);
        let factor = simd.splat_f64s(-tau * reflector[q]);
        for i in 0..V {
            sums[q % 2][i] = simd.mul_add_e_f64s(column[i], factor, sums[q % 2][i]);
        }
    }
    let mut w = [zero; V];
    for i in 0..V {
        w[i] = simd.add_f64s(sums[0][i], sums[1][i]);
    }
    let mut next = [0.0; WIDTH];
    let first = &mut entries[index(start + WIDTH, start)..][..WIDTH];
    {
        let next = S::as_mut_simd_f64s(&mut next).0;
        let (first, factor) = (S::as_simd_f64s(first).0, simd.splat_f64s(reflector[0]));
        for i in 0..V {
            next[i] = simd.mul_add_e_f64s(w[i], factor, first[i]);
        }
    }
    let (next_tau, entry) = reflect(&mut next);
    first.fill(0.0);
    first[0] = entry;
    let u = load::<S, V>(&next);
    for q in 1..WIDTH {
        let column = &mut entries[index(start + WIDTH, start + q)..][..WIDTH];
        let column = S::as_mut_simd_f64s(column).0;
        let factor = simd.splat_f64s(reflector[q]);
        let (mut turned, mut sum) = ([zero; V], zero);
        for i in 0..V {
            turned[i] = simd.mul_add_e_f64s(w[i], factor, column[i]);
            sum = simd.mul_add_e_f64s(turned[i], u[i], sum);
        }
        let factor = simd.splat_f64s(-next_tau * simd.reduce_sum_f64s(sum));
        for i in 0..V {
            column[i] = simd.mul_add_e_f64s(u[i], factor, turned[i]);
        }
    }
    *reflector = next;
    next_tau
}

#[inline(always)]
fn load<S: Simd, const V: usize>(x: &[f64]) -> [S::f64s; V] {
    let x = S::as_simd_f64s(x).0;
    std::array::from_fn(|i| x[i])
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;

    use super::*;
    use crate::host::tridiagonal::eigenvalues;

    /// In registers of every size that the processor has.
    fn assert_eigenvalues(name: &str, a: &DMatrix<f64>) {
        let n = a.nrows();
        let lower = Mat::from_fn(n, n, |i, j| if i >= j { a[(i, j)] } else { f64::NAN });
        let mut expected = a.clone().symmetric_eigenvalues();
        expected.as_mut_slice().sort_by(f64::total_cmp);
        let largest = expected.amax();
        let check = |registers: &str, (diagonal, below): (Vec<f64>, Vec<f64>)| {
            let found = eigenvalues(diagonal, &below).expect("it converges");
            for (found, expected) in found.iter().zip(&expected) {
                let off = (found - expected).abs();
                assert!(off <= 1e-13 * largest, "{name} of {n}, {registers}: {found}, not {expected}");
            }
        };
        check("the widest", tridiagonal_by_band(lower.clone()));
        let by = |chase: &dyn Fn(Chase<'_>)| {
            let mut band = Band::of(lower.clone());
            chase(Chase(&mut band));
            band.diagonals()
        };
        check("none", by(&|chase| chase.with_simd(pulp::Scalar::new())));
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            check("AVX2", by(&|chase| simd.vectorize(|| chase.with_simd(simd))));
        }
    }

    #[test]
    fn a_band_has_the_eigenvalues_of_its_matrix() {
        for n in [1, 2, 3, 31, 32, 33, 34, 35, 64, 65, 66, 67, 97, 98, 150, 300] {
            let full = DMatrix::from_fn(n, n, |i, j| ((i.min(j) * 31 + i.max(j) * 17) as f64).sin());
            assert_eigenvalues("full", &full);
            let only = |kept: &dyn Fn(usize, usize) -> bool| {
                DMatrix::from_fn(n, n, |i, j| if kept(i, j) { full[(i, j)] } else { 0.0 })
            };
            assert_eigenvalues("a diagonal", &only(&|i, j| i == j));
            assert_eigenvalues("blocks", &only(&|i, j| i / 20 == j / 20));
            assert_eigenvalues("a narrow band", &only(&|i, j| i.abs_diff(j) <= 3));
            assert_eigenvalues("two diagonals", &only(&|i, j| i == j || i.abs_diff(j) == 30));
            assert_eigenvalues(
                "a sparse band",
                &only(&|i, j| i.abs_diff(j) < WIDTH && (i * j + i + j) % 11 == 0),
            );
        }
    }

    /// An entry is chased below the band from where there was nothing to take out since.
    #[test]
    fn what_was_chased_is_found_again() {
        let mut a = DMatrix::<f64>::identity(70, 70);
        for [i, j] in [[0, 32], [32, 64], [4, 33]] {
            let mut row = DMatrix::zeros(1, 70);
            (row[i], row[j]) = (0.5, 0.5);
            a += row.transpose() * row;
        }
        assert_eigenvalues("three rows on the identity", &a);
    }
}
