use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{empty, input};
use crate::Error;
use crate::ops::count_read;

const UNITS: u32 = 256;
/// Workgroups of the first launch; the second takes their results.
const GROUPS: usize = 512;

/// What a number of all entries is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reduction {
    /// Largest modulus of the bits, taken as integers: they sort as the moduli do, with infinity and NaN above all
    /// numbers, whatever the device does to denormal numbers and to comparisons with NaN.
    Largest,
    Squares,
    /// Of the results of a launch that took squares.
    Sum,
}

/// One number for each workgroup.
#[cube(launch)]
fn reduce_kernel(
    x: &Array<f32>,
    reduced: &mut Array<f32>,
    #[comptime] units: usize,
    #[comptime] by: Reduction,
) {
    let unit = UNIT_POS as usize;
    let mut i = CUBE_POS * units + unit;
    if comptime!(by == Reduction::Largest) {
        let mut shared = SharedMemory::<u32>::new(units);
        let mut found = 0u32;
        while i < x.len() {
            found = max(found, u32::reinterpret(x[i]) & 0x7FFF_FFFF);
            i += CUBE_COUNT * units;
        }
        shared[unit] = found;
        sync_cube();
        let mut width = (units / 2).runtime();
        while width > 0 {
            if unit < width {
                shared[unit] = max(shared[unit], shared[unit + width]);
            }
            sync_cube();
            width /= 2;
        }
        if unit == 0 {
            reduced[CUBE_POS] = f32::reinterpret(shared[0]);
        }
    } else {
        let mut shared = SharedMemory::<f32>::new(units);
        let mut sum = 0.0f32;
        while i < x.len() {
            if comptime!(by == Reduction::Squares) {
                sum += x[i] * x[i];
            } else {
                sum += x[i];
            }
            i += CUBE_COUNT * units;
        }
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
        if unit == 0 {
            reduced[CUBE_POS] = shared[0];
        }
    }
}

/// Not finite where an entry is not.
pub(super) fn largest<R: CubeRuntime>(a: CubeTensor<R>) -> Result<f64, Error> {
    reduce(a, Reduction::Largest, Reduction::Largest)
}

pub(super) fn squared_norm<R: CubeRuntime>(a: CubeTensor<R>) -> Result<f64, Error> {
    reduce(a, Reduction::Squares, Reduction::Sum)
}

fn reduce<R: CubeRuntime>(a: CubeTensor<R>, first: Reduction, then: Reduction) -> Result<f64, Error> {
    let count = a.shape().num_elements();
    if count == 0 {
        return Ok(0.0);
    }
    debug_assert_eq!(a.dtype, DType::F32);
    let groups = count.div_ceil(UNITS as usize).min(GROUPS);
    let mut result = launch(input(a), groups, first);
    if groups > 1 {
        result = launch(result, 1, then);
    }
    let bytes = result
        .client
        .read_one(result.handle)
        .map_err(|error| Error::Read { reason: format!("{error:?}").replace('\n', " ") })?;
    count_read(bytes.len());
    let bits = bytes.first_chunk::<4>().copied().unwrap_or([0xFF; 4]);
    Ok(f64::from(f32::from_le_bytes(bits)))
}

fn launch<R: CubeRuntime>(a: CubeTensor<R>, groups: usize, by: Reduction) -> CubeTensor<R> {
    let result = empty(&a, [groups]);
    reduce_kernel::launch::<R>(
        &result.client,
        CubeCount::new_1d(groups as u32),
        CubeDim::new_1d(UNITS),
        a.into_array_arg(),
        result.clone().into_array_arg(),
        UNITS as usize,
        by,
    );
    result
}
