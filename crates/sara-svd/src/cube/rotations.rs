use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{empty, input};

const UNITS: u32 = 128;
/// As on the host: two sweeps bring the outer iteration as far as running to convergence.
const INNER_SWEEPS: usize = 2;

/// One workgroup for each `d x d` Gram matrix: cyclic two-sided Jacobi in workgroup memory.
///
/// The disjoint pairs of a step are rotated together. The rotations, multiplied up in f32, drift from
/// orthogonal; one Newton-Schulz step at the end brings them back.
#[cube(launch)]
fn rotations_kernel(
    gram: &Array<f32>,
    floors: &Array<f32>,
    rotations: &mut Array<f32>,
    found: &mut Array<f32>,
    tolerance: f32,
    #[comptime] d: usize,
    #[comptime] sweeps: usize,
) {
    let stride = comptime!(d + 1);
    let mut g = SharedMemory::<f32>::new(comptime!(d * (d + 1)));
    let mut r = SharedMemory::<f32>::new(comptime!(d * (d + 1)));
    // For each pair the four entries of its rotation.
    let mut turn = SharedMemory::<f32>::new(comptime!(2 * d));
    let base = CUBE_POS * d * d;

    let mut i = UNIT_POS as usize;
    while i < d * d {
        g[(i / d) * stride + i % d] = gram[base + i];
        r[(i / d) * stride + i % d] = select(i / d == i % d, 1.0f32, 0.0f32);
        i += CUBE_DIM as usize;
    }
    sync_cube();
    look(&g, found, floors[CUBE_POS], d);
    for _ in 0..sweeps {
        for step in 0..d - 1 {
            choose(&g, &mut turn, step, tolerance, d);
            sync_cube();
            turn_lines(&mut g, &turn, step, 1usize, stride, d);
            turn_lines(&mut r, &turn, step, 1usize, stride, d);
            sync_cube();
            turn_lines(&mut g, &turn, step, stride, 1usize, d);
            sync_cube();
        }
    }
    orthogonalize(&r, &mut g, rotations, base, d);
}

/// Writes the largest cosine of all pairs, that of pairs above the floor, and the largest squared norm.
#[cube]
fn look(g: &SharedMemory<f32>, found: &mut Array<f32>, floor: f32, #[comptime] d: usize) {
    let stride = comptime!(d + 1);
    let unit = UNIT_POS as usize;
    let mut met = SharedMemory::<f32>::new(comptime!(3 * d));
    if unit < d {
        let own = max(g[unit * stride + unit], 0.0f32);
        let mut all = 0.0f32;
        let mut above = 0.0f32;
        for q in 0..d {
            let other = max(g[q * stride + q], 0.0f32);
            let scale = f32::sqrt(own) * f32::sqrt(other);
            if q != unit && scale > 0.0f32 {
                let cosine = f32::abs(g[unit * stride + q]) / scale;
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
        let mut largest = 0.0f32;
        for q in 0..d {
            largest = max(largest, met[unit * d + q]);
        }
        found[CUBE_POS * 3 + unit] = largest;
    }
}

/// The rotation of each pair of a step: none where its cosine is within the tolerance, and with the two
/// exchanged where the larger diagonal entry would come second.
#[cube]
fn choose(
    g: &SharedMemory<f32>,
    turn: &mut SharedMemory<f32>,
    step: usize,
    tolerance: f32,
    #[comptime] d: usize,
) {
    let stride = comptime!(d + 1);
    let unit = UNIT_POS as usize;
    if unit < d / 2 {
        let (p, q) = opponents(unit, step, d);
        let gpp = g[p * stride + p];
        let gqq = g[q * stride + q];
        let gpq = g[p * stride + q];
        let scale = f32::sqrt(max(gpp, 0.0f32)) * f32::sqrt(max(gqq, 0.0f32));
        let mut c = 1.0f32;
        let mut s = 0.0f32;
        if f32::abs(gpq) > tolerance * scale {
            let zeta = (gqq - gpp) / (2.0f32 * gpq);
            let size = 1.0f32 / (f32::abs(zeta) + f32::sqrt(1.0f32 + zeta * zeta));
            let t = select(zeta < 0.0f32, -size, size);
            c = 1.0f32 / f32::sqrt(1.0f32 + t * t);
            s = t * c;
        }
        let exchange = gpp < gqq;
        turn[4 * unit] = select(exchange, s, c);
        turn[4 * unit + 1] = select(exchange, c, -s);
        turn[4 * unit + 2] = select(exchange, c, s);
        turn[4 * unit + 3] = select(exchange, -s, c);
    }
}

/// Turns the two lines of each pair: columns, or rows, by how far apart lines and their entries are.
#[cube]
fn turn_lines(
    x: &mut SharedMemory<f32>,
    turn: &SharedMemory<f32>,
    step: usize,
    #[comptime] between_lines: usize,
    #[comptime] between_entries: usize,
    #[comptime] d: usize,
) {
    let mut i = UNIT_POS as usize;
    while i < (d / 2) * d {
        let pair = i / d;
        let (p, q) = opponents(pair, step, d);
        let first = p * between_lines + (i % d) * between_entries;
        let second = q * between_lines + (i % d) * between_entries;
        let a = x[first];
        let b = x[second];
        x[first] = turn[4 * pair] * a + turn[4 * pair + 1] * b;
        x[second] = turn[4 * pair + 2] * a + turn[4 * pair + 3] * b;
        i += CUBE_DIM as usize;
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
    let stride = comptime!(d + 1);
    let mut i = UNIT_POS as usize;
    while i < d * d {
        let a = i / d;
        let b = i % d;
        let mut dot = 0.0f32;
        for k in 0..d {
            dot += r[k * stride + a] * r[k * stride + b];
        }
        inner[a * stride + b] = select(a == b, 1.5f32, 0.0f32) - 0.5f32 * dot;
        i += CUBE_DIM as usize;
    }
    sync_cube();
    let mut i = UNIT_POS as usize;
    while i < d * d {
        let a = i / d;
        let b = i % d;
        let mut dot = 0.0f32;
        for k in 0..d {
            dot += r[a * stride + k] * inner[k * stride + b];
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
    gram: CubeTensor<R>,
    floors: CubeTensor<R>,
    tolerance: f32,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let shape = gram.shape();
    let (count, d) = (shape[0], shape[2]);
    let gram = input(gram);
    let (rotations, found) = (empty(&gram, [count, d, d]), empty(&gram, [count, 3]));
    rotations_kernel::launch::<R>(
        &rotations.client,
        CubeCount::new_1d(count as u32),
        CubeDim::new_1d(UNITS),
        gram.into_array_arg(),
        input(floors).into_array_arg(),
        rotations.clone().into_array_arg(),
        found.clone().into_array_arg(),
        tolerance,
        d,
        INNER_SWEEPS,
    );
    (rotations, found)
}
