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
    let x = Chunks::new(x);
    let pieces = side_by_side(a.height, PIECES * rayon::current_num_threads(), TALL, |rows| {
        pulp::Arch::new().dispatch(There { x: &x, a, rows })
    });
    joined(x.height, &pieces)
}

/// `x a`, row by row.
pub(super) fn times(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    assert_eq!(x.columns, a.height, "a row of the matrix for each column");
    let height = padded(x.height);
    let mut factors = vec![0.0; a.height * height];
    for i in 0..x.height {
        for (r, &factor) in x.row(i, &(0..x.columns)).iter().enumerate() {
            factors[r * height + i] = factor;
        }
    }
    let pieces = side_by_side(a.columns, PIECES * rayon::current_num_threads(), LINE, |columns| {
        pulp::Arch::new().dispatch(Back { few: x.height, factors: &factors, a, columns })
    });
    joined(x.height, &pieces)
}

/// `x a^T` and `x a^T a`, row by row, with every row of `a` read once.
///
/// The sums do not depend on the number of threads.
pub(super) fn there_and_back(x: Rows<'_>, a: Rows<'_>) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(x.columns, a.columns, "rows of one length");
    let x = Chunks::new(x);
    let count = (a.height / SUMMED).clamp(1, MOST_SUMMED);
    let pieces = side_by_side(a.height, count, TALL, |rows| {
        pulp::Arch::new().dispatch(ThereAndBack { x: &x, a, rows })
    });
    let (there, back): (Vec<_>, Vec<_>) =
        pieces.into_iter().map(|(rows, (there, back))| ((rows, there), back)).unzip();
    let back = back.into_iter().reduce(|mut sum, piece| {
        for (sum, x) in sum.iter_mut().zip(piece) {
            *sum += x;
        }
        sum
    });
    (joined(x.height, &there), back.unwrap_or_default())
}

/// Pieces of the large matrix for each thread, where each has results of its own.
const PIECES: usize = 4;
/// Rows of the large matrix that are worth a sum of their own, and the largest number of such sums.
const SUMMED: usize = 256;
const MOST_SUMMED: usize = 8;
/// Entries of a cache line.
const LINE: usize = 16;

/// Works on `0..n` in about `count` pieces of a multiple of `unit`.
fn side_by_side<T: Send>(
    n: usize,
    count: usize,
    unit: usize,
    work: impl Fn(Range<usize>) -> T + Sync,
) -> Vec<(Range<usize>, T)> {
    let length = n.div_ceil(count).next_multiple_of(unit);
    let starts: Vec<usize> = (0..n).step_by(length).collect();
    let piece = |start: usize| {
        let range = start..n.min(start + length);
        (range.clone(), work(range))
    };
    starts.into_par_iter().map(piece).collect()
}

/// Pieces of columns, each row by row, as one matrix.
fn joined(height: usize, pieces: &[(Range<usize>, Vec<f32>)]) -> Vec<f32> {
    let mut all = Vec::with_capacity(pieces.iter().map(|(_, piece)| piece.len()).sum());
    for i in 0..height {
        for (range, piece) in pieces {
            all.extend_from_slice(&piece[i * range.len()..(i + 1) * range.len()]);
        }
    }
    all
}

/// Rows of the large matrix that are multiplied at once: its own part of a tile.
const TALL: usize = 4;
/// Columns of a tile of sums, in vectors.
const WIDE: usize = 4;
/// The few rows are filled up to a multiple of this: their part of a tile in the larger register files.
const FEW: usize = 8;
/// Entries of a row that stay in the nearest cache while others pass.
const CHUNK: usize = 512;
/// Entries of the large matrix that stay in a core's own cache on the way back.
const PANEL: usize = 1 << 16;
/// Rows of a panel, at most: more make fewer loads of sums, and push the sums out of the cache.
const PANEL_ROWS: usize = 16;
/// Columns whose sums stay in a core's own cache while all rows of the large matrix pass.
const BLOCK: usize = 1024;

fn padded(few: usize) -> usize {
    few.next_multiple_of(FEW)
}

/// The few rows, cut into chunks of columns and filled up with zeros: `[chunks, padded height, CHUNK]`.
struct Chunks {
    values: Vec<f32>,
    /// Without the rows that were added.
    height: usize,
}

impl Chunks {
    fn new(x: Rows<'_>) -> Self {
        let height = padded(x.height);
        let mut values = vec![0.0; x.columns.div_ceil(CHUNK) * height * CHUNK];
        for (start, chunk) in (0..x.columns).step_by(CHUNK).zip(values.chunks_exact_mut(height * CHUNK)) {
            let columns = start..x.columns.min(start + CHUNK);
            for (i, row) in chunk.chunks_exact_mut(CHUNK).enumerate().take(x.height) {
                row[..columns.len()].copy_from_slice(x.row(i, &columns));
            }
        }
        Self { values, height: x.height }
    }

    fn padded(&self) -> usize {
        padded(self.height)
    }
}

struct There<'a> {
    x: &'a Chunks,
    a: Rows<'a>,
    rows: Range<usize>,
}

impl WithSimd for There<'_> {
    /// `[few, rows]`
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut dots = Dots::new(simd, self.x);
        let mut out = vec![0.0; self.rows.len() * self.x.padded()];
        dots.of(simd, self.x, self.a, self.rows.clone(), &mut out);
        transposed(&out, self.x.padded(), self.x.height)
    }
}

struct Back<'a> {
    few: usize,
    /// `[height of a, padded few]`
    factors: &'a [f32],
    a: Rows<'a>,
    columns: Range<usize>,
}

impl WithSimd for Back<'_> {
    /// `[few, columns]`
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { few, factors, a, columns } = self;
        let mut out = vec![0.0; few * columns.len()];
        for start in columns.clone().step_by(BLOCK) {
            let block = start..columns.end.min(start + BLOCK);
            let mut sums = Sums::new(simd, padded(few), block.clone());
            for first in (0..a.height).step_by(PANEL_ROWS) {
                let rows = first..a.height.min(first + PANEL_ROWS);
                sums.add(simd, &factors[first * padded(few)..], a, rows);
            }
            sums.write(&mut out, columns.len(), start - columns.start, few);
        }
        out
    }
}

struct ThereAndBack<'a> {
    x: &'a Chunks,
    a: Rows<'a>,
    rows: Range<usize>,
}

impl WithSimd for ThereAndBack<'_> {
    /// `[few, rows]` and `[few, columns of a]`
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (Vec<f32>, Vec<f32>) {
        let Self { x, a, rows } = self;
        let (few, columns) = (x.height, a.columns);
        let mut dots = Dots::new(simd, x);
        let mut sums = Sums::new(simd, x.padded(), 0..columns);
        let mut there = vec![0.0; rows.len() * x.padded()];
        let tall = (PANEL / columns).clamp(TALL, PANEL_ROWS) / TALL * TALL;
        for (first, factors) in rows.clone().step_by(tall).zip(there.chunks_mut(tall * x.padded())) {
            let panel = first..rows.end.min(first + tall);
            dots.of(simd, x, a, panel.clone(), factors);
            sums.add(simd, factors, a, panel);
        }
        let mut back = vec![0.0; few * columns];
        sums.write(&mut back, columns, 0, few);
        (transposed(&there, x.padded(), few), back)
    }
}

/// The first `few` columns of a matrix with rows of this length, as rows.
fn transposed(values: &[f32], length: usize, few: usize) -> Vec<f32> {
    let column = |i: usize| values.iter().skip(i).step_by(length);
    (0..few).flat_map(column).copied().collect()
}

/// Dot products of rows of the large matrix with the few.
struct Dots<S: Simd> {
    /// `[padded few, TALL]`
    sums: Vec<S::f32s>,
    /// A last chunk that is not full: `[TALL, CHUNK]`
    edge: Vec<f32>,
}

impl<S: Simd> Dots<S> {
    #[inline(always)]
    fn new(simd: S, x: &Chunks) -> Self {
        Self { sums: vec![simd.splat_f32s(0.0); x.padded() * PANEL_ROWS], edge: vec![0.0; TALL * CHUNK] }
    }

    /// Writes them to `out [rows, padded few]`.
    #[inline(always)]
    fn of(&mut self, simd: S, x: &Chunks, a: Rows<'_>, rows: Range<usize>, out: &mut [f32]) {
        if S::REGISTER_COUNT >= LARGE_FILE {
            self.by_tiles::<4>(simd, x, a, rows, out);
        } else {
            self.by_tiles::<2>(simd, x, a, rows, out);
        }
    }

    #[inline(always)]
    fn by_tiles<const N: usize>(
        &mut self,
        simd: S,
        x: &Chunks,
        a: Rows<'_>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        let few = x.padded();
        for (first, out) in rows.clone().step_by(PANEL_ROWS).zip(out.chunks_mut(PANEL_ROWS * few)) {
            self.sums.fill(simd.splat_f32s(0.0));
            for (start, left) in (0..a.columns).step_by(CHUNK).zip(x.values.chunks_exact(few * CHUNK)) {
                let columns = start..a.columns.min(start + CHUNK);
                let tiles = (first..rows.end.min(first + PANEL_ROWS)).step_by(TALL);
                for (r, sums) in tiles.zip(self.sums.chunks_exact_mut(few * TALL)) {
                    // Past the end the last row is multiplied again.
                    let row = |q: usize| a.row((r + q).min(rows.end - 1), &columns);
                    let mut right = [row(0), row(1), row(2), row(3)];
                    if columns.len() < CHUNK {
                        for (edge, row) in self.edge.chunks_exact_mut(CHUNK).zip(right) {
                            edge[..columns.len()].copy_from_slice(row);
                        }
                        right = std::array::from_fn(|q| &self.edge[q * CHUNK..(q + 1) * CHUNK]);
                    }
                    for (left, sums) in left.chunks_exact(N * CHUNK).zip(sums.chunks_exact_mut(N * TALL)) {
                        dot_tile::<S, N>(simd, left, right, sums);
                    }
                }
            }
            for (out, sums) in out.chunks_mut(TALL * few).zip(self.sums.chunks_exact(few * TALL)) {
                for (q, out) in out.chunks_exact_mut(few).enumerate() {
                    for (out, sums) in out.iter_mut().zip(sums.chunks_exact(TALL)) {
                        *out = simd.reduce_sum_f32s(sums[q]);
                    }
                }
            }
        }
    }
}

/// Registers from which the larger tiles fit.
const LARGE_FILE: usize = 32;

/// Adds the products of `left [N, CHUNK]` and `right` to `sums [N, TALL]`.
#[inline(always)]
fn dot_tile<S: Simd, const N: usize>(simd: S, left: &[f32], right: [&[f32]; TALL], sums: &mut [S::f32s]) {
    let vectors = CHUNK / S::F32_LANES;
    let left: [&[S::f32s]; N] =
        std::array::from_fn(|p| &S::as_simd_f32s(&left[p * CHUNK..(p + 1) * CHUNK]).0[..vectors]);
    let right: [&[S::f32s]; TALL] = std::array::from_fn(|q| &S::as_simd_f32s(right[q]).0[..vectors]);
    let sums = &mut sums[..N * TALL];
    let mut tile = [[simd.splat_f32s(0.0); TALL]; N];
    for p in 0..N {
        tile[p].copy_from_slice(&sums[p * TALL..(p + 1) * TALL]);
    }
    for j in 0..vectors {
        let a = [right[0][j], right[1][j], right[2][j], right[3][j]];
        for p in 0..N {
            let x = left[p][j];
            for q in 0..TALL {
                tile[p][q] = simd.mul_add_e_f32s(x, a[q], tile[p][q]);
            }
        }
    }
    for p in 0..N {
        sums[p * TALL..(p + 1) * TALL].copy_from_slice(&tile[p]);
    }
}

/// Sums of rows of the large matrix times factors, for some of its columns.
struct Sums<S: Simd> {
    columns: Range<usize>,
    /// `[tiles of columns, padded few, WIDE]`
    sums: Vec<S::f32s>,
    few: usize,
    /// Last columns that do not fill a tile: `[rows, WIDE]` vectors.
    edge: Vec<f32>,
}

impl<S: Simd> Sums<S> {
    const WIDTH: usize = WIDE * S::F32_LANES;

    #[inline(always)]
    fn new(simd: S, few: usize, columns: Range<usize>) -> Self {
        let tiles = columns.len().div_ceil(Self::WIDTH);
        Self { columns, sums: vec![simd.splat_f32s(0.0); tiles * few * WIDE], few, edge: Vec::new() }
    }

    /// Adds these rows of `a` times `factors [rows, padded few]`.
    #[inline(always)]
    fn add(&mut self, simd: S, factors: &[f32], a: Rows<'_>, rows: Range<usize>) {
        if S::REGISTER_COUNT >= LARGE_FILE {
            self.by_tiles::<4>(simd, factors, a, rows);
        } else {
            self.by_tiles::<4>(simd, factors, a, rows);
        }
    }

    #[inline(always)]
    fn by_tiles<const N: usize>(&mut self, simd: S, factors: &[f32], a: Rows<'_>, rows: Range<usize>) {
        let (few, tall) = (self.few, rows.len());
        let starts = self.columns.clone().step_by(Self::WIDTH);
        for (start, sums) in starts.zip(self.sums.chunks_exact_mut(few * WIDE)) {
            let (panel, stride) = if start + Self::WIDTH <= self.columns.end {
                (&a.values[rows.start * a.stride + start..], a.stride)
            } else {
                self.edge.clear();
                self.edge.resize(tall * Self::WIDTH, 0.0);
                for (edge, r) in self.edge.chunks_exact_mut(Self::WIDTH).zip(rows.clone()) {
                    edge[..self.columns.end - start].copy_from_slice(a.row(r, &(start..self.columns.end)));
                }
                (&self.edge[..], Self::WIDTH)
            };
            for (i, sums) in (0..few).step_by(N).zip(sums.chunks_exact_mut(N * WIDE)) {
                sum_tile::<S, N>(simd, &factors[i..], few, panel, stride, tall, sums);
            }
        }
    }

    /// Writes them from column `first` on into the first rows of `out`, which have this length.
    fn write(&self, out: &mut [f32], length: usize, first: usize, rows: usize) {
        for (tile, sums) in self.sums.chunks_exact(self.few * WIDE).enumerate() {
            let start = tile * Self::WIDTH;
            let width = Self::WIDTH.min(self.columns.len() - start);
            for i in 0..rows {
                let sums = pulp::bytemuck::cast_slice::<S::f32s, f32>(&sums[i * WIDE..(i + 1) * WIDE]);
                out[i * length + first + start..][..width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// Adds `tall` rows of `panel`, times a factor each, to `sums [N, WIDE]`.
#[inline(always)]
fn sum_tile<S: Simd, const N: usize>(
    simd: S,
    factors: &[f32],
    few: usize,
    panel: &[f32],
    stride: usize,
    tall: usize,
    sums: &mut [S::f32s],
) {
    let sums = &mut sums[..N * WIDE];
    let mut tile = [[simd.splat_f32s(0.0); WIDE]; N];
    for p in 0..N {
        tile[p].copy_from_slice(&sums[p * WIDE..(p + 1) * WIDE]);
    }
    for r in 0..tall {
        let row = &S::as_simd_f32s(&panel[r * stride..][..WIDE * S::F32_LANES]).0[..WIDE];
        let factors = &factors[r * few..][..N];
        for p in 0..N {
            let factor = simd.splat_f32s(factors[p]);
            for v in 0..WIDE {
                tile[p][v] = simd.mul_add_e_f32s(factor, row[v], tile[p][v]);
            }
        }
    }
    for p in 0..N {
        sums[p * WIDE..(p + 1) * WIDE].copy_from_slice(&tile[p]);
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

    fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            assert!(off <= tolerance, "{what}, {i}: {found}, not {expected}");
        }
    }

    #[test]
    fn products_are_those_of_the_definition() {
        for (few, rows, columns) in
            [(1, 1, 1), (2, 3, 5), (3, 4, 16), (5, 9, 1030), (7, 70, 33), (16, 13, 2100), (9, 600, 40)]
        {
            let what = format!("{few} x {rows} x {columns}");
            let (x, a) = (made(few, columns, columns, 1), made(rows, columns, columns + 3, 2));
            let a = Rows { values: &a, height: rows, columns, stride: columns + 3 };
            let entry = |i: usize, j: usize| f64::from(a.values[i * a.stride + j]);
            let left = Rows { values: &x, height: few, columns, stride: columns };
            let dot =
                |i: usize, r: usize| (0..columns).map(|j| f64::from(x[i * columns + j]) * entry(r, j)).sum();
            let there: Vec<f64> = (0..few * rows).map(|at| dot(at / rows, at % rows)).collect();
            let sum = |i: usize, j: usize| (0..rows).map(|r| there[i * rows + r] * entry(r, j)).sum();
            let back: Vec<f64> = (0..few * columns).map(|at| sum(at / columns, at % columns)).collect();
            let largest = there.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
            assert_near(&times_transposed(left, a), &there, 1e-6 * columns as f64, &format!("x a^T, {what}"));
            let (found_there, found_back) = there_and_back(left, a);
            assert_near(&found_there, &there, 1e-6 * columns as f64, &format!("there, {what}"));
            let tolerance = 1e-6 * (rows + columns) as f64 * largest;
            assert_near(&found_back, &back, tolerance, &format!("and back, {what}"));
            let rounded: Vec<f32> = there.iter().map(|&x| x as f32).collect();
            let left = Rows { values: &rounded, height: few, columns: rows, stride: rows };
            assert_near(&times(left, a), &back, tolerance, &format!("x a, {what}"));
        }
    }
}
