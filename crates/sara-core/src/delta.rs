//! The change of one linear layer: all that merging and export know of a method.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// Change of one linear layer.
#[derive(Debug, Clone)]
pub struct Delta<B: Backend> {
    /// Change of the weight.
    pub weight: Change<B>,
    /// Change of the bias, `[d_out]`, where the method trains it.
    pub bias: Option<Tensor<B, 1>>,
}

/// Change of a weight `[d_in, d_out]`.
#[derive(Debug, Clone)]
pub enum Change<B: Backend> {
    /// `down up`, with every scale already in `up`.
    LowRank {
        /// `[d_in, rank]`.
        down: Tensor<B, 2>,
        /// `[rank, d_out]`.
        up: Tensor<B, 2>,
    },
    /// The whole change, `[d_in, d_out]`.
    Dense(Tensor<B, 2>),
}

impl<B: Backend> Change<B> {
    /// The change as one matrix, computed in f32.
    ///
    /// # Shapes
    /// - returns `[d_in, d_out]`
    pub fn dense(self) -> Tensor<B, 2> {
        match self {
            // A rank of zero is a layer that pruning has emptied: backends refuse products over nothing.
            Self::LowRank { down, up } if up.dims()[0] == 0 => {
                Tensor::zeros([down.dims()[0], up.dims()[1]], &down.device())
            }
            Self::LowRank { down, up } => down.cast(DType::F32).matmul(up.cast(DType::F32)),
            Self::Dense(change) => change.cast(DType::F32),
        }
    }
}
