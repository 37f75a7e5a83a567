//! Tridiagonal form of a symmetric matrix, in panels: half of the operations are products of matrices.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a dispatch does not use vector registers"
)]

use std::ops::Range;

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd;
use faer::{Accum, Mat, MatMut, Spec, get_global_parallelism};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::product::{multiply, strips, symmetric_update, width};
use super::vectors::{add, add_and_dot_with, add_with, dot, dot_with};

/// Columns that are reduced before the rest of the matrix is brought up to date.
const PANEL: usize = 16;
/// Reflectors that are applied together on the way back.
const BLOCK: usize = 64;
/// Columns from which the threads share the reading of the matrix, and from which they share the other sums of a step.
const SHARED_READING: usize = 256;
const SHARED_SUMS: usize = 384;

/// `a = q t q^T` with `t` tridiagonal and `q` a product of reflectors.
pub(super) struct Tridiagonal {
    diagonal: Vec<f64>,
    /// `[n - 1]`
    beside: Vec<f64>,
    /// Column `k` holds the reflector `1 - tau v v^T` from row `k + 1` on, where `v` starts with 1.
    reflectors: Mat<f64>,
    taus: Vec<f64>,
}

/// Reduces the symmetric matrix whose lower triangle `a` holds.
pub(super) fn tridiagonal(a: Mat<f64>) -> Tridiagonal {
    // From outside the pool every join would wake it and wait for it.
    rayon::scope(|_| reduce(a))
}

fn reduce(mut a: Mat<f64>) -> Tridiagonal {
    let n = a.nrows();
    let (mut diagonal, mut beside, mut taus) = (vec![0.0; n], Vec::new(), Vec::new());
    let mut start = 0;
    while start < n {
        let width = PANEL.min(n - start);
        let mut w = Mat::zeros(n, width);
        for i in 0..width {
            let k = start + i;
            bring_up_to_date(&mut a, &w, start, k);
            diagonal[k] = a[(k, k)];
            if k + 1 == n {
                break;
            }
            let (tau, first) = reflect(&mut a.col_as_slice_mut(k)[k + 1..]);
            beside.push(first);
            taus.push(tau);
            let product = times_reflector(&a, &w, start, k, tau);
            w.col_as_slice_mut(i)[k + 1..].copy_from_slice(&product);
        }
        let end = start + width;
        if end < n {
            update(&mut a, &w, start, end);
        }
        start = end;
    }
    Tridiagonal { diagonal, beside, reflectors: a, taus }
}

/// Takes the reflectors of the panel so far out of column `k`.
fn bring_up_to_date(a: &mut Mat<f64>, w: &Mat<f64>, start: usize, k: usize) {
    let n = a.nrows();
    let mut column = a.col_as_slice(k)[k..].to_vec();
    let terms: Vec<(f64, &[f64])> = (start..k)
        .flat_map(|j| {
            let (v, w) = (&a.col_as_slice(j)[k..n], &w.col_as_slice(j - start)[k..n]);
            [(-w[0], v), (-v[0], w)]
        })
        .collect();
    add(&mut column, &terms);
    a.col_as_slice_mut(k)[k..].copy_from_slice(&column);
}

/// `tau` of the reflector that maps `x` onto its first entry, and that entry; `x` becomes the reflector. 0 where the
/// others are as good as zero.
pub(super) fn reflect(x: &mut [f64]) -> (f64, f64) {
    let Some((first, rest)) = x.split_first_mut() else { return (0.0, 0.0) };
    let alpha = std::mem::replace(first, 1.0);
    let squares = dot(rest, rest);
    // What is less is nothing beside entries near one, and its square has lost digits.
    if squares < f64::MIN_POSITIVE / f64::EPSILON {
        return (0.0, alpha);
    }
    let beta = -(alpha * alpha + squares).sqrt().copysign(alpha);
    let scale = 1.0 / (alpha - beta);
    for x in rest {
        *x *= scale;
    }
    ((beta - alpha) / beta, beta)
}

/// What reflector `k`, `v`, changes: `a - v w^T - w v^T` is the matrix after it.
fn times_reflector(a: &Mat<f64>, w: &Mat<f64>, start: usize, k: usize, tau: f64) -> Vec<f64> {
    let n = a.nrows();
    let v = &a.col_as_slice(k)[k + 1..n];
    let before: Vec<(&[f64], &[f64])> =
        (start..k).map(|j| (&a.col_as_slice(j)[k + 1..n], &w.col_as_slice(j - start)[k + 1..n])).collect();
    let overlaps = || before.iter().map(|(x, w)| (dot(x, v), dot(w, v))).collect::<Vec<_>>();
    let (mut product, overlaps) = join(n - k, || symmetric_times(a, k + 1, v), overlaps);
    let terms: Vec<(f64, &[f64])> =
        before.iter().zip(&overlaps).flat_map(|(&(x, w), &(xv, wv))| [(-wv, x), (-xv, w)]).collect();
    add(&mut product, &terms);
    let shift = -0.5 * tau * dot(&product, v);
    add(&mut product, &[(shift, v)]);
    for x in &mut product {
        *x *= tau;
    }
    product
}

fn join<A: Send, B: Send>(n: usize, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    if n > SHARED_SUMS { rayon::join(a, b) } else { (a(), b()) }
}

/// The symmetric matrix from row and column `start` on, by its lower triangle, times `v`.
fn symmetric_times(a: &Mat<f64>, start: usize, v: &[f64]) -> Vec<f64> {
    let n = v.len();
    let strips = strips(n, n >= SHARED_READING);
    // One after the other back and forth: what was read last is what a core still has.
    let backward = start % 2 == 1;
    let strip = |columns: &Range<usize>| {
        let mut y = vec![0.0; n];
        let columns = columns.clone();
        pulp::Arch::new().dispatch(Strip { a, start, columns, backward, v, y: &mut y });
        y
    };
    let some = |strips: &[Range<usize>]| -> Vec<Vec<f64>> {
        if backward {
            let last_first: Vec<_> = strips.iter().rev().map(strip).collect();
            last_first.into_iter().rev().collect()
        } else {
            strips.iter().map(strip).collect()
        }
    };
    let share = strips.len().div_ceil(rayon::current_num_threads());
    let parts: Vec<Vec<f64>> = if share == strips.len() {
        some(&strips)
    } else {
        strips.par_chunks(share).flat_map_iter(some).collect()
    };
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        add(&mut sum, &[(1.0, &part)]);
    }
    sum
}

/// Some columns of the lower triangle, and what they add to the product.
struct Strip<'a> {
    a: &'a Mat<f64>,
    /// First row and column of the matrix in `a`.
    start: usize,
    columns: Range<usize>,
    /// From the last column to the first.
    backward: bool,
    v: &'a [f64],
    y: &'a mut [f64],
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Range { start, end } = self.columns;
        let fours = start..start + (end - start) / 4 * 4;
        if self.backward {
            for j in (fours.end..end).rev() {
                self.column(simd, j);
            }
            for j in fours.step_by(4).rev() {
                self.four_columns(simd, j);
            }
        } else {
            for j in fours.clone().step_by(4) {
                self.four_columns(simd, j);
            }
            for j in fours.end..end {
                self.column(simd, j);
            }
        }
    }
}

impl<'a> Strip<'a> {
    /// Column `j` from the diagonal on.
    #[inline(always)]
    fn lower(&self, j: usize) -> &'a [f64] {
        &self.a.col_as_slice(self.start + j)[self.start + j..self.start + self.v.len()]
    }

    #[inline(always)]
    fn column<S: Simd>(&mut self, simd: S, j: usize) {
        let (c, v) = (self.lower(j), self.v);
        let (head, tail) = self.y.split_at_mut(j + 1);
        add_with(simd, tail, &[(v[j], &c[1..])]);
        head[j] += c[0] * v[j] + dot_with(simd, &c[1..], &v[j + 1..]);
    }

    /// Columns from `j` on.
    #[inline(always)]
    fn four_columns<S: Simd>(&mut self, simd: S, j: usize) {
        let (columns, v) = ([0, 1, 2, 3].map(|q| self.lower(j + q)), self.v);
        // The triangle at the top, entry by entry.
        for (q, c) in columns.iter().enumerate() {
            self.y[j + q] += c[0] * v[j + q];
            for p in q + 1..4 {
                self.y[j + p] += c[p - q] * v[j + q];
                self.y[j + q] += c[p - q] * v[j + p];
            }
        }
        let [c0, c1, c2, c3] = columns;
        let (head, tail) = self.y.split_at_mut(j + 4);
        let factors = [v[j], v[j + 1], v[j + 2], v[j + 3]];
        let dots =
            add_and_dot_with(simd, [&c0[4..], &c1[3..], &c2[2..], &c3[1..]], factors, &v[j + 4..], tail);
        for (y, dot) in head[j..].iter_mut().zip(dots) {
            *y += dot;
        }
    }
}

/// Takes all reflectors of a panel out of the rest of the matrix.
fn update(a: &mut Mat<f64>, w: &Mat<f64>, start: usize, end: usize) {
    let (panel, rest) = a.as_mut().split_at_row_mut(end).1.split_at_col_mut(end);
    symmetric_update(rest, panel.as_ref().subcols(start, end - start), w.as_ref().split_at_row(end).1);
}

impl Tridiagonal {
    /// Eigenvalues, ascending.
    pub(super) fn eigenvalues(self) -> Option<Vec<f64>> {
        eigenvalues(self.diagonal, &self.beside)
    }

    /// Eigenvalues, ascending, and the eigenvectors of `t` as columns: [`Self::apply`] makes them those of `a`.
    pub(super) fn eigen(&self) -> Option<(Vec<f64>, Mat<f64>)> {
        let n = self.diagonal.len();
        let (mut values, mut vectors) = (vec![0.0; n], Mat::zeros(n, n));
        let beside: Vec<f64> = self.beside.iter().copied().chain([0.0]).collect();
        let par = get_global_parallelism();
        let scratch =
            evd::self_adjoint_evd_scratch::<f64>(n, evd::ComputeEigenvectors::Yes, par, Spec::default());
        evd::tridiagonal_self_adjoint_evd(
            DiagRef::from_slice(&self.diagonal),
            DiagRef::from_slice(&beside),
            DiagMut::from_slice_mut(&mut values),
            Some(vectors.as_mut()),
            par,
            MemStack::new(&mut MemBuffer::new(scratch)),
            Spec::default(),
        )
        .ok()?;
        Some((values, vectors))
    }

    /// The last `k` of the vectors that [`Self::eigen`] gave, from the last on, as those of the matrix itself.
    pub(super) fn leading(&self, vectors: &Mat<f64>, k: usize) -> Mat<f64> {
        let mut leading = vectors.as_ref().reverse_cols().subcols(0, k).to_owned();
        self.apply(leading.as_mut());
        leading
    }

    /// `q z` in place: some columns after the others, since few stay nearer to a core than all.
    fn apply(&self, z: MatMut<'_, f64>) {
        let starts: Vec<usize> = (0..self.taus.len()).step_by(BLOCK).collect();
        let blocks: Vec<Block> = starts.into_par_iter().map(|start| self.block(start)).collect();
        let width = width(z.ncols());
        z.par_col_chunks_mut(width).for_each(|mut z| {
            for Block { first, v, vt } in blocks.iter().rev() {
                let part = z.as_mut().subrows_mut(*first, v.nrows());
                let mut overlaps = Mat::zeros(v.ncols(), part.ncols());
                multiply(overlaps.as_mut(), Accum::Replace, v.transpose(), part.as_ref(), 1.0);
                multiply(part, Accum::Add, vt.as_ref(), overlaps.as_ref(), -1.0);
            }
        });
    }

    /// The product of the reflectors from `start` on.
    fn block(&self, start: usize) -> Block {
        let n = self.diagonal.len();
        let width = BLOCK.min(self.taus.len() - start);
        let first = start + 1;
        let mut v = Mat::zeros(n - first, width);
        for j in 0..width {
            v.col_as_slice_mut(j)[j..].copy_from_slice(&self.reflectors.col_as_slice(start + j)[first + j..]);
        }
        let vt = &v * triangle(&v, &self.taus[start..start + width]);
        Block { first, v, vt }
    }
}

/// The triangle `t` with which the product of the reflectors `1 - tau v v^T`, from the first to the last column of `v`,
/// is `1 - v t v^T`.
pub(super) fn triangle(v: &Mat<f64>, taus: &[f64]) -> Mat<f64> {
    let overlaps = v.transpose() * v;
    let mut t = Mat::<f64>::zeros(taus.len(), taus.len());
    for (i, &tau) in taus.iter().enumerate() {
        t[(i, i)] = tau;
        for p in 0..i {
            let sum: f64 = (p..i).map(|q| t[(p, q)] * overlaps[(q, i)]).sum();
            t[(p, i)] = -tau * sum;
        }
    }
    t
}

/// Reflectors that are applied together: `1 - vt v^T` from row `first` on.
struct Block {
    first: usize,
    v: Mat<f64>,
    /// `v` times the triangle that joins them.
    vt: Mat<f64>,
}

/// Iterations for one eigenvalue; two are usual.
const ITERATION_LIMIT: usize = 60;

/// Eigenvalues of a tridiagonal matrix, ascending, by the rational QL iteration of Pal, Walker and Kahan, which takes
/// no square root in its inner loop; `None` where it does not end.
pub(super) fn eigenvalues(mut d: Vec<f64>, beside: &[f64]) -> Option<Vec<f64>> {
    let n = d.len();
    let mut squares: Vec<f64> = beside.iter().map(|x| x * x).collect();
    let negligible = |d: &[f64], squares: &[f64], i: usize| {
        squares[i] <= f64::EPSILON * f64::EPSILON * (d[i] * d[i + 1]).abs()
    };
    let mut start = 0;
    while start < n {
        // A block that nothing joins to the rest.
        let end = (start..n - 1).find(|&i| negligible(&d, &squares, i)).map_or(n, |i| i + 1);
        let (d, squares) = (&mut d[start..end], &mut squares[start..end - 1]);
        // The iteration finds the eigenvalues from its start on, and is good at small ones.
        if d[0].abs() > d[d.len() - 1].abs() {
            d.reverse();
            squares.reverse();
        }
        let mut found = 0;
        let mut iterations = 0;
        while found + 1 < d.len() {
            let stop = (found..d.len() - 1).find(|&i| negligible(d, squares, i)).map_or(d.len() - 1, |i| i);
            if stop == found {
                (found, iterations) = (found + 1, 0);
            } else if iterations == ITERATION_LIMIT {
                return None;
            } else {
                iterations += 1;
                rational_ql(&mut d[found..=stop], &mut squares[found..stop]);
            }
        }
        start = end;
    }
    d.sort_by(f64::total_cmp);
    Some(d)
}

/// One sweep from the last row to the first, which drives the first of `squares` to zero.
fn rational_ql(d: &mut [f64], squares: &mut [f64]) {
    let last = squares.len();
    let beside = squares[0].sqrt();
    let half = (d[1] - d[0]) / (2.0 * beside);
    let shift = d[0] - beside / (half + half.hypot(1.0).copysign(half));
    let (mut c, mut s) = (1.0, 0.0);
    let mut gamma = d[last] - shift;
    let mut p = gamma * gamma;
    for i in (0..last).rev() {
        let square = squares[i];
        let r = p + square;
        if i + 1 < last {
            squares[i + 1] = s * r;
        }
        let before = c;
        (c, s) = (p / r, square / r);
        let gamma_before = gamma;
        gamma = c * (d[i] - shift) - s * gamma_before;
        d[i + 1] = gamma_before + (d[i] - gamma);
        p = if c == 0.0 { before * square } else { gamma * gamma / c };
    }
    squares[0] = s * p;
    d[0] = shift + gamma;
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;

    use super::*;

    #[test]
    fn reflectors_are_orthogonal_or_none() {
        for exponent in [0, -100, -140, -150, -155, -160, -162] {
            let size = 10_f64.powi(exponent);
            for first in [0.0, 1.0, size, -3.0 * size] {
                let before = [first, 1.7 * size, -0.3 * size, 2.9 * size];
                let mut v = before;
                let (tau, entry) = reflect(&mut v);
                if tau == 0.0 {
                    assert!(
                        size <= 1e-140 && entry.to_bits() == first.to_bits(),
                        "{size:e}: nothing is lost"
                    );
                } else {
                    let squares: f64 = v.iter().map(|x| x * x).sum();
                    assert!((tau * squares - 2.0).abs() <= 1e-14, "{size:e}: {tau} {squares}");
                }
            }
        }
    }

    /// Symmetric, full, and with entries of very different sizes.
    fn graded(n: usize) -> Mat<f64> {
        Mat::from_fn(n, n, |i, j| {
            let (low, high) = (i.min(j), i.max(j));
            ((low * 31 + high * 17) as f64).sin() / (1.0 + (high - low) as f64)
                * 10_f64.powi(-((low + high) as i32 % 9))
        })
    }

    fn lower(a: &Mat<f64>) -> Mat<f64> {
        Mat::from_fn(a.nrows(), a.ncols(), |i, j| if i >= j { a[(i, j)] } else { f64::NAN })
    }

    #[test]
    fn the_form_has_the_matrix_back_and_its_eigenvalues() {
        // Around a panel, a block of reflectors, and a strip.
        for n in [1, 2, 3, 15, 16, 17, 63, 65, 66, 97, 260, 500] {
            let mut cases =
                vec![graded(n), Mat::zeros(n, n), Mat::identity(n, n), Mat::from_fn(n, n, |_, _| 1.0)];
            cases.push(Mat::from_fn(n, n, |i, j| if i.abs_diff(j) == 1 { 2.0 } else { 0.0 }));
            for a in cases {
                let form = tridiagonal(lower(&a));
                let (values, mut q) = form.eigen().expect("it converges");
                form.apply(q.as_mut());
                let scale = a.norm_max() * n as f64 * f64::EPSILON;
                let scaled = Mat::from_fn(n, n, |i, j| q[(i, j)] * values[j]);
                let off = (&scaled * q.transpose() - &a).norm_max();
                assert!(off <= 20.0 * scale, "{n}: q t q^T is off by {off}");
                let off = (q.transpose() * &q - Mat::<f64>::identity(n, n)).norm_max();
                assert!(off <= 20.0 * n as f64 * f64::EPSILON, "{n}: q^T q is off by {off}");
                let alone = form.eigenvalues().expect("it converges");
                let mut expected = DMatrix::from_fn(n, n, |i, j| a[(i, j)]).symmetric_eigenvalues();
                expected.as_mut_slice().sort_by(f64::total_cmp);
                for ((x, y), z) in alone.iter().zip(&values).zip(&expected) {
                    assert!(
                        (x - y).abs() <= 20.0 * scale && (x - z).abs() <= 20.0 * scale,
                        "{n}: {x}, {y}, {z}"
                    );
                }
            }
        }
    }
}
