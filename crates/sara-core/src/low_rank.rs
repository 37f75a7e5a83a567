//! The low-rank branch beside a frozen linear layer, in the factored form that trains without a weight-sized gradient.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::delta::Change;
use crate::ops::{self, LinearOps};
use crate::pass::Pass;

/// The factors of one branch: `y += ((x down) * scale * scaling) up`.
#[derive(Debug)]
pub struct LowRank<B: Backend> {
    /// `[d_in, rank]`.
    pub down: Tensor<B, 2>,
    /// `[rank]`; all ones if `None`.
    pub scale: Option<Tensor<B, 1>>,
    /// `[rank, d_out]`.
    pub up: Tensor<B, 2>,
    /// Constant factor of the branch.
    pub scaling: f64,
}

impl<B: LinearOps> LowRank<B> {
    /// Output of `base` with this branch beside it; the branch sees `x` through dropout.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`
    /// - returns `[batch, seq, d_out]`
    pub fn project(self, base: &Linear<B>, x: Tensor<B, 3>, dropout: f64, pass: &Pass<B>) -> Tensor<B, 3> {
        let out = linear(base, x.clone());
        let branch = self.branch(pass.dropout(x, dropout)).cast(out.dtype());
        ops::add(out, branch)
    }

    /// The branch alone, in the factors' dtype: mixed dtypes are nonsense on some backends and a panic on others.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`
    /// - returns `[batch, seq, d_out]`
    fn branch(self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        // The scaling goes onto the narrow middle, `[batch, seq, rank]`, where it costs least.
        let middle = ops::linear(x.cast(self.down.dtype()), self.down, None);
        let middle = match self.scale {
            Some(scale) => middle * (scale * self.scaling).unsqueeze(),
            None => middle * self.scaling,
        };
        ops::linear(middle, self.up, None)
    }
}

impl<B: Backend> LowRank<B> {
    /// The change of the weight, every scale folded into `up`.
    pub fn change(self) -> Change<B> {
        let up = match self.scale {
            Some(scale) => self.up * scale.unsqueeze_dim(1),
            None => self.up,
        };
        Change::LowRank { down: self.down, up: up * self.scaling }
    }
}

/// Output of a linear layer without an adapter.
///
/// # Shapes
/// - `x`: `[batch, seq, d_in]`
/// - returns `[batch, seq, d_out]`
pub fn linear<B: LinearOps>(base: &Linear<B>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    ops::linear(x, base.weight.val(), base.bias.as_ref().map(Param::val))
}
