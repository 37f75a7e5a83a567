//! Products of a few rows with a large matrix, read where it lies.
//!
//! A general product copies the large matrix into packed tiles first, which pays only where the tiles are used often.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a dispatch does not use vector registers"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Entries of a row that stay in the nearest cache while others pass.
const CHUNK: usize = 1024;
/// Pieces of the large matrix for each thread.
const PIECES: usize = 4;

/// A matrix of f32 with contiguous rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first entry of the first row on.
    pub(super) values: &'a [f32],
    pub(super) height: usize,
    pub(super) columns: usize,
    /// From one row to the next.
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, i: usize, columns: &Range<usize>) -> &'a [f32] {
        &self.values[i * self.stride + columns.start..i * self.stride + columns.end]
    }
}

/// `x a^T`, row by row.
pub(super) fn times_transposed(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    assert_eq!(x.columns, a.columns, "rows of one length");
    let pieces = pieces(a.height, DOT_ROWS, |rows| {
        let mut out = vec![0.0; x.height * rows.len()];
        pulp::Arch::new().dispatch(Dots { x, a, rows, out: &mut out });
        out
    });
    side_by_side(x.height, a.height, &pieces)
}

/// `x a`, row by row.
pub(super) fn times(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    assert_eq!(x.columns, a.height, "a row of the matrix for each column");
    let pieces = pieces(a.columns, LINE, |columns| {
        let mut out = vec![0.0; x.height * columns.len()];
        pulp::Arch::new().dispatch(Sums { x, a, columns, out: &mut out });
        out
    });
    side_by_side(x.height, a.columns, &pieces)
}

/// Works on `0..n` in pieces of a multiple of `unit`.
fn pieces(
    n: usize,
    unit: usize,
    work: impl Fn(Range<usize>) -> Vec<f32> + Sync,
) -> Vec<(Range<usize>, Vec<f32>)> {
    let length = n.div_ceil(PIECES * rayon::current_num_threads()).next_multiple_of(unit);
    let starts: Vec<usize> = (0..n).step_by(length).collect();
    let piece = |start: usize| {
        let range = start..n.min(start + length);
        (range.clone(), work(range))
    };
    starts.into_par_iter().map(piece).collect()
}

fn side_by_side(rows: usize, columns: usize, pieces: &[(Range<usize>, Vec<f32>)]) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * columns);
    for i in 0..rows {
        for (range, piece) in pieces {
            all.extend_from_slice(&piece[i * range.len()..(i + 1) * range.len()]);
        }
    }
    all
}

/// Rows of the large matrix and of the few that one tile of [`Dots`] multiplies: eight sums in registers.
const DOT_ROWS: usize = 4;
const DOT_FEW: usize = 2;

struct Dots<'a, 'b> {
    x: Rows<'a>,
    a: Rows<'a>,
    rows: Range<usize>,
    out: &'b mut [f32],
}

impl WithSimd for Dots<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, a, rows, out } = self;
        let width = rows.len();
        for start in (0..x.columns).step_by(CHUNK) {
            let chunk = start..x.columns.min(start + CHUNK);
            for r in (0..width).step_by(DOT_ROWS) {
                let tall = DOT_ROWS.min(width - r);
                for i in (0..x.height).step_by(DOT_FEW) {
                    let few = DOT_FEW.min(x.height - i);
                    // At the edges rows are multiplied twice.
                    let left: [&[f32]; DOT_FEW] = std::array::from_fn(|p| x.row(i + p.min(few - 1), &chunk));
                    let right: [&[f32]; DOT_ROWS] =
                        std::array::from_fn(|q| a.row(rows.start + r + q.min(tall - 1), &chunk));
                    let dots = dots(simd, left, right);
                    for (p, dots) in dots.iter().enumerate().take(few) {
                        for (q, dot) in dots.iter().enumerate().take(tall) {
                            out[(i + p) * width + r + q] += dot;
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn dots<S: Simd>(simd: S, left: [&[f32]; DOT_FEW], right: [&[f32]; DOT_ROWS]) -> [[f32; DOT_ROWS]; DOT_FEW] {
    let ([left0, left1], [right0, right1, right2, right3]) = (left, right);
    let ((x0, x0_rest), (x1, x1_rest)) = (S::as_simd_f32s(left0), S::as_simd_f32s(left1));
    let ((a0, a0_rest), (a1, a1_rest)) = (S::as_simd_f32s(right0), S::as_simd_f32s(right1));
    let ((a2, a2_rest), (a3, a3_rest)) = (S::as_simd_f32s(right2), S::as_simd_f32s(right3));
    let mut sums = [[simd.splat_f32s(0.0); DOT_ROWS]; DOT_FEW];
    for (((((&x0, &x1), &a0), &a1), &a2), &a3) in x0.iter().zip(x1).zip(a0).zip(a1).zip(a2).zip(a3) {
        for (q, a) in [a0, a1, a2, a3].into_iter().enumerate() {
            sums[0][q] = simd.mul_add_e_f32s(x0, a, sums[0][q]);
            sums[1][q] = simd.mul_add_e_f32s(x1, a, sums[1][q]);
        }
    }
    let mut dots = [[0.0; DOT_ROWS]; DOT_FEW];
    for (dots, sums) in dots.iter_mut().zip(sums) {
        for (dot, sum) in dots.iter_mut().zip(sums) {
            *dot = simd.reduce_sum_f32s(sum);
        }
    }
    for (dots, x) in dots.iter_mut().zip([x0_rest, x1_rest]) {
        for (dot, a) in dots.iter_mut().zip([a0_rest, a1_rest, a2_rest, a3_rest]) {
            *dot += x.iter().zip(a).map(|(x, a)| x * a).sum::<f32>();
        }
    }
    dots
}

/// Entries of a cache line.
const LINE: usize = 16;
/// Rows of the large matrix that [`Sums`] adds up at once, to two rows of the result: twelve factors in registers.
const SUM_ROWS: usize = 6;
const SUM_FEW: usize = 2;
/// Columns whose sums stay in a cache while rows of the large matrix pass.
const SUM_CHUNK: usize = 512;

struct Sums<'a, 'b> {
    x: Rows<'a>,
    a: Rows<'a>,
    columns: Range<usize>,
    out: &'b mut [f32],
}

impl WithSimd for Sums<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, a, columns, out } = self;
        let width = columns.len();
        let mut spare = vec![0.0; SUM_CHUNK];
        for start in (0..width).step_by(SUM_CHUNK) {
            let end = width.min(start + SUM_CHUNK);
            let chunk = columns.start + start..columns.start + end;
            for r in (0..a.height).step_by(SUM_ROWS) {
                let tall = SUM_ROWS.min(a.height - r);
                let right: [&[f32]; SUM_ROWS] = std::array::from_fn(|q| a.row(r + q.min(tall - 1), &chunk));
                for i in (0..x.height).step_by(SUM_FEW) {
                    let few = SUM_FEW.min(x.height - i);
                    let mut factors = [[0.0; SUM_ROWS]; SUM_FEW];
                    for (p, factors) in factors.iter_mut().enumerate().take(few) {
                        factors[..tall].copy_from_slice(x.row(i + p, &(r..r + tall)));
                    }
                    let (above, below) = out.split_at_mut((i + 1) * width);
                    let first = &mut above[i * width + start..i * width + end];
                    let second =
                        if few == SUM_FEW { &mut below[start..end] } else { &mut spare[..end - start] };
                    sums(simd, factors, right, first, second);
                }
            }
        }
    }
}

#[inline(always)]
fn sums<S: Simd>(
    simd: S,
    factors: [[f32; SUM_ROWS]; SUM_FEW],
    right: [&[f32]; SUM_ROWS],
    first: &mut [f32],
    second: &mut [f32],
) {
    let mut splat = [[simd.splat_f32s(0.0); SUM_ROWS]; SUM_FEW];
    for (splat, factors) in splat.iter_mut().zip(&factors) {
        for (splat, &factor) in splat.iter_mut().zip(factors) {
            *splat = simd.splat_f32s(factor);
        }
    }
    let (y0, y0_rest) = S::as_mut_simd_f32s(first);
    let (y1, y1_rest) = S::as_mut_simd_f32s(second);
    let ((a0, r0), (a1, r1)) = (S::as_simd_f32s(right[0]), S::as_simd_f32s(right[1]));
    let ((a2, r2), (a3, r3)) = (S::as_simd_f32s(right[2]), S::as_simd_f32s(right[3]));
    let ((a4, r4), (a5, r5)) = (S::as_simd_f32s(right[4]), S::as_simd_f32s(right[5]));
    let rows = a0.iter().zip(a1).zip(a2).zip(a3).zip(a4).zip(a5);
    for ((y0, y1), (((((&a0, &a1), &a2), &a3), &a4), &a5)) in y0.iter_mut().zip(y1).zip(rows) {
        let (mut s0, mut s1) = (*y0, *y1);
        for (q, a) in [a0, a1, a2, a3, a4, a5].into_iter().enumerate() {
            s0 = simd.mul_add_e_f32s(splat[0][q], a, s0);
            s1 = simd.mul_add_e_f32s(splat[1][q], a, s1);
        }
        (*y0, *y1) = (s0, s1);
    }
    for (i, (y0, y1)) in y0_rest.iter_mut().zip(y1_rest).enumerate() {
        for (q, a) in [r0, r1, r2, r3, r4, r5].into_iter().enumerate() {
            *y0 += factors[0][q] * a[i];
            *y1 += factors[1][q] * a[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(rows: usize, columns: usize, stride: usize, seed: usize) -> Vec<f32> {
        (0..rows.max(1) * stride + columns)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect()
    }

    #[test]
    fn both_products_are_those_of_the_definition() {
        for (few, rows, columns) in
            [(1, 1, 1), (2, 3, 5), (3, 4, 16), (5, 9, 1030), (7, 70, 33), (16, 13, 2100)]
        {
            let (x, a) = (made(few, columns, columns, 1), made(rows, columns, columns + 3, 2));
            let a = Rows { values: &a, height: rows, columns, stride: columns + 3 };
            let entry = |i: usize, j: usize| f64::from(a.values[i * a.stride + j]);
            let left = Rows { values: &x, height: few, columns, stride: columns };
            let found = times_transposed(left, a);
            for i in 0..few {
                for r in 0..rows {
                    let expected: f64 =
                        (0..columns).map(|j| f64::from(x[i * columns + j]) * entry(r, j)).sum();
                    let off = (f64::from(found[i * rows + r]) - expected).abs();
                    assert!(off <= 1e-6 * columns as f64, "x a^T, {few} x {rows} x {columns}: {off}");
                }
            }
            let x = made(few, rows, rows, 3);
            let found = times(Rows { values: &x, height: few, columns: rows, stride: rows }, a);
            for i in 0..few {
                for j in 0..columns {
                    let expected: f64 = (0..rows).map(|r| f64::from(x[i * rows + r]) * entry(r, j)).sum();
                    let off = (f64::from(found[i * columns + j]) - expected).abs();
                    assert!(off <= 1e-6 * rows as f64, "x a, {few} x {rows} x {columns}: {off}");
                }
            }
        }
    }
}
