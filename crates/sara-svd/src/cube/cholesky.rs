use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{empty, input};
use crate::PANEL;

const UNITS: u32 = 64;

/// One workgroup: factors the lower triangle, packed row by row in workgroup memory, a column at a time; then
/// each unit solves for columns of the inverse, reading only what it has written itself.
#[cube(launch)]
fn inverse_kernel(gram: &Array<f32>, inverse: &mut Array<f32>, rows: u32, #[comptime] most: usize) {
    let mut factor = SharedMemory::<f32>::new(comptime!(most * (most + 1) / 2));
    let l = rows as usize;
    let unit = UNIT_POS as usize;
    let units = CUBE_DIM as usize;

    let mut i = unit;
    while i < l {
        for j in 0..=i {
            factor[i * (i + 1) / 2 + j] = gram[i * l + j];
        }
        i += units;
    }
    sync_cube();
    for k in 0..l {
        let diagonal = k * (k + 1) / 2 + k;
        if unit == 0 {
            factor[diagonal] = f32::sqrt(factor[diagonal]);
        }
        sync_cube();
        let mut i = k + 1 + unit;
        while i < l {
            factor[i * (i + 1) / 2 + k] = factor[i * (i + 1) / 2 + k] / factor[diagonal];
            i += units;
        }
        sync_cube();
        let mut i = k + 1 + unit;
        while i < l {
            let row = i * (i + 1) / 2;
            for j in k + 1..=i {
                factor[row + j] = factor[row + j] - factor[row + k] * factor[j * (j + 1) / 2 + k];
            }
            i += units;
        }
        sync_cube();
    }
    let mut column = unit;
    while column < l {
        for i in 0..l {
            let row = i * (i + 1) / 2;
            let mut rest = select(i == column, 1.0f32, 0.0f32);
            if i >= column {
                for k in column..i {
                    rest -= factor[row + k] * inverse[k * l + column];
                }
                rest /= factor[row + i];
            }
            inverse[i * l + column] = rest;
        }
        column += units;
    }
}

pub(super) fn inverse<R: CubeRuntime>(gram: CubeTensor<R>) -> CubeTensor<R> {
    let l = gram.shape()[0];
    let gram = input(gram);
    let inverse = empty(&gram, [l, l]);
    inverse_kernel::launch::<R>(
        &inverse.client,
        CubeCount::new_1d(1),
        CubeDim::new_1d(UNITS),
        gram.into_array_arg(),
        inverse.clone().into_array_arg(),
        l as u32,
        PANEL,
    );
    inverse
}
