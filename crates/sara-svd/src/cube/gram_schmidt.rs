use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::sketch::random;
use super::{empty, input};
use crate::host::blocks::INDEPENDENT;

const UNITS: u32 = 256;
/// A random row is independent of fewer others but for an event that does not happen.
const ATTEMPTS: usize = 4;

/// One workgroup: each unit keeps to its own columns, and only sums go between them.
#[cube(launch)]
fn gram_schmidt_kernel(
    x: &Array<f32>,
    q: &mut Array<f32>,
    seed: u32,
    independent: f32,
    rows: u32,
    #[comptime] units: usize,
    #[comptime] attempts: usize,
) {
    let mut shared = SharedMemory::<f32>::new(units);
    let unit = UNIT_POS as usize;
    let l = rows as usize;
    let n = x.len() / l;
    let mut spare = 0u32;
    for i in 0..l {
        let row = i * n;
        let mut j = unit;
        while j < n {
            q[row + j] = x[row + j];
            j += units;
        }
        let mut done = false;
        for _ in 0..attempts {
            if !done {
                let before = dot(q, row, row, n, &mut shared, units);
                for _ in 0..2 {
                    for k in 0..i {
                        let share = dot(q, k * n, row, n, &mut shared, units);
                        let mut j = unit;
                        while j < n {
                            q[row + j] = q[row + j] - share * q[k * n + j];
                            j += units;
                        }
                    }
                }
                let after = dot(q, row, row, n, &mut shared, units);
                let good = after > independent * independent * before;
                let scale = 1.0f32 / f32::sqrt(after);
                let mut j = unit;
                while j < n {
                    q[row + j] = select(good, q[row + j] * scale, random(spare, j as u32, seed));
                    j += units;
                }
                spare += select(good, 0u32, 1u32);
                done = good;
            }
        }
    }
}

/// The product of two rows, the same in every unit, always added up in the same order.
#[cube]
fn dot(
    q: &Array<f32>,
    a: usize,
    b: usize,
    n: usize,
    shared: &mut SharedMemory<f32>,
    #[comptime] units: usize,
) -> f32 {
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    let mut j = unit;
    while j < n {
        sum += q[a + j] * q[b + j];
        j += units;
    }
    sync_cube();
    shared[unit] = sum;
    sync_cube();
    let mut width = (units / 2).runtime();
    while width > 0 {
        if unit < width {
            shared[unit] = shared[unit] + shared[unit + width];
        }
        sync_cube();
        width /= 2;
    }
    shared[0]
}

pub(super) fn gram_schmidt<R: CubeRuntime>(x: CubeTensor<R>, seed: u32) -> CubeTensor<R> {
    let shape = x.shape();
    let x = input(x);
    let q = empty(&x, shape.clone());
    gram_schmidt_kernel::launch::<R>(
        &q.client,
        CubeCount::new_1d(1),
        CubeDim::new_1d(UNITS),
        x.into_array_arg(),
        q.clone().into_array_arg(),
        seed,
        INDEPENDENT as f32,
        shape[0] as u32,
        UNITS as usize,
        ATTEMPTS,
    );
    q
}
