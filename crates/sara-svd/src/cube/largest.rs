use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{empty, input};
use crate::Error;
use crate::ops::count_read;

const UNITS: u32 = 256;
/// Workgroups of the first launch; the second takes their results.
const GROUPS: usize = 64;

/// Largest modulus of the bits of `x`, taken as integers: they sort as the moduli do, with infinity and NaN
/// above all numbers, whatever the device does to denormal numbers and to comparisons with NaN.
#[cube(launch)]
fn largest_kernel(x: &Array<f32>, largest: &mut Array<f32>, #[comptime] units: usize) {
    let mut shared = SharedMemory::<u32>::new(units);
    let unit = UNIT_POS as usize;
    let mut found = 0u32;
    let mut i = CUBE_POS * units + unit;
    while i < x.len() {
        let bits = u32::reinterpret(x[i]) & 0x7FFF_FFFF;
        found = max(found, bits);
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
        largest[CUBE_POS] = f32::reinterpret(shared[0]);
    }
}

pub(super) fn largest<R: CubeRuntime>(a: CubeTensor<R>) -> Result<f64, Error> {
    let count = a.shape().num_elements();
    if count == 0 {
        return Ok(0.0);
    }
    debug_assert_eq!(a.dtype, DType::F32);
    let a = input(a);
    let groups = count.div_ceil(UNITS as usize).min(GROUPS);
    let mut result = reduce(a, groups);
    if groups > 1 {
        result = reduce(result, 1);
    }
    let bytes = result
        .client
        .read_one(result.handle)
        .map_err(|error| Error::Read { reason: format!("{error:?}").replace('\n', " ") })?;
    count_read(bytes.len());
    let bits = bytes.first_chunk::<4>().copied().unwrap_or([0xFF; 4]);
    Ok(f64::from(f32::from_le_bytes(bits)))
}

fn reduce<R: CubeRuntime>(a: CubeTensor<R>, groups: usize) -> CubeTensor<R> {
    let result = empty(&a, [groups]);
    largest_kernel::launch::<R>(
        &result.client,
        CubeCount::new_1d(groups as u32),
        CubeDim::new_1d(UNITS),
        a.into_array_arg(),
        result.clone().into_array_arg(),
        UNITS as usize,
    );
    result
}
