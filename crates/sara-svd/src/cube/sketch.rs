use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const UNITS: u32 = 256;

#[cube(launch)]
fn sketch_kernel(sketch: &mut Array<f32>, columns: u32, seed: u32) {
    let i = ABSOLUTE_POS;
    if i < sketch.len() {
        let position = i as u32;
        sketch[i] = random(position / columns, position % columns, seed);
    }
}

/// A number between -1 and 1; the same as on the host, bit for bit.
#[cube]
pub(super) fn random(i: u32, j: u32, seed: u32) -> f32 {
    let bits = mix(mix(mix(seed) ^ i) ^ j);
    f32::cast_from(bits >> 8u32) / 8_388_608.0f32 - 1.0f32
}

#[cube]
fn mix(x: u32) -> u32 {
    let x = ((x ^ (x >> 16u32)) + 0x9E37_79B9u32) * 0x7FEB_352Du32;
    let x = (x ^ (x >> 15u32)) * 0x846C_A68Bu32;
    x ^ (x >> 16u32)
}

pub(super) fn sketch<R: CubeRuntime>(shape: [usize; 2], seed: u32, device: &R::Device) -> CubeTensor<R> {
    let client = R::client(device);
    let count = shape[0] * shape[1];
    let buffer = client.empty(count * size_of::<f32>());
    let sketch = CubeTensor::new_contiguous(client, device.clone(), Shape::new(shape), buffer, DType::F32);
    sketch_kernel::launch::<R>(
        &sketch.client,
        CubeCount::new_1d(count.div_ceil(UNITS as usize) as u32),
        CubeDim::new_1d(UNITS),
        sketch.clone().into_array_arg(),
        shape[1] as u32,
        seed,
    );
    sketch
}
