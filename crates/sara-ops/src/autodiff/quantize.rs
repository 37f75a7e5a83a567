//! The node of the quantiser.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};

use crate::LayerOps;

/// Parents: what is rounded, and the gates.
#[derive(Debug)]
pub(super) struct Quantize;

/// What the gradient of the gates needs.
#[derive(Debug, Clone)]
pub(super) struct Gates<B: Backend> {
    pub(super) x: FloatTensor<B>,
    pub(super) step: FloatTensor<B>,
    pub(super) open: FloatTensor<B>,
}

impl<B: LayerOps> Backward<B, 2> for Quantize {
    type State = Option<Gates<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [of_x, of_open] = ops.parents;
        if let (Some(parent), Some(Gates { x, step, open })) = (of_open, ops.state) {
            grads.register::<B>(parent.id, B::fused_quantize_open_backward(x, step, open, grad.clone()));
        }
        if let Some(parent) = of_x {
            grads.register::<B>(parent.id, grad);
        }
    }
}
