//! Frozen weights in 8 or 4 bits: blocks of 32 values along a row, each with a scale of 16 bits.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::quantization::{BlockSize, QuantLevel, QuantParam, QuantScheme, QuantStore, QuantValue};
use burn::tensor::{DType, Int, Tensor, f16};
use rayon::prelude::*;

use crate::buffer::size;
use crate::{LayerOps, primitive, tensor};

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// How many bits a value has beside its share of the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// A code in -127..=127, times the scale: the largest value of the block over 127.
    Eight,
    /// A code in -8..=7, times the scale, which has either sign: the largest value of the block over -8.
    Four,
}

/// A matrix in 8 or 4 bits, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    bits: Bits,
    shape: [usize; 2],
    /// A code for each value; of four bits the first half of a block is in the low halves of its bytes, 8 above the code.
    codes: Vec<u8>,
    /// A scale for each block.
    scales: Vec<f16>,
}

impl Packed {
    /// The nearest codes of `values`, `[rows, columns]`; `None` where these are not so many or not finite, where blocks do
    /// not divide the columns, or where the scale of a block is beyond 16 bits.
    pub fn new(values: &[f32], shape: [usize; 2], bits: Bits) -> Option<Self> {
        if values.len() != size(shape) || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        Self::of_rows(shape, bits, |row, out| out.copy_from_slice(&values[row * shape[1]..][..shape[1]]))
    }

    /// The same of values that `read` writes row by row, on all threads; whether they are finite is the caller's to know.
    pub fn of_rows(shape: [usize; 2], bits: Bits, read: impl Fn(usize, &mut [f32]) + Sync) -> Option<Self> {
        let [_, columns] = shape;
        if columns == 0 || !columns.is_multiple_of(BLOCK) {
            return None;
        }
        let mut packed = Self::zeros(shape, bits);
        let codes = packed.codes.par_chunks_exact_mut(columns / BLOCK * bits.code_bytes());
        let rows = codes.zip(packed.scales.par_chunks_exact_mut(columns / BLOCK)).enumerate();
        rows.for_each_init(
            || vec![0.0; columns],
            |values, (row, (codes, scales))| {
                read(row, values);
                let places = codes.chunks_exact_mut(bits.code_bytes()).zip(scales);
                for (block, (codes, scale)) in values.as_chunks().0.iter().zip(places) {
                    *scale = bits.encode(block, codes);
                }
            },
        );
        packed.scales.iter().all(|scale| scale.is_finite()).then_some(packed)
    }

    /// Zeros, in as many blocks as the shape has.
    pub fn zeros(shape: [usize; 2], bits: Bits) -> Self {
        let blocks = size(shape) / BLOCK;
        let zero = match bits {
            Bits::Eight => 0,
            Bits::Four => 0x88,
        };
        Self { bits, shape, codes: vec![zero; blocks * bits.code_bytes()], scales: vec![f16::ZERO; blocks] }
    }

    /// The values that the codes stand for.
    pub fn values(&self) -> Vec<f32> {
        let codes = self.signed();
        let blocks = codes.chunks_exact(BLOCK).zip(&self.scales);
        blocks.flat_map(|(codes, scale)| codes.iter().map(|&code| f32::from(code) * scale.to_f32())).collect()
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// What burn calls such a type.
    pub fn dtype(&self) -> DType {
        DType::QFloat(self.bits.scheme())
    }

    /// Codes and then scales, as they lie on the CPU.
    #[cfg(feature = "flex")]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.codes;
        bytes.extend(self.scales.into_iter().flat_map(f16::to_le_bytes));
        bytes
    }

    /// The code of each value.
    pub(crate) fn signed(&self) -> Vec<i8> {
        match self.bits {
            Bits::Eight => self.codes.iter().map(|&byte| byte as i8).collect(),
            Bits::Four => {
                let blocks = self.codes.chunks_exact(BLOCK / 2);
                let halves = blocks.flat_map(|block| {
                    block.iter().map(|byte| byte & 15).chain(block.iter().map(|byte| byte >> 4))
                });
                halves.map(|half| half as i8 - 8).collect()
            }
        }
    }

    /// What burn calls such a type with scales in f32, and the bits of a code.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(crate) fn wide_dtype(&self) -> (DType, usize) {
        let scheme = QuantScheme { param: QuantParam::F32, ..self.bits.scheme() };
        (DType::QFloat(scheme), self.bits.count())
    }

    /// The scale of each block.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(crate) fn scales(&self) -> Vec<f32> {
        self.scales.iter().map(|scale| scale.to_f32()).collect()
    }
}

impl Bits {
    /// How many these are.
    pub const fn count(self) -> usize {
        match self {
            Self::Eight => 8,
            Self::Four => 4,
        }
    }

    /// Bytes of a block with its scale.
    pub const fn block_bytes(self) -> usize {
        self.code_bytes() + size_of::<f16>()
    }

    /// Bytes of its codes.
    const fn code_bytes(self) -> usize {
        BLOCK * self.count() / 8
    }

    /// Writes the nearest codes of a block, and returns the scale.
    fn encode(self, block: &[f32; BLOCK], codes: &mut [u8]) -> f16 {
        let largest =
            block.iter().fold(0.0_f32, |so_far, &x| if x.abs() > so_far.abs() { x } else { so_far });
        let (scale, low, high) = match self {
            Self::Eight => (largest.abs() / 127.0, -127.0, 127.0),
            Self::Four => (largest / -8.0, -8.0, 7.0),
        };
        let scale = f16::from_f32(scale);
        let step = scale.to_f32();
        // A scale that is too small for 16 bits is zero, and so is what it stands for.
        let code = |value: f32| if step == 0.0 { 0 } else { (value / step).round().clamp(low, high) as i8 };
        match self {
            Self::Eight => {
                for (byte, &value) in codes.iter_mut().zip(block) {
                    *byte = code(value) as u8;
                }
            }
            Self::Four => {
                let (low, high) = block.split_at(BLOCK / 2);
                for (byte, (&low, &high)) in codes.iter_mut().zip(low.iter().zip(high)) {
                    *byte = (code(low) + 8) as u8 | ((code(high) + 8) as u8) << 4;
                }
            }
        }
        scale
    }

    fn scheme(self) -> QuantScheme {
        let value = match self {
            Self::Eight => QuantValue::Q8S,
            Self::Four => QuantValue::Q4F,
        };
        let level = QuantLevel::Block(BlockSize::new([BLOCK as u8]));
        let store = QuantStore::PackedU32(0);
        QuantScheme { value, param: QuantParam::F16, level, store, ..QuantScheme::default() }
    }

    /// The bits of a weight of this type; `None` of one that is in no such type.
    #[cfg(feature = "flex")]
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        [Self::Eight, Self::Four].into_iter().find(|bits| dtype == DType::QFloat(bits.scheme()))
    }
}

/// Whether a weight of this type is in 8 or 4 bits.
pub fn is_packed(dtype: DType) -> bool {
    matches!(dtype, DType::QFloat(_))
}

/// A frozen weight in f32, whatever it is held in.
///
/// # Shapes
/// - `weight` and the result: `[d_in, d_out]`
pub fn widened<B: LayerOps>(weight: Tensor<B, 2>) -> Tensor<B, 2> {
    if weight.dtype() == DType::F32 {
        return weight;
    }
    tensor(B::widened(primitive(weight)))
}

/// Rows of a frozen table, in f32.
///
/// # Shapes
/// - `table`: `[n, d]`, row by row where it has fewer than 32 bits
/// - `ids`: `[batch, seq]`, below `n`
/// - returns `[batch, seq, d]`
///
/// # Panics
/// If an id is beyond the table, or the table is the transpose of another.
pub fn table_rows<B: LayerOps>(table: Tensor<B, 2>, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
    let ([batch, seq], [_, d]) = (ids.dims(), table.dims());
    let ids = ids.reshape([batch * seq]).into_primitive();
    tensor::<B, 2>(B::fused_table_rows(primitive(table), ids)).reshape([batch, seq, d])
}

pub(crate) fn stock_table_rows<B: Backend>(table: FloatTensor<B>, ids: IntTensor<B>) -> FloatTensor<B> {
    let ids = Tensor::<B, 1, Int>::from_primitive(ids);
    primitive(tensor::<B, 2>(table).select(0, ids).cast(DType::F32))
}
