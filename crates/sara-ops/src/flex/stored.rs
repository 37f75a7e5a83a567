//! Frozen weights as they lie in memory, in 16, 8 or 4 bits: widened, or multiplied in place.

#![expect(
    clippy::inline_always,
    reason = "a part is compiled for the instruction set of the loop that it is in"
)]

use burn::tensor::{bf16, f16};

use super::kernels::{LANES, vectorized};
use crate::packed::BLOCK;

/// Rows that a value is multiplied with when it has been widened once.
pub(super) const ROWS: usize = 4;

/// Values one after another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored<'a> {
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    Int8(Blocks<'a, BLOCK>),
    Int4(Blocks<'a, { BLOCK / 2 }>),
}

/// Whole blocks of so many bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks<'a, const BYTES: usize> {
    pub(super) codes: &'a [[u8; BYTES]],
    /// Of each block, as f16.
    pub(super) scales: &'a [[u8; 2]],
}

vectorized! {
    /// The values as f32.
    fn widen<'a>(out: &mut [f32], values: Stored<'a>) {
        match values {
            Stored::Bf16(values) => widen_each(out, values, of_bf16),
            Stored::F16(values) => widen_each(out, values, of_f16),
            Stored::Int8(blocks) => widen_blocks(out, blocks, of_int8),
            Stored::Int4(blocks) => widen_blocks(out, blocks, of_int4),
        }
    }

    /// The sum of all products.
    fn dot<'a>(values: Stored<'a>, x: [&[f32]; 1]) -> [f32; 1] {
        match values {
            Stored::Bf16(values) => dots_of_each(values, x, of_bf16),
            Stored::F16(values) => dots_of_each(values, x, of_f16),
            Stored::Int8(blocks) => dots_of_blocks(blocks, x, of_int8),
            Stored::Int4(blocks) => dots_of_blocks(blocks, x, of_int4),
        }
    }

    /// Of several rows at once; each is what it would be alone.
    fn dots<'a>(values: Stored<'a>, x: [&[f32]; ROWS]) -> [f32; ROWS] {
        match values {
            Stored::Bf16(values) => dots_of_each(values, x, of_bf16),
            Stored::F16(values) => dots_of_each(values, x, of_f16),
            Stored::Int8(blocks) => dots_of_blocks(blocks, x, of_int8),
            Stored::Int4(blocks) => dots_of_blocks(blocks, x, of_int4),
        }
    }
}

#[inline(always)]
fn widen_each<T: Copy>(out: &mut [f32], values: &[T], widen: impl Fn(T) -> f32) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = widen(value);
    }
}

#[inline(always)]
fn widen_blocks<const BYTES: usize>(
    out: &mut [f32],
    blocks: Blocks<'_, BYTES>,
    codes: impl Fn(&[u8; BYTES]) -> [f32; BLOCK],
) {
    let places = out.as_chunks_mut::<BLOCK>().0;
    for ((place, block), &scale) in places.iter_mut().zip(blocks.codes).zip(blocks.scales) {
        let scale = of_f16(f16::from_le_bytes(scale));
        *place = codes(block).map(|code| code * scale);
    }
}

/// The sum of all products with each row, in four registers, in an order that depends on the length alone.
#[inline(always)]
fn dots_of_each<T: Copy, const N: usize>(values: &[T], x: [&[f32]; N], widen: impl Fn(T) -> f32) -> [f32; N] {
    const WIDE: usize = 4 * LANES;
    let ((values, rest), x) = (values.as_chunks::<WIDE>(), x.map(|x| x.as_chunks::<WIDE>()));
    let mut lanes = [[0.0; WIDE]; N];
    for (at, values) in values.iter().enumerate() {
        let wide = values.map(&widen);
        for (lanes, (x, _)) in lanes.iter_mut().zip(x) {
            for ((lane, &value), &x) in lanes.iter_mut().zip(&wide).zip(&x[at]) {
                *lane += value * x;
            }
        }
    }
    for (lanes, (_, x)) in lanes.iter_mut().zip(x) {
        for ((lane, &value), &x) in lanes.iter_mut().zip(rest).zip(x) {
            *lane += widen(value) * x;
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// The same of blocks, whose scale is taken once, to the products of both halves.
#[inline(always)]
fn dots_of_blocks<const BYTES: usize, const N: usize>(
    blocks: Blocks<'_, BYTES>,
    x: [&[f32]; N],
    codes: impl Fn(&[u8; BYTES]) -> [f32; BLOCK],
) -> [f32; N] {
    let x = x.map(|x| x.as_chunks::<BLOCK>().0);
    let mut lanes = [[0.0; LANES]; N];
    for (at, (block, &scale)) in blocks.codes.iter().zip(blocks.scales).enumerate() {
        let wide = codes(block);
        let scale = of_f16(f16::from_le_bytes(scale));
        for (lanes, x) in lanes.iter_mut().zip(x) {
            let x = &x[at];
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += (wide[lane] * x[lane] + wide[lane + LANES] * x[lane + LANES]) * scale;
            }
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

#[inline(always)]
fn of_bf16(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// A finite value: its bits in the places that they have in f32, and the exponent's other zero made good by a product.
#[inline(always)]
fn of_f16(value: f16) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits(0x7780_0000);
    let bits = u32::from(value.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * TWO_TO_112;
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

#[inline(always)]
fn of_int8(block: &[u8; BLOCK]) -> [f32; BLOCK] {
    block.map(|code| f32::from(code as i8))
}

#[inline(always)]
fn of_int4(block: &[u8; BLOCK / 2]) -> [f32; BLOCK] {
    let mut codes = [0.0; BLOCK];
    for (at, &byte) in block.iter().enumerate() {
        codes[at] = f32::from((byte & 15) as i8 - 8);
        codes[at + BLOCK / 2] = f32::from((byte >> 4) as i8 - 8);
    }
    codes
}
