//! The nodes of RMS norm, rotary embedding, `SwiGLU`, causal attention and the loss of tokens.

use burn::tensor::ops::FloatTensor;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};

use crate::decoder::CausalInputs;
use crate::{LayerOps, primitive, tensor};

#[derive(Debug)]
pub(super) struct RmsNorm;

impl<B: LayerOps> Backward<B, 2> for RmsNorm {
    /// Input, gamma, epsilon.
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, gamma] = ops.parents;
        let (x_value, gamma_value, epsilon) = ops.state;
        if let Some(gamma) = gamma {
            let d = B::fused_rms_norm_gamma_backward(x_value.clone(), epsilon, grad.clone());
            grads.register::<B>(gamma.id, d);
        }
        // Last, so that the backend may write over a gradient that nobody else holds any more.
        if let Some(x) = x {
            grads.register::<B>(x.id, B::fused_rms_norm_backward(x_value, gamma_value, epsilon, grad));
        }
    }
}

#[derive(Debug)]
pub(super) struct Rotary;

impl<B: LayerOps> Backward<B, 1> for Rotary {
    /// Cosines, sines.
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([x], (cos, sin)) = (ops.parents, ops.state);
        if let Some(x) = x {
            grads.register::<B>(x.id, B::fused_rotary(grad, cos, B::float_neg(sin)));
        }
    }
}

#[derive(Debug)]
pub(super) struct Swiglu;

impl<B: LayerOps> Backward<B, 2> for Swiglu {
    /// Gate, up.
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let (gate, up) = ops.state;
        let found = B::fused_swiglu_backward(gate, up, grad, wanted);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct SumOfLosses;

impl<B: LayerOps> Backward<B, 1> for SumOfLosses {
    /// The gradient by the hidden states, `[n, d]`.
    type State = Option<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = tensor::<B, 1>(grads.consume::<B>(&ops.node));
        let [hidden] = ops.parents;
        if let (Some(hidden), Some(of_hidden)) = (hidden, ops.state) {
            grads.register::<B>(hidden.id, primitive(tensor::<B, 2>(of_hidden) * grad.unsqueeze()));
        }
    }
}

#[derive(Debug)]
pub(super) struct CausalAttention;

impl<B: LayerOps> Backward<B, 3> for CausalAttention {
    type State = CausalInputs<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = B::fused_causal_attention_backward(ops.state, grad, wanted);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}
