use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{empty, input};
use crate::PANEL;

/// Units along the rows and along the columns.
const SIDE: usize = 16;

/// One workgroup: eliminates a column at a time from the lower triangle, packed row by row in workgroup memory; where the
/// factor's columns were, those of its inverse come to be.
#[cube(launch)]
fn inverse_kernel(
    gram: &Array<f32>,
    inverse: &mut Array<f32>,
    growth: &mut Array<f32>,
    shift: f32,
    rows: u32,
    #[comptime] most: usize,
    #[comptime] side: usize,
) {
    let mut factor = SharedMemory::<f32>::new(comptime!(most * (most + 1) / 2));
    // Of the factor's column below the diagonal, and of its inverse's row up to there.
    let mut line = SharedMemory::<f32>::new(most);
    let mut sums = SharedMemory::<f32>::new(comptime!(side * side));
    let l = rows as usize;
    let unit = UNIT_POS as usize;
    let first_row = unit / side;
    let first_column = unit % side;

    let mut i = first_row;
    while i < l {
        let mut j = first_column;
        while j <= i {
            let entry = gram[i * l + j];
            factor[i * (i + 1) / 2 + j] = select(i == j, entry + shift * entry, entry);
            j += side;
        }
        i += side;
    }
    sync_cube();
    for k in 0..l {
        if unit < l {
            let inverse_diagonal = f32::inverse_sqrt(factor[k * (k + 1) / 2 + k]);
            let (i, j) = (max(unit, k), min(unit, k));
            let entry = select(unit == k, 1.0f32, factor[i * (i + 1) / 2 + j]);
            line[unit] = entry * inverse_diagonal;
        }
        sync_cube();
        let mut i = first_row;
        while i < l {
            let row = i * (i + 1) / 2;
            let mut j = first_column;
            while j <= i {
                if i == k {
                    factor[row + j] = line[j];
                } else if i > k {
                    let entry = select(j == k, 0.0f32, factor[row + j]);
                    factor[row + j] = entry - line[i] * line[j];
                }
                j += side;
            }
            i += side;
        }
        sync_cube();
    }
    let mut sum = 0.0f32;
    let mut i = first_row;
    while i < l {
        let mut j = first_column;
        while j < l {
            let mut entry = 0.0f32;
            if j <= i {
                entry = factor[i * (i + 1) / 2 + j];
            }
            sum += entry * entry * gram[j * l + j];
            inverse[i * l + j] = entry;
            j += side;
        }
        i += side;
    }
    sums[unit] = sum;
    sync_cube();
    if unit == 0 {
        let mut all = 0.0f32;
        for i in 0..comptime!(side * side) {
            all += sums[i];
        }
        growth[0] = all;
    }
}

pub(super) fn inverse<R: CubeRuntime>(gram: CubeTensor<R>, shift: f32) -> (CubeTensor<R>, CubeTensor<R>) {
    let l = gram.shape()[0];
    let gram = input(gram);
    let (inverse, growth) = (empty(&gram, [l, l]), empty(&gram, [1]));
    inverse_kernel::launch::<R>(
        &inverse.client,
        CubeCount::new_1d(1),
        CubeDim::new_1d((SIDE * SIDE) as u32),
        gram.into_array_arg(),
        inverse.clone().into_array_arg(),
        growth.clone().into_array_arg(),
        shift,
        l as u32,
        PANEL,
        SIDE,
    );
    (inverse, growth)
}
