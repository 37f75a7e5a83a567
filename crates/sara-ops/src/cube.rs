//! The GPU backends, on burn's own operations: with fusion on, these become few kernels. Weights in 8 or 4 bits are burn's
//! own quantised tensors, each widened as a whole where it is used; a table of them is in f32.

use burn::tensor::ops::{FloatTensor, FloatTensorOps, QTensorOps};
use burn::tensor::{Bytes, FloatDType, TensorData, TensorMetadata};
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use crate::packed::is_packed;
use crate::{LayerOps, Packed};

/// What both backends say of weights in few bits: their primitive is that of floats.
macro_rules! packs_weights {
    () => {
        const PACKED_WEIGHTS: bool = true;

        fn packed_weight(packed: Packed, device: &Self::Device) -> FloatTensor<Self> {
            Self::q_swap_dims(Self::q_from_data(quantized(&packed), device), 0, 1)
        }

        fn widened(weight: FloatTensor<Self>) -> FloatTensor<Self> {
            if !is_packed(weight.dtype()) {
                return Self::float_cast(weight, FloatDType::F32);
            }
            // The scales of a block are found in the order of the file alone.
            let in_file_order = Self::q_swap_dims(weight, 0, 1);
            Self::float_swap_dims(Self::dequantize(in_file_order, FloatDType::F32), 0, 1)
        }
    };
}

impl<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement> LayerOps for CubeBackend<R, F, I, BT> {
    packs_weights!();
}

impl<B: FusionBackend> LayerOps for Fusion<B> {
    packs_weights!();
}

/// Codes, as many to a word as fit, and behind them the scales, in f32, which every device has.
fn quantized(packed: &Packed) -> TensorData {
    let (dtype, bits) = packed.wide_dtype();
    let codes = packed.signed();
    let words = codes.chunks_exact(32 / bits).map(|codes| {
        let mask = (1_u32 << bits) - 1;
        codes.iter().rev().fold(0, |word: u32, &code| word << bits | code as u32 & mask)
    });
    let scales = packed.scales().into_iter().map(f32::to_bits);
    let words: Vec<u32> = words.chain(scales).collect();
    TensorData { bytes: Bytes::from_elems(words), shape: packed.shape().into(), dtype }
}
