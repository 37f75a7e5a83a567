//! The encoder's operations as nodes of burn's graph, with the inner backend's own gradients.

use burn::tensor::ops::FloatTensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use super::{AttentionInputs, EncoderOps, stock};

#[derive(Debug)]
struct Gelu;

impl<B: EncoderOps> Backward<B, 1> for Gelu {
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
struct LayerNorm;

impl<B: EncoderOps> Backward<B, 3> for LayerNorm {
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
struct Attention;

impl<B: EncoderOps> Backward<B, 3> for Attention {
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

impl<B: EncoderOps, C: CheckpointStrategy> EncoderOps for Autodiff<B, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu.prepare::<C>([x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x.primitive.clone(), B::fused_gelu(x.primitive)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_gelu(x.primitive)),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node.clone(), gamma.node.clone(), beta.node.clone()];
        let (x, gamma, beta) = (x.primitive, gamma.primitive, beta.primitive);
        match LayerNorm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), gamma.clone(), epsilon);
                prep.finish(state, B::fused_layer_norm(x, gamma, beta, epsilon))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_layer_norm(x, gamma, beta, epsilon)),
        }
    }

    fn fused_attention(inputs: AttentionInputs<Self>) -> FloatTensor<Self> {
        let AttentionInputs { q, k, v, mask, n_heads } = inputs;
        let nodes = [q.node.clone(), k.node.clone(), v.node.clone()];
        let inputs = AttentionInputs::<B> { q: q.primitive, k: k.primitive, v: v.primitive, mask, n_heads };
        match Attention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inputs.clone(), B::fused_attention(inputs)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_attention(inputs)),
        }
    }
}
