//! The linear layer and the sum, each as one node of burn's graph, which keeps no more than the gradients that are
//! wanted need.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use super::{LinearOps, primitive, rows};

/// A tensor of the graph, whose type burn does not name.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// Parents: input and weight, and with `N` = 3 the bias.
#[derive(Debug)]
struct Linear;

/// What the gradient of the input needs, and that of the weight, where they are wanted.
#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    weight: Option<FloatTensor<B>>,
    x: Option<FloatTensor<B>>,
}

impl<B: LinearOps, const N: usize> Backward<B, N> for Linear {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Kept { weight, x } = ops.state;
        let mut parents = ops.parents.into_iter();
        let [of_x, of_weight, of_bias] = std::array::from_fn(|_| parents.next().flatten());
        if let Some(bias) = of_bias {
            let rows = rows::<B>(grad.clone());
            let d_out = rows.dims()[1];
            grads.register::<B>(bias.id, primitive(rows.sum_dim(0).reshape([d_out])));
        }
        if let (Some(parent), Some(x)) = (of_weight, x) {
            grads.register::<B>(parent.id, B::fused_linear_weight_backward(x, grad.clone()));
        }
        if let (Some(parent), Some(weight)) = (of_x, weight) {
            // What burn would add in a pass of its own. It asks for a node by a tensor of it, any tensor.
            let asked =
                Tracked::<B> { primitive: grad.clone(), rc: Arc::new(parent.id), node: parent.clone() };
            let known = grads.remove::<B>(&asked);
            drop(asked);
            grads.register::<B>(parent.id, B::fused_linear_backward(weight, grad, known));
        }
    }
}

/// Parents: both terms.
#[derive(Debug)]
struct Add;

impl<B: Backend> Backward<B, 2> for Add {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for parent in ops.parents.into_iter().flatten() {
            grads.register::<B>(parent.id, grad.clone());
        }
    }
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    const BIT_FOR_BIT: bool = B::BIT_FOR_BIT;

    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        let kept = Kept::<B> {
            weight: x.is_tracked().then(|| weight.primitive.clone()),
            x: weight.is_tracked().then(|| x.primitive.clone()),
        };
        let [x_node, weight_node] = [x.node.clone(), weight.node.clone()];
        if let Some(bias) = bias {
            let op = Linear.prepare::<C>([x_node, weight_node, bias.node.clone()]).compute_bound().stateful();
            return finish(op, kept, B::fused_linear(x.primitive, weight.primitive, Some(bias.primitive)));
        }
        let op = Linear.prepare::<C>([x_node, weight_node]).compute_bound().stateful();
        finish(op, kept, B::fused_linear(x.primitive, weight.primitive, None))
    }

    fn fused_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let op = Add.prepare::<C>([a.node.clone(), b.node.clone()]).compute_bound().stateful();
        finish(op, (), B::fused_add(a.primitive, b.primitive))
    }
}

fn finish<B: LinearOps, C: CheckpointStrategy, O: Backward<B, N>, const N: usize>(
    op: OpsKind<O, B, O::State, C, N>,
    kept: O::State,
    y: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match op {
        OpsKind::Tracked(prep) => prep.finish(kept, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
