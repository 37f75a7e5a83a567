use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::product::{Factor, pieces, products};
use super::{empty, input};

/// As on the host: two sweeps bring the outer iteration as far as running to convergence.
const INNER_SWEEPS: usize = 2;

/// One workgroup for each `d x d` Gram matrix, which comes in pieces to add up: cyclic two-sided Jacobi in workgroup memory.
///
/// The disjoint pairs of a step are rotated together, and each unit turns the four entries that two pairs share by the
/// rotations of both. The rotations, multiplied up in f32, drift from orthogonal; one Newton-Schulz step at the end
/// brings them back.
#[cube(launch)]
#[expect(clippy::too_many_arguments, reason = "inputs, outputs and their sizes")]
fn rotations_kernel(
    gram: &Array<f32>,
    floors: &Array<f32>,
    before: &Array<f32>,
    rotations: &mut Array<f32>,
    found: &mut Array<f32>,
    tolerance: f32,
    pieces: u32,
    #[comptime] d: usize,
    #[comptime] sweeps: usize,
) {
    let pairs = comptime!(d / 2);
    let mut g = SharedMemory::<f32>::new(comptime!(d * d));
    let mut r = SharedMemory::<f32>::new(comptime!(d * d));
    let base = CUBE_POS * d * d;

    let mut i = UNIT_POS as usize;
    while i < d * d {
        let mut sum = 0.0f32;
        for piece in 0..pieces {
            sum += gram[piece as usize * rotations.len() + base + i];
        }
        g[kept(i / d, i % d, d)] = sum;
        i += CUBE_DIM as usize;
    }
    sync_cube();
    look(&g, &mut r, before, found, floors[CUBE_POS], d);
    sync_cube();
    let mut i = UNIT_POS as usize;
    while i < d * d {
        r[kept(i / d, i % d, d)] = select(i / d == i % d, 1.0f32, 0.0f32);
        i += CUBE_DIM as usize;
    }
    sync_cube();
    // For each pair of a step the four entries of its rotation.
    let mut turns = SharedMemory::<f32>::new(comptime!(2 * d));
    let row = UNIT_POS as usize / pairs;
    let column = UNIT_POS as usize % pairs;
    for _ in 0..sweeps {
        for step in 0..d - 1 {
            choose(&g, &mut turns, step, tolerance, d);
            sync_cube();
            let (p, q) = opponents(row, step, d);
            let (s, t) = opponents(column, step, d);
            let (a, b, c, e) = (turns[4 * row], turns[4 * row + 1], turns[4 * row + 2], turns[4 * row + 3]);
            let (x, y) = (turns[4 * column], turns[4 * column + 1]);
            let (z, w) = (turns[4 * column + 2], turns[4 * column + 3]);
            let (ps, pt) = (g[kept(p, s, d)], g[kept(p, t, d)]);
            let (qs, qt) = (g[kept(q, s, d)], g[kept(q, t, d)]);
            let (first_s, first_t) = (a * ps + b * qs, a * pt + b * qt);
            let (second_s, second_t) = (c * ps + e * qs, c * pt + e * qt);
            g[kept(p, s, d)] = x * first_s + y * first_t;
            g[kept(p, t, d)] = z * first_s + w * first_t;
            g[kept(q, s, d)] = x * second_s + y * second_t;
            g[kept(q, t, d)] = z * second_s + w * second_t;
            #[unroll]
            for half in 0..2usize {
                let line = row + comptime!(half * pairs);
                let (one, other) = (r[kept(line, s, d)], r[kept(line, t, d)]);
                r[kept(line, s, d)] = x * one + y * other;
                r[kept(line, t, d)] = z * one + w * other;
            }
            sync_cube();
        }
    }
    orthogonalize(&r, &mut g, rotations, base, d);
}

/// Where an entry is kept, so that units which read a row or a column meet different banks; `d` is a power of two.
#[cube]
fn kept(i: usize, j: usize, #[comptime] d: usize) -> usize {
    i * d + (i ^ j)
}

/// Writes the largest cosine of all pairs, that of pairs above the floor, and the largest squared norm, or what was found
/// before where that is larger.
#[cube]
fn look(
    g: &SharedMemory<f32>,
    met: &mut SharedMemory<f32>,
    before: &Array<f32>,
    found: &mut Array<f32>,
    floor: f32,
    #[comptime] d: usize,
) {
    let unit = UNIT_POS as usize;
    if unit < d {
        let own = max(g[kept(unit, unit, d)], 0.0f32);
        let mut all = 0.0f32;
        let mut above = 0.0f32;
        for q in 0..d {
            let other = max(g[kept(q, q, d)], 0.0f32);
            let scale = f32::sqrt(own) * f32::sqrt(other);
            if q != unit && scale > 0.0f32 {
                let cosine = f32::abs(g[kept(unit, q, d)]) / scale;
                all = max(all, cosine);
                if min(own, other) > floor {
                    above = max(above, cosine);
                }
            }
        }
        met[unit] = all;
        met[d + unit] = above;
        met[2 * d + unit] = own;
    }
    sync_cube();
    if unit < 3 {
        let mut largest = before[CUBE_POS * 3 + unit];
        for q in 0..d {
            largest = max(largest, met[unit * d + q]);
        }
        found[CUBE_POS * 3 + unit] = largest;
    }
}

/// The rotation of each pair of a step, by rows: none where its cosine is within the tolerance, and with the two exchanged
/// where the larger diagonal entry would come second.
///
/// What is rounded coarsely here makes a rotation a little less effective; the Newton-Schulz step keeps it orthogonal.
#[cube(fast_math = FastMath::AllowReciprocal | FastMath::ReducedPrecision | FastMath::UnsignedZero | FastMath::NotInf)]
fn choose(
    g: &SharedMemory<f32>,
    turns: &mut SharedMemory<f32>,
    step: usize,
    tolerance: f32,
    #[comptime] d: usize,
) {
    let unit = UNIT_POS as usize;
    if unit < d / 2 {
        let (p, q) = opponents(unit, step, d);
        let gpp = g[kept(p, p, d)];
        let gqq = g[kept(q, q, d)];
        let gpq = g[kept(p, q, d)];
        let scale = f32::sqrt(max(gpp, 0.0f32)) * f32::sqrt(max(gqq, 0.0f32));
        let mut c = 1.0f32;
        let mut s = 0.0f32;
        if f32::abs(gpq) > tolerance * scale {
            let zeta = (gqq - gpp) / (2.0f32 * gpq);
            let size = 1.0f32 / (f32::abs(zeta) + f32::sqrt(1.0f32 + zeta * zeta));
            let t = select(zeta < 0.0f32, -size, size);
            c = f32::inverse_sqrt(1.0f32 + t * t);
            s = t * c;
        }
        let exchange = gpp < gqq;
        turns[4 * unit] = select(exchange, s, c);
        turns[4 * unit + 1] = select(exchange, c, -s);
        turns[4 * unit + 2] = select(exchange, c, s);
        turns[4 * unit + 3] = select(exchange, -s, c);
    }
}

/// Writes `r (3 - r^T r) / 2`; `inner` is used up.
#[cube]
fn orthogonalize(
    r: &SharedMemory<f32>,
    inner: &mut SharedMemory<f32>,
    rotations: &mut Array<f32>,
    base: usize,
    #[comptime] d: usize,
) {
    let mut i = UNIT_POS as usize;
    while i < d * d {
        let a = i / d;
        let b = i % d;
        let mut dot = 0.0f32;
        for k in 0..d {
            dot += r[kept(k, a, d)] * r[kept(k, b, d)];
        }
        inner[kept(a, b, d)] = select(a == b, 1.5f32, 0.0f32) - 0.5f32 * dot;
        i += CUBE_DIM as usize;
    }
    sync_cube();
    let mut i = UNIT_POS as usize;
    while i < d * d {
        let a = i / d;
        let b = i % d;
        let mut dot = 0.0f32;
        for k in 0..d {
            dot += r[kept(a, k, d)] * inner[kept(k, b, d)];
        }
        rotations[base + i] = dot;
        i += CUBE_DIM as usize;
    }
}

/// The pairs of a step of a tournament of `d` players; the first of the two is the smaller.
#[cube]
fn opponents(pair: usize, step: usize, #[comptime] d: usize) -> (usize, usize) {
    let p = select(pair == 0, step, (step + pair) % (d - 1));
    let q = select(pair == 0, (d - 1).runtime(), (step + (d - 1) - pair) % (d - 1));
    (min(p, q), max(p, q))
}

pub(super) fn rotations<R: CubeRuntime>(
    rows: CubeTensor<R>,
    width: usize,
    floors: CubeTensor<R>,
    before: CubeTensor<R>,
    tolerance: f32,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let shape = rows.shape();
    let (count, d) = (shape[0], shape[1]);
    assert!(d.is_power_of_two() && (4..=32).contains(&d), "sets of 4 to 32 rows");
    let rows = input(rows);
    let gram = products(
        &Factor::rows(rows.clone(), width),
        &Factor::rows(rows, width),
        [d, d, width],
        count,
        pieces(d, d, width),
    );
    let pieces = gram.shape()[0];
    let (rotations, found) = (empty(&gram, [count, d, d]), empty(&gram, [count, 3]));
    rotations_kernel::launch::<R>(
        &rotations.client,
        CubeCount::new_1d(count as u32),
        CubeDim::new_1d((d * d / 4) as u32),
        gram.into_array_arg(),
        input(floors).into_array_arg(),
        input(before).into_array_arg(),
        rotations.clone().into_array_arg(),
        found.clone().into_array_arg(),
        tolerance,
        pieces as u32,
        d,
        INNER_SWEEPS,
    );
    (rotations, found)
}
