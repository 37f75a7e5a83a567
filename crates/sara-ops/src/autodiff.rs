//! Every operation as one node of burn's graph, with the inner backend's own gradients, which keeps no more than the
//! gradients that are wanted need.

mod block;
mod decoder;
mod linear;
mod quantize;

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};
use burn::tensor::{FloatDType, TensorMetadata};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::ops::{Backward, OpsKind};

use self::block::{Attention, Gelu, LayerNorm};
use self::decoder::{CausalAttention, RmsNorm, Rotary, SumOfLosses, Swiglu};
use self::linear::{Add, BlockLinear, Kept, Linear};
use self::quantize::{Gates, Quantize};
use crate::packed::{is_packed, stock_table_rows};
use crate::token_loss::{TokenLoss, Wanted};
use crate::{AttentionInputs, CausalInputs, LayerOps, Packed};

impl<B: LayerOps, C: CheckpointStrategy> LayerOps for Autodiff<B, C> {
    const BIT_FOR_BIT: bool = B::BIT_FOR_BIT;
    const NARROW_WEIGHTS: bool = B::NARROW_WEIGHTS;
    const PACKED_WEIGHTS: bool = B::PACKED_WEIGHTS;

    fn packed_table(packed: Packed, device: &Self::Device) -> FloatTensor<Self> {
        Self::from_inner(B::packed_table(packed, device))
    }

    fn packed_weight(packed: Packed, device: &Self::Device) -> FloatTensor<Self> {
        Self::from_inner(B::packed_weight(packed, device))
    }

    fn widened(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if is_packed(weight.dtype()) {
            // Frozen: no gradient goes there.
            return Self::from_inner(B::widened(weight.primitive));
        }
        Self::float_cast(weight, FloatDType::F32)
    }

    fn fused_table_rows(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        if is_packed(table.dtype()) {
            return Self::from_inner(B::fused_table_rows(table.primitive, ids));
        }
        stock_table_rows::<Self>(table, ids)
    }

    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        let kept = Kept::wanted(&x, &weight);
        let [x_node, weight_node] = [x.node.clone(), weight.node.clone()];
        if let Some(bias) = bias {
            let op = Linear.prepare::<C>([x_node, weight_node, bias.node.clone()]).compute_bound().stateful();
            return finish(op, kept, B::fused_linear(x.primitive, weight.primitive, Some(bias.primitive)));
        }
        let op = Linear.prepare::<C>([x_node, weight_node]).compute_bound().stateful();
        finish(op, kept, B::fused_linear(x.primitive, weight.primitive, None))
    }

    fn fused_block_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (kept, n_blocks) = (Kept::wanted(&x, &weight), weight.primitive.shape()[0]);
        let nodes = [x.node.clone(), weight.node.clone()];
        let op = BlockLinear.prepare::<C>(nodes).compute_bound().stateful();
        finish(op, (kept, n_blocks), B::fused_block_linear(x.primitive, weight.primitive))
    }

    fn fused_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let op = Add.prepare::<C>([a.node.clone(), b.node.clone()]).compute_bound().stateful();
        finish(op, (), B::fused_add(a.primitive, b.primitive))
    }

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

    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let op = RmsNorm.prepare::<C>([x.node.clone(), gamma.node.clone()]).compute_bound().stateful();
        let (x, gamma) = (x.primitive, gamma.primitive);
        match op {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), gamma.clone(), epsilon);
                prep.finish(state, B::fused_rms_norm(x, gamma, epsilon))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_rms_norm(x, gamma, epsilon)),
        }
    }

    fn fused_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let op = Rotary.prepare::<C>([x.node.clone()]).compute_bound().stateful();
        let (cos, sin) = (cos.primitive, sin.primitive);
        finish(op, (cos.clone(), sin.clone()), B::fused_rotary(x.primitive, cos, sin))
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let op = Swiglu.prepare::<C>([gate.node.clone(), up.node.clone()]).compute_bound().stateful();
        let (gate, up) = (gate.primitive, up.primitive);
        match op {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone()), B::fused_swiglu(gate, up)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_swiglu(gate, up)),
        }
    }

    fn fused_causal_attention(inputs: CausalInputs<Self>) -> FloatTensor<Self> {
        let CausalInputs { q, k, v, first, n_heads, n_kv_heads } = inputs;
        let nodes = [q.node.clone(), k.node.clone(), v.node.clone()];
        let (q, k, v) = (q.primitive, k.primitive, v.primitive);
        let inputs = CausalInputs::<B> { q, k, v, first, n_heads, n_kv_heads };
        match CausalAttention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inputs.clone(), B::fused_causal_attention(inputs)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_causal_attention(inputs)),
        }
    }

    fn fused_token_loss(
        hidden: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        targets: IntTensor<Self>,
        _wanted: Wanted,
    ) -> TokenLoss<Self> {
        let op = SumOfLosses.prepare::<C>([hidden.node.clone()]).compute_bound().stateful();
        let wanted = if hidden.is_tracked() { Wanted::Gradient } else { Wanted::Loss };
        let TokenLoss { loss, gradient } =
            B::fused_token_loss(hidden.primitive, rows.primitive, targets, wanted);
        TokenLoss { loss: finish(op, gradient, loss), gradient: None }
    }

    fn fused_quantize(
        x: FloatTensor<Self>,
        step: FloatTensor<Self>,
        open: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let op = Quantize.prepare::<C>([x.node.clone(), open.node.clone()]).compute_bound().stateful();
        let kept = open.is_tracked().then(|| Gates::<B> {
            x: x.primitive.clone(),
            step: step.primitive.clone(),
            open: open.primitive.clone(),
        });
        finish(op, kept, B::fused_quantize(x.primitive, step.primitive, open.primitive))
    }
}

fn finish<B: LayerOps, C: CheckpointStrategy, O: Backward<B, N>, const N: usize>(
    op: OpsKind<O, B, O::State, C, N>,
    kept: O::State,
    y: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match op {
        OpsKind::Tracked(prep) => prep.finish(kept, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
