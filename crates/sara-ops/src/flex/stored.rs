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

/// Blocks whose scales are widened at once, before the products.
const AT_ONCE: usize = 64;

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
    codes: impl Fn(&[u8; BYTES]) -> [Lanes; 2],
) {
    let halves = out.as_chunks_mut::<LANES>().0.as_chunks_mut::<2>().0;
    for ((places, block), &scale) in halves.iter_mut().zip(blocks.codes).zip(blocks.scales) {
        let scale = of_f16(f16::from_le_bytes(scale));
        for (place, codes) in places.iter_mut().zip(codes(block)) {
            for (place, code) in place.iter_mut().zip(codes) {
                *place = code * scale;
            }
        }
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
    codes: impl Fn(&[u8; BYTES]) -> [Lanes; 2],
) -> [f32; N] {
    let n_blocks = blocks.codes.len().min(blocks.scales.len());
    let x = x.map(|x| &x.as_chunks::<LANES>().0.as_chunks::<2>().0[..n_blocks]);
    let mut lanes = [[0.0; LANES]; N];
    let mut scales = [0.0; AT_ONCE];
    for start in (0..n_blocks).step_by(AT_ONCE) {
        let count = AT_ONCE.min(n_blocks - start);
        for (scale, &bytes) in scales.iter_mut().zip(&blocks.scales[start..start + count]) {
            *scale = of_f16(f16::from_le_bytes(bytes));
        }
        for (at, &scale) in scales[..count].iter().enumerate() {
            let wide = codes(&blocks.codes[start + at]);
            for row in 0..N {
                let [low, high] = &x[row][start + at];
                let mut products = [0.0; LANES];
                for lane in 0..LANES {
                    products[lane] = (wide[0][lane] * low[lane] + wide[1][lane] * high[lane]) * scale;
                }
                for lane in 0..LANES {
                    lanes[row][lane] += products[lane];
                }
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

/// The codes of half a block.
type Lanes = [f32; LANES];

#[inline(always)]
fn of_int8(block: &[u8; BLOCK]) -> [Lanes; 2] {
    let mut wide = [[0.0; LANES]; 2];
    for (wide, codes) in wide.iter_mut().zip(block.as_chunks::<LANES>().0) {
        for (wide, &code) in wide.iter_mut().zip(codes) {
            *wide = f32::from(code as i8);
        }
    }
    wide
}

#[inline(always)]
fn of_int4(block: &[u8; BLOCK / 2]) -> [Lanes; 2] {
    let mut wide = [[0.0; LANES]; 2];
    for (wide, codes) in wide.iter_mut().zip(halves_of_bytes(block)) {
        for (wide, code) in wide.iter_mut().zip(codes) {
            *wide = f32::from(code as i8);
        }
    }
    wide
}

/// The codes in the low halves of bytes, and in the high ones. Left to itself, the compiler takes them one by one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "bytes become a register and return")]
fn halves_of_bytes(block: &[u8; LANES]) -> [[u8; LANES]; 2] {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_srli_epi16, _mm_sub_epi8,
    };
    // SAFETY: every processor of this architecture has these instructions, the load is of sixteen bytes that need not be
    // aligned, and a register is as large as sixteen bytes, of which every value is one.
    unsafe {
        let bytes = _mm_loadu_si128(block.as_ptr().cast());
        let (low, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
        let halves = [bytes, _mm_srli_epi16::<4>(bytes)];
        let codes = halves.map(|half| _mm_sub_epi8(_mm_and_si128(half, low), eight));
        std::mem::transmute::<[__m128i; 2], [[u8; LANES]; 2]>(codes)
    }
}

/// The same on other processors.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn halves_of_bytes(block: &[u8; LANES]) -> [[u8; LANES]; 2] {
    [block.map(|byte| (byte & 15).wrapping_sub(8)), block.map(|byte| (byte >> 4).wrapping_sub(8))]
}
