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

    /// The same pieces of the rows that come `next`, as many as one of the `tiles` asks for: two are enough if there are
    /// half as many tiles as rows.
    #[inline(always)]
    fn ahead(&self, next: Range<usize>, columns: &Range<usize>, tile: usize, tiles: usize) -> [&'a [f32]; 2] {
        [tile, tile + tiles].map(|q| {
            let i = next.start + q;
            if i < next.end { self.row(i, columns) } else { &[] }
        })
    }
}

/// `x a^T`, row by row.
pub(super) fn times_transposed(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    assert_eq!(x.columns, a.columns, "rows of one length");
    let x = Chunks::new(x);
    let pieces = side_by_side(a.height, PIECES * rayon::current_num_threads(), PANEL, |rows| {
        pulp::Arch::new().dispatch(There { x: &x, a, rows })
    });
    joined(x.height, &pieces)
}

/// `x a`, row by row.
pub(super) fn times(x: Rows<'_>, a: Rows<'_>) -> Vec<f32> {
    assert_eq!(x.columns, a.height, "a row of the matrix for each column");
    let mut factors = Factors::default();
    factors.take(x, 0..x.columns);
    let pieces = side_by_side(a.columns, PIECES * rayon::current_num_threads(), CHUNK, |columns| {
        pulp::Arch::new().dispatch(Back { height: x.height, factors: &factors, a, columns })
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
    let pieces = side_by_side(a.height, count, PANEL, |rows| {
        pulp::Arch::new().dispatch(ThereAndBack { x: &x, a, rows })
    });
    let (there, back): (Vec<_>, Vec<_>) =
        pieces.into_iter().map(|(rows, (there, back))| ((rows, there), back)).unzip();
    (joined(x.height, &there), Sums::together(back).map_or_else(Vec::new, Sums::into_rows))
}

/// Pieces of the large matrix for each thread, where each has results of its own.
const PIECES: usize = 4;
/// Rows of the large matrix that are worth a sum of their own, and the largest number of such sums.
const SUMMED: usize = 256;
const MOST_SUMMED: usize = 8;
/// Entries of the sums that one thread adds up.
const ADDED: usize = 1 << 14;

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
        let Self { x, a, rows } = self;
        let mut there = vec![0.0; x.height * rows.len()];
        let mut dots = Dots::new(simd, x);
        for first in rows.clone().step_by(PANEL) {
            dots.of(
                simd,
                x,
                a,
                first..rows.end.min(first + PANEL),
                &mut there[first - rows.start..],
                rows.len(),
            );
        }
        there
    }
}

struct Back<'a> {
    height: usize,
    factors: &'a Factors,
    a: Rows<'a>,
    columns: Range<usize>,
}

impl WithSimd for Back<'_> {
    /// `[few, columns]`
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { height, factors, a, columns } = self;
        let mut back = Sums::new(height, columns);
        back.add(simd, factors, a, 0..a.height);
        back.into_rows()
    }
}

struct ThereAndBack<'a> {
    x: &'a Chunks,
    a: Rows<'a>,
    rows: Range<usize>,
}

impl WithSimd for ThereAndBack<'_> {
    /// `[few, rows]`, and the sums over these rows
    type Output = (Vec<f32>, Sums);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (Vec<f32>, Sums) {
        let Self { x, a, rows } = self;
        let length = rows.len();
        let mut there = vec![0.0; x.height * length];
        let mut back = Sums::new(x.height, 0..a.columns);
        let (mut dots, mut factors) = (Dots::new(simd, x), Factors::default());
        for first in rows.clone().step_by(KEPT) {
            let panel = first..rows.end.min(first + KEPT);
            for part in panel.clone().step_by(PANEL) {
                let part = part..panel.end.min(part + PANEL);
                dots.of(simd, x, a, part.clone(), &mut there[part.start - rows.start..], length);
            }
            let found = Rows { values: &there, height: x.height, columns: length, stride: length };
            factors.take(found, panel.start - rows.start..panel.end - rows.start);
            back.add(simd, &factors, a, panel);
        }
        (there, back)
    }
}

/// Rows of the large matrix that dot products are taken of together, a multiple of what a tile takes.
const PANEL: usize = 12;
/// Rows of the large matrix that stay in a core's own cache on the way back, a multiple of what both tiles take.
const KEPT: usize = 24;
/// The few rows are filled up to a multiple of this, what one tile takes of them at most.
const FEW: usize = 4;
/// Entries of a row that stay in the nearest cache while others pass.
const CHUNK: usize = 512;
/// Registers from which the larger tile fits.
const LARGE_FILE: usize = 32;

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
        let chunks = values.par_chunks_exact_mut(height * CHUNK).enumerate();
        chunks.for_each(|(i, chunk)| {
            let columns = i * CHUNK..x.columns.min((i + 1) * CHUNK);
            for (i, row) in chunk.chunks_exact_mut(CHUNK).enumerate().take(x.height) {
                row[..columns.len()].copy_from_slice(x.row(i, &columns));
            }
        });
        Self { values, height: x.height }
    }

    fn padded(&self) -> usize {
        padded(self.height)
    }
}

/// Dot products of rows of the large matrix with the few.
struct Dots<S: Simd> {
    /// Of a panel, tile by tile of it: `[PANEL / T, padded few, T]`
    sums: Vec<S::f32s>,
    /// A last chunk that is not full: `[PANEL, CHUNK]`
    edge: Vec<f32>,
}

impl<S: Simd> Dots<S> {
    #[inline(always)]
    fn new(simd: S, x: &Chunks) -> Self {
        Self { sums: vec![simd.splat_f32s(0.0); x.padded() * PANEL], edge: vec![0.0; PANEL * CHUNK] }
    }

    /// Writes those of a panel, or a part of one, to `out [few, rows]`, whose rows are `stride` apart.
    #[inline(always)]
    fn of(&mut self, simd: S, x: &Chunks, a: Rows<'_>, rows: Range<usize>, out: &mut [f32], stride: usize) {
        if S::REGISTER_COUNT >= LARGE_FILE {
            self.by_tiles::<4, 6>(simd, x, a, &rows, out, stride);
        } else {
            self.by_tiles::<2, 4>(simd, x, a, &rows, out, stride);
        }
    }

    /// In tiles of `N` of the few and `T` rows.
    #[inline(always)]
    fn by_tiles<const N: usize, const T: usize>(
        &mut self,
        simd: S,
        x: &Chunks,
        a: Rows<'_>,
        rows: &Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let few = x.padded();
        self.sums.fill(simd.splat_f32s(0.0));
        for (start, left) in (0..a.columns).step_by(CHUNK).zip(x.values.chunks_exact(few * CHUNK)) {
            let columns = start..a.columns.min(start + CHUNK);
            for (r, sums) in rows.clone().step_by(T).zip(self.sums.chunks_exact_mut(few * T)) {
                // Past the end the last row is multiplied again.
                let row = |q: usize| a.row((r + q).min(rows.end - 1), &columns);
                let right: [&[f32]; T] = full(std::array::from_fn(row), &mut self.edge);
                let tiles = left.chunks_exact(N * CHUNK).zip(sums.chunks_exact_mut(N * T));
                for (tile, (left, sums)) in tiles.enumerate() {
                    let ahead = a.ahead(r + T..a.height.min(r + 2 * T), &columns, tile, few / N);
                    dot_tile::<S, N, T>(simd, left, right, ahead, sums);
                }
            }
        }
        for (r, sums) in (0..rows.len()).step_by(T).zip(self.sums.chunks_exact(few * T)) {
            for (i, sums) in sums.chunks_exact(T).enumerate().take(x.height) {
                for (out, &sum) in out[i * stride + r..].iter_mut().zip(sums).take(rows.len() - r) {
                    *out = simd.reduce_sum_f32s(sum);
                }
            }
        }
    }
}

/// Pieces of rows as long as a chunk: copied, with zeros after them, if they are shorter.
#[inline(always)]
fn full<'a, const T: usize>(rows: [&'a [f32]; T], edge: &'a mut [f32]) -> [&'a [f32]; T] {
    if rows[0].len() == CHUNK {
        return rows;
    }
    for (edge, row) in edge.chunks_exact_mut(CHUNK).zip(rows) {
        edge[..row.len()].copy_from_slice(row);
    }
    let edge = &*edge;
    std::array::from_fn(|q| &edge[q * CHUNK..(q + 1) * CHUNK])
}

/// Adds the products of `left [N, CHUNK]` and `right` to `sums [N, T]`, and asks for what is `ahead`.
#[inline(always)]
fn dot_tile<S: Simd, const N: usize, const T: usize>(
    simd: S,
    left: &[f32],
    right: [&[f32]; T],
    ahead: [&[f32]; 2],
    sums: &mut [S::f32s],
) {
    let vectors = CHUNK / S::F32_LANES;
    let left: [&[S::f32s]; N] =
        std::array::from_fn(|p| &S::as_simd_f32s(&left[p * CHUNK..(p + 1) * CHUNK]).0[..vectors]);
    let right: [&[S::f32s]; T] = std::array::from_fn(|q| &S::as_simd_f32s(right[q]).0[..vectors]);
    let sums = &mut sums[..N * T];
    let mut tile = [[simd.splat_f32s(0.0); T]; N];
    for p in 0..N {
        tile[p].copy_from_slice(&sums[p * T..(p + 1) * T]);
    }
    for j in 0..vectors {
        fetch(ahead[0], j * S::F32_LANES);
        fetch(ahead[1], j * S::F32_LANES);
        let a: [S::f32s; T] = std::array::from_fn(|q| right[q][j]);
        for p in 0..N {
            let x = left[p][j];
            for q in 0..T {
                tile[p][q] = simd.mul_add_e_f32s(x, a[q], tile[p][q]);
            }
        }
    }
    for p in 0..N {
        sums[p * T..(p + 1) * T].copy_from_slice(&tile[p]);
    }
}

/// Has the cache line of an entry brought into a core's own cache, where the processor can be told to: it does not see
/// by itself that the next piece of a row lies far from the last.
#[inline(always)]
fn fetch(ahead: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(entry) = ahead.get(at) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let entry: *const f32 = entry;
        #[expect(unsafe_code, reason = "it takes a pointer")]
        // SAFETY: a hint, and the entry exists.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(entry.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (ahead, at);
}

/// Rows of the large matrix that one tile of sums takes; their factors are in registers.
const SUM_ROWS: usize = 6;

/// What rows of the large matrix are multiplied by, in the order of the tiles.
#[derive(Default)]
struct Factors {
    /// Filled up with zeros: `[rows / SUM_ROWS, padded height]`, for so many rows each.
    values: Vec<[f32; SUM_ROWS]>,
}

impl Factors {
    /// Those in some columns of `x [few, rows]`, in the place of those before.
    fn take(&mut self, x: Rows<'_>, columns: Range<usize>) {
        let height = padded(x.height);
        self.values.clear();
        self.values.resize(columns.len().div_ceil(SUM_ROWS) * height, [0.0; SUM_ROWS]);
        for (tile, start) in self.values.chunks_exact_mut(height).zip(columns.clone().step_by(SUM_ROWS)) {
            let columns = start..columns.end.min(start + SUM_ROWS);
            for (i, factors) in tile.iter_mut().enumerate().take(x.height) {
                factors.iter_mut().zip(x.row(i, &columns)).for_each(|(factor, &x)| *factor = x);
            }
        }
    }
}

/// Sums of multiples of rows of the large matrix, one for each of the few.
struct Sums {
    /// In chunks of columns: `[chunks, padded height, CHUNK]`
    values: Vec<f32>,
    /// Without the sums that fill it up.
    height: usize,
    columns: Range<usize>,
    /// A last chunk that is not full: `[SUM_ROWS, CHUNK]`
    edge: Vec<f32>,
}

impl Sums {
    fn new(height: usize, columns: Range<usize>) -> Self {
        let chunks = columns.len().div_ceil(CHUNK);
        Self {
            values: vec![0.0; chunks * padded(height) * CHUNK],
            height,
            columns,
            edge: vec![0.0; SUM_ROWS * CHUNK],
        }
    }

    /// Adds `rows` of `a`, times their factors.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, factors: &Factors, a: Rows<'_>, rows: Range<usize>) {
        if S::REGISTER_COUNT >= LARGE_FILE {
            self.by_tiles::<S, 4>(simd, factors, a, rows);
        } else {
            self.by_tiles::<S, 2>(simd, factors, a, rows);
        }
    }

    #[inline(always)]
    fn by_tiles<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        factors: &Factors,
        a: Rows<'_>,
        rows: Range<usize>,
    ) {
        let height = padded(self.height);
        for (start, sums) in
            self.columns.clone().step_by(CHUNK).zip(self.values.chunks_exact_mut(height * CHUNK))
        {
            let columns = start..self.columns.end.min(start + CHUNK);
            for (r, factors) in rows.clone().step_by(SUM_ROWS).zip(factors.values.chunks_exact(height)) {
                let tall = SUM_ROWS.min(rows.end - r);
                // Past the end the last row is added once more, zero times.
                let row = |q: usize| a.row(r + q.min(tall - 1), &columns);
                let right: [&[f32]; SUM_ROWS] = full(std::array::from_fn(row), &mut self.edge);
                let tiles = sums.chunks_exact_mut(N * CHUNK).zip(factors.as_chunks::<N>().0);
                for (tile, (sums, factors)) in tiles.enumerate() {
                    let next = r + SUM_ROWS..rows.end.min(r + 2 * SUM_ROWS);
                    let ahead = a.ahead(next, &columns, tile, height / N);
                    sum_tile::<S, N>(simd, factors, right, ahead, sums);
                }
            }
        }
    }

    /// The sum of sums of one shape, in their order.
    fn together(all: Vec<Self>) -> Option<Self> {
        let mut all = all.into_iter();
        let mut sum = all.next()?;
        let rest: Vec<Self> = all.collect();
        sum.values.par_chunks_mut(ADDED).enumerate().for_each(|(i, sum)| {
            for piece in &rest {
                for (sum, x) in sum.iter_mut().zip(&piece.values[i * ADDED..]) {
                    *sum += x;
                }
            }
        });
        Some(sum)
    }

    /// `[height, columns]`
    fn into_rows(self) -> Vec<f32> {
        let width = self.columns.len();
        let mut rows = Vec::with_capacity(self.height * width);
        for i in 0..self.height {
            for (start, chunk) in
                (0..width).step_by(CHUNK).zip(self.values.chunks_exact(padded(self.height) * CHUNK))
            {
                rows.extend_from_slice(&chunk[i * CHUNK..i * CHUNK + CHUNK.min(width - start)]);
            }
        }
        rows
    }
}

/// Adds the products of `factors` and `right` to `sums [N, CHUNK]`, and asks for what is `ahead`.
#[inline(always)]
fn sum_tile<S: Simd, const N: usize>(
    simd: S,
    factors: &[[f32; SUM_ROWS]; N],
    right: [&[f32]; SUM_ROWS],
    ahead: [&[f32]; 2],
    sums: &mut [f32],
) {
    let vectors = CHUNK / S::F32_LANES;
    let sums = &mut S::as_mut_simd_f32s(&mut sums[..N * CHUNK]).0[..N * vectors];
    let right: [&[S::f32s]; SUM_ROWS] = std::array::from_fn(|q| &S::as_simd_f32s(right[q]).0[..vectors]);
    let mut splat = [[simd.splat_f32s(0.0); SUM_ROWS]; N];
    for p in 0..N {
        for q in 0..SUM_ROWS {
            splat[p][q] = simd.splat_f32s(factors[p][q]);
        }
    }
    for j in 0..vectors {
        fetch(ahead[0], j * S::F32_LANES);
        fetch(ahead[1], j * S::F32_LANES);
        let a: [S::f32s; SUM_ROWS] =
            [right[0][j], right[1][j], right[2][j], right[3][j], right[4][j], right[5][j]];
        for p in 0..N {
            let mut sum = sums[p * vectors + j];
            for q in 0..SUM_ROWS {
                sum = simd.mul_add_e_f32s(splat[p][q], a[q], sum);
            }
            sums[p * vectors + j] = sum;
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

    fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            assert!(off <= tolerance, "{what}, {i}: {found}, not {expected}");
        }
    }

    #[test]
    fn products_are_those_of_the_definition() {
        for (few, rows, columns) in [
            (1, 1, 1),
            (2, 3, 5),
            (3, 4, 16),
            (5, 9, 1030),
            (7, 70, 33),
            (16, 13, 2100),
            (9, 600, 40),
            (12, 530, 1030),
        ] {
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
            // Where there are more registers, the tiles for fewer are not taken otherwise.
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                let x = Chunks::new(left);
                let (found_there, found_back) =
                    simd.vectorize(|| ThereAndBack { x: &x, a, rows: 0..rows }.with_simd(simd));
                assert_near(&found_there, &there, 1e-6 * columns as f64, &format!("there, AVX2, {what}"));
                assert_near(&found_back.into_rows(), &back, tolerance, &format!("and back, AVX2, {what}"));
            }
            let rounded: Vec<f32> = there.iter().map(|&x| x as f32).collect();
            let left = Rows { values: &rounded, height: few, columns: rows, stride: rows };
            assert_near(&times(left, a), &back, tolerance, &format!("x a, {what}"));
        }
    }
}
