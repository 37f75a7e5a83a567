//! The nodes of GELU, layer norm and attention.

use burn::tensor::ops::FloatTensor;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};

use crate::LayerOps;
use crate::block::{AttentionInputs, stock};

#[derive(Debug)]
pub(super) struct Gelu;

impl<B: LayerOps> Backward<B, 1> for Gelu {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x] = ops.parents;
        if let Some(x) = x {
            grads.register::<B>(x.id, B::fused_gelu_backward(ops.state, grad));
        }
    }
}

#[derive(Debug)]
pub(super) struct LayerNorm;

impl<B: LayerOps> Backward<B, 3> for LayerNorm {
    /// Input, gamma, epsilon.
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, gamma, beta] = ops.parents;
        let (x_value, gamma_value, epsilon) = ops.state;
        if let Some(beta) = beta {
            grads.register::<B>(beta.id, stock::sum_rows::<B>(grad.clone()));
        }
        if let Some(gamma) = gamma {
            let d = B::fused_layer_norm_gamma_backward(x_value.clone(), epsilon, grad.clone());
            grads.register::<B>(gamma.id, d);
        }
        // Last, so that the backend may write over a gradient that nobody else holds any more.
        if let Some(x) = x {
            grads.register::<B>(x.id, B::fused_layer_norm_backward(x_value, gamma_value, epsilon, grad));
        }
    }
}

#[derive(Debug)]
pub(super) struct Attention;

impl<B: LayerOps> Backward<B, 3> for Attention {
    type State = AttentionInputs<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = B::fused_attention_backward(ops.state, grad, wanted);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}
