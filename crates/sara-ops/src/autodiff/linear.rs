//! The nodes of the linear layers and the sum.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};

use crate::linear::rows;
use crate::{LayerOps, primitive};

/// A tensor of the graph, whose type burn does not name.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// Parents: input and weight, and with `N` = 3 the bias.
#[derive(Debug)]
pub(super) struct Linear;

/// What the gradient of the input needs, and that of the weight, where they are wanted.
#[derive(Debug, Clone)]
pub(super) struct Kept<B: Backend> {
    weight: Option<FloatTensor<B>>,
    x: Option<FloatTensor<B>>,
}

impl<B: Backend> Kept<B> {
    /// For the gradient of each that is tracked, the other.
    pub(super) fn wanted(x: &Tracked<B>, weight: &Tracked<B>) -> Self {
        Self {
            weight: x.is_tracked().then(|| weight.primitive.clone()),
            x: weight.is_tracked().then(|| x.primitive.clone()),
        }
    }
}

impl<B: LayerOps, const N: usize> Backward<B, N> for Linear {
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
            let parent = Tracked::<B> { primitive: grad, rc: Arc::new(parent.id), node: parent };
            add_to::<B>(grads, parent, |grad, known| B::fused_linear_backward(weight, grad, known));
        }
    }
}

/// Parents: input and weight.
#[derive(Debug)]
pub(super) struct BlockLinear;

impl<B: LayerOps> Backward<B, 2> for BlockLinear {
    /// What the gradients need, and the number of blocks.
    type State = (Kept<B>, usize);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (Kept { weight, x }, n_blocks) = ops.state;
        let [of_x, of_weight] = ops.parents;
        if let (Some(parent), Some(x)) = (of_weight, x) {
            let of_weight = B::fused_block_linear_weight_backward(x, grad.clone(), n_blocks);
            grads.register::<B>(parent.id, of_weight);
        }
        if let (Some(parent), Some(weight)) = (of_x, weight) {
            let parent = Tracked::<B> { primitive: grad, rc: Arc::new(parent.id), node: parent };
            add_to::<B>(grads, parent, |grad, known| B::fused_block_linear_backward(weight, grad, known));
        }
    }
}

/// Gives the node of `parent`, any tensor of it, its gradient, which is added to what is known of it: burn would do that
/// in a pass of its own.
fn add_to<B: LayerOps>(
    grads: &mut Gradients,
    parent: Tracked<B>,
    backward: impl FnOnce(FloatTensor<B>, Option<FloatTensor<B>>) -> FloatTensor<B>,
) {
    let known = grads.remove::<B>(&parent);
    let (id, grad) = (parent.node.id, parent.primitive);
    grads.register::<B>(id, backward(grad, known));
}

/// Parents: both terms.
#[derive(Debug)]
pub(super) struct Add;

impl<B: Backend> Backward<B, 2> for Add {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for parent in ops.parents.into_iter().flatten() {
            grads.register::<B>(parent.id, grad.clone());
        }
    }
}
