//! What units compute of a product.

use cubecl::prelude::*;

use super::Tile;

/// Four numbers that lie side by side.
type Line = Vector<f32, Const<4>>;

/// Sizes of a product `[m, k] x [k, n]`, and of what one workgroup does of it.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    m: u32,
    n: u32,
    k: u32,
    a_stride: u32,
    a_of_copy: u32,
    b_stride: u32,
    b_of_copy: u32,
    /// Length of a piece of the inner dimension.
    piece: u32,
    pieces: u32,
}

/// A workgroup for each tile of each piece of the inner dimension of each product of a stack; of a symmetric product those
/// above the diagonal stay idle, and those below write for them.
#[cube(launch_unchecked)]
#[expect(clippy::too_many_arguments, reason = "two inputs and what is known of them")]
#[expect(clippy::collapsible_if, reason = "the outer condition is known when the kernel is compiled")]
pub(super) fn product_kernel<NA: Size, NB: Size, NO: Size>(
    a: &Array<Vector<f32, NA>>,
    b: &Array<Vector<f32, NB>>,
    out: &mut Array<Vector<f32, NO>>,
    sizes: &Sizes,
    #[comptime] a_along: bool,
    #[comptime] b_along: bool,
    #[comptime] is_symmetric: bool,
    #[comptime] tile: Tile,
) {
    if comptime!(is_symmetric) {
        if CUBE_POS_X > CUBE_POS_Y {
            terminate!();
        }
    }
    let mut sums = Array::<Line>::new(comptime!(tile.lines_m * 4 * tile.lines_n));
    sum_up::<NA, NB>(a, b, &mut sums, sizes, a_along, b_along, tile);
    let start = (CUBE_POS_Z % sizes.pieces) * (CUBE_COUNT_Z / sizes.pieces) + CUBE_POS_Z / sizes.pieces;
    #[unroll]
    for i in 0..tile.lines_m {
        #[unroll]
        for r in 0..4usize {
            let row = row_of(i, tile) + comptime!(r as u32);
            if row < sizes.m {
                #[unroll]
                for j in 0..tile.lines_n {
                    let sum = sums[comptime!((4 * i + r) * tile.lines_n + j)];
                    write::<NO>(out, (start * sizes.m + row) as usize, column_of(j, tile), sizes.n, sum);
                }
            }
        }
    }
    if comptime!(is_symmetric) {
        if CUBE_POS_X < CUBE_POS_Y {
            #[unroll]
            for j in 0..tile.lines_n {
                #[unroll]
                for c in 0..4usize {
                    let row = column_of(j, tile) + comptime!(c as u32);
                    if row < sizes.m {
                        #[unroll]
                        for i in 0..tile.lines_m {
                            let mut across = Line::new(0.0f32);
                            #[unroll]
                            for r in 0..4usize {
                                across[r] = sums[comptime!((4 * i + r) * tile.lines_n + j)][c];
                            }
                            write::<NO>(
                                out,
                                (start * sizes.m + row) as usize,
                                row_of(i, tile),
                                sizes.n,
                                across,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The same for stacks of a few rows, which are sent to other places in blocks.
#[cube(launch_unchecked)]
#[expect(clippy::too_many_arguments, reason = "three inputs and what is known of them")]
pub(super) fn turn_kernel<NA: Size, NB: Size, NO: Size>(
    a: &Array<Vector<f32, NA>>,
    b: &Array<Vector<f32, NB>>,
    places: &Array<i32>,
    out: &mut Array<Vector<f32, NO>>,
    sizes: &Sizes,
    #[comptime] block: usize,
    #[comptime] a_along: bool,
    #[comptime] b_along: bool,
    #[comptime] tile: Tile,
) {
    let mut sums = Array::<Line>::new(comptime!(tile.lines_m * 4 * tile.lines_n));
    sum_up::<NA, NB>(a, b, &mut sums, sizes, a_along, b_along, tile);
    #[unroll]
    for i in 0..tile.lines_m {
        #[unroll]
        for r in 0..4usize {
            let row = row_of(i, tile) + comptime!(r as u32);
            if row < sizes.m {
                let from = (CUBE_POS_Z * sizes.m + row) as usize;
                let to = places[from / block] as usize * block + from % block;
                #[unroll]
                for j in 0..tile.lines_n {
                    let sum = sums[comptime!((4 * i + r) * tile.lines_n + j)];
                    write::<NO>(out, to, column_of(j, tile), sizes.n, sum);
                }
            }
        }
    }
}

/// First row of a square of this unit.
#[cube]
fn row_of(#[comptime] i: usize, #[comptime] tile: Tile) -> u32 {
    let unit = UNIT_POS / comptime!(tile.units_n as u32);
    CUBE_POS_Y * comptime!(tile.rows() as u32) + 4 * (comptime!((i * tile.units_m) as u32) + unit)
}

/// First column of a square of this unit.
#[cube]
fn column_of(#[comptime] j: usize, #[comptime] tile: Tile) -> u32 {
    let unit = UNIT_POS % comptime!(tile.units_n as u32);
    CUBE_POS_X * comptime!(tile.columns() as u32) + 4 * (comptime!((j * tile.units_n) as u32) + unit)
}

/// What this workgroup has to add up.
///
/// Squares of 4 x 4 go to workgroup memory as lines across the inner dimension, each where its depth puts it, so that
/// units which write or read together meet different banks. While a step is multiplied, the next is read.
#[cube]
fn sum_up<NA: Size, NB: Size>(
    a: &Array<Vector<f32, NA>>,
    b: &Array<Vector<f32, NB>>,
    sums: &mut Array<Line>,
    sizes: &Sizes,
    #[comptime] a_along: bool,
    #[comptime] b_along: bool,
    #[comptime] tile: Tile,
) {
    let mut part_a = SharedMemory::<Line>::new(comptime!(tile.rows() / 4 * tile.depth));
    let mut part_b = SharedMemory::<Line>::new(comptime!(tile.columns() / 4 * tile.depth));
    let mut ahead = Array::<Line>::new(comptime!(4 * tile.squares_a_unit()));
    #[unroll]
    for i in 0..comptime!(4 * tile.lines_m * tile.lines_n) {
        sums[i] = Line::new(0.0f32);
    }
    let mut at = (CUBE_POS_Z % sizes.pieces) * sizes.piece;
    let end = min(at + sizes.piece, sizes.k);
    fetch::<NA, NB>(a, b, &mut ahead, sizes, at, end, a_along, b_along, tile);
    while at < end {
        at += comptime!(tile.depth as u32);
        sync_cube();
        hand_over(&ahead, &mut part_a, &mut part_b, a_along, b_along, tile);
        sync_cube();
        fetch::<NA, NB>(a, b, &mut ahead, sizes, at, end, a_along, b_along, tile);
        multiply(&part_a, &part_b, sums, tile);
    }
}

/// Reads this unit's squares of both factors.
#[cube]
#[expect(clippy::too_many_arguments, reason = "both factors, and what is known of them")]
fn fetch<NA: Size, NB: Size>(
    a: &Array<Vector<f32, NA>>,
    b: &Array<Vector<f32, NB>>,
    ahead: &mut Array<Line>,
    sizes: &Sizes,
    at: u32,
    end: u32,
    #[comptime] a_along: bool,
    #[comptime] b_along: bool,
    #[comptime] tile: Tile,
) {
    let lines_a = comptime!(tile.rows() / 4);
    let lines_b = comptime!(tile.columns() / 4);
    let deep = comptime!(tile.depth / 4);
    let copy = CUBE_POS_Z / sizes.pieces;
    #[unroll]
    for pass in 0..tile.squares_a_unit() {
        let square = UNIT_POS + comptime!((pass * tile.units()) as u32);
        if square < comptime!((lines_a * deep) as u32) {
            let (line, depth) = place(square, a_along, lines_a, deep);
            let row = CUBE_POS_Y * comptime!(tile.rows() as u32) + 4 * line;
            let inner = at + 4 * depth;
            let start = copy * sizes.a_of_copy;
            get::<NA>(a, ahead, start, sizes.a_stride, row, sizes.m, inner, end, a_along, pass);
        } else if square < comptime!(((lines_a + lines_b) * deep) as u32) {
            let (line, depth) = place(square - comptime!((lines_a * deep) as u32), b_along, lines_b, deep);
            let column = CUBE_POS_X * comptime!(tile.columns() as u32) + 4 * line;
            let inner = at + 4 * depth;
            let start = copy * sizes.b_of_copy;
            get::<NB>(b, ahead, start, sizes.b_stride, column, sizes.n, inner, end, b_along, pass);
        }
    }
}

/// Puts this unit's squares where the workgroup finds them.
#[cube]
fn hand_over(
    ahead: &Array<Line>,
    part_a: &mut SharedMemory<Line>,
    part_b: &mut SharedMemory<Line>,
    #[comptime] a_along: bool,
    #[comptime] b_along: bool,
    #[comptime] tile: Tile,
) {
    let lines_a = comptime!(tile.rows() / 4);
    let lines_b = comptime!(tile.columns() / 4);
    let deep = comptime!(tile.depth / 4);
    #[unroll]
    for pass in 0..tile.squares_a_unit() {
        let square = UNIT_POS + comptime!((pass * tile.units()) as u32);
        if square < comptime!((lines_a * deep) as u32) {
            let (line, depth) = place(square, a_along, lines_a, deep);
            put(ahead, part_a, line, depth, pass, a_along, lines_a);
        } else if square < comptime!(((lines_a + lines_b) * deep) as u32) {
            let (line, depth) = place(square - comptime!((lines_a * deep) as u32), b_along, lines_b, deep);
            put(ahead, part_b, line, depth, pass, b_along, lines_b);
        }
    }
}

/// The line, and the depth in fours, of a square: units side by side read what lies side by side.
#[cube]
fn place(
    square: u32,
    #[comptime] along: bool,
    #[comptime] lines: usize,
    #[comptime] deep: usize,
) -> (u32, u32) {
    if along {
        (square / comptime!(deep as u32), square % comptime!(deep as u32))
    } else {
        (square % comptime!(lines as u32), square / comptime!(lines as u32))
    }
}

/// Reads a square: lines of the inner dimension where that is contiguous, otherwise lines across it.
#[cube]
#[expect(clippy::too_many_arguments, reason = "a strided input with ends")]
fn get<N: Size>(
    x: &Array<Vector<f32, N>>,
    ahead: &mut Array<Line>,
    start: u32,
    stride: u32,
    across: u32,
    across_end: u32,
    inner: u32,
    inner_end: u32,
    #[comptime] along: bool,
    #[comptime] pass: usize,
) {
    #[unroll]
    for i in 0..4usize {
        if along {
            let slow = across + comptime!(i as u32);
            ahead[comptime!(4 * pass + i)] =
                read::<N>(x, start + slow * stride, inner, inner_end, slow < across_end);
        } else {
            let slow = inner + comptime!(i as u32);
            ahead[comptime!(4 * pass + i)] =
                read::<N>(x, start + slow * stride, across, across_end, slow < inner_end);
        }
    }
}

/// Four numbers from `start + at`, and zeros from `start + end`.
#[cube]
fn read<N: Size>(x: &Array<Vector<f32, N>>, start: u32, at: u32, end: u32, is_there: bool) -> Line {
    let mut line = Line::new(0.0f32);
    let size = N::value();
    if comptime!(size == 4) {
        if is_there && at < end {
            line = Line::cast_from(x[((start + at) / 4) as usize]);
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            if is_there && at + comptime!(i as u32) < end {
                line[i] = x[(start + at) as usize + i][0];
            }
        }
    }
    line
}

/// Where a line is kept: next to others of its depth, in an order that depends on the depth.
#[cube]
fn kept(line: u32, depth: u32, #[comptime] lines: usize, #[comptime] i: usize) -> usize {
    ((depth * 4 + comptime!(i as u32)) * comptime!(lines as u32) + (line ^ (depth * 2))) as usize
}

#[cube]
fn put(
    ahead: &Array<Line>,
    part: &mut SharedMemory<Line>,
    line: u32,
    depth: u32,
    #[comptime] pass: usize,
    #[comptime] along: bool,
    #[comptime] lines: usize,
) {
    #[unroll]
    for i in 0..4usize {
        if along {
            let mut across = Line::new(0.0f32);
            #[unroll]
            for j in 0..4usize {
                across[j] = ahead[comptime!(4 * pass + j)][i];
            }
            part[kept(line, depth, lines, i)] = across;
        } else {
            part[kept(line, depth, lines, i)] = ahead[comptime!(4 * pass + i)];
        }
    }
}

/// Adds to the unit's squares what the step gives.
#[cube]
fn multiply(
    part_a: &SharedMemory<Line>,
    part_b: &SharedMemory<Line>,
    sums: &mut Array<Line>,
    #[comptime] tile: Tile,
) {
    let lines_a = comptime!(tile.rows() / 4);
    let lines_b = comptime!(tile.columns() / 4);
    let unit_row = UNIT_POS / comptime!(tile.units_n as u32);
    let unit_column = UNIT_POS % comptime!(tile.units_n as u32);
    let mut of_a = Array::<Line>::new(comptime!(tile.lines_m));
    let mut of_b = Array::<Line>::new(comptime!(tile.lines_n));
    #[unroll]
    for depth in 0..tile.depth {
        let fours = comptime!((depth / 4) as u32);
        let rest = comptime!(depth % 4);
        #[unroll]
        for i in 0..tile.lines_m {
            let line = comptime!((i * tile.units_m) as u32) + unit_row;
            of_a[i] = part_a[kept(line, fours, lines_a, rest)];
        }
        #[unroll]
        for j in 0..tile.lines_n {
            let line = comptime!((j * tile.units_n) as u32) + unit_column;
            of_b[j] = part_b[kept(line, fours, lines_b, rest)];
        }
        #[unroll]
        for i in 0..tile.lines_m {
            #[unroll]
            for r in 0..4usize {
                let factor = Line::new(of_a[i][r]);
                #[unroll]
                for j in 0..tile.lines_n {
                    let sum = comptime!((4 * i + r) * tile.lines_n + j);
                    sums[sum] = fma(factor, of_b[j], sums[sum]);
                }
            }
        }
    }
}

/// Writes four numbers of a row of `end`.
#[cube]
fn write<N: Size>(out: &mut Array<Vector<f32, N>>, row: usize, at: u32, end: u32, sum: Line) {
    let size = N::value();
    let row = row * end as usize;
    if comptime!(size == 4) {
        if at < end {
            out[(row + at as usize) / 4] = Vector::cast_from(sum);
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            if at + comptime!(i as u32) < end {
                out[row + at as usize + i] = Vector::cast_from(sum[i]);
            }
        }
    }
}

/// Adds up the pieces, always in the same order.
#[cube(launch)]
pub(super) fn sum_kernel(parts: &Array<f32>, sums: &mut Array<f32>, pieces: u32) {
    let mut i = ABSOLUTE_POS;
    while i < sums.len() {
        let mut sum = 0.0f32;
        for piece in 0..pieces {
            sum += parts[piece as usize * sums.len() + i];
        }
        sums[i] = sum;
        i += CUBE_COUNT * CUBE_DIM as usize;
    }
}
