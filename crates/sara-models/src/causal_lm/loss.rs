//! What a language model is trained to make small.

use burn::optim::GradientsParams;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};
use sara_core::{Adapter, LayerAdapter, Pass, Trainable};
use sara_ops::{LayerOps, TrainOps, token_loss};

use super::Batch;
use crate::decoder::{Decoder, Inputs};
use crate::error::Result;
use crate::train::optimizer::accumulate;
use crate::train::{NoHead, Objective, Trained, at_once};

/// The mean loss over the trained tokens of a batch.
#[derive(Debug)]
pub struct CausalLoss<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Decoder<B>,
    /// What is kept for the way back.
    pub kept: Kept,
}

/// What a forward pass keeps for the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kept {
    /// All that the gradients need.
    #[default]
    All,
    /// What goes into each block; the rest is computed again, block by block.
    Blocks,
}

impl<B, A> Objective<B, Trained<B, A, NoHead<B>>> for CausalLoss<'_, B>
where
    B: TrainOps,
    A: Trainable<B>,
{
    type Batch = Batch;

    fn weight(&self, batch: &Batch) -> f64 {
        batch.targets.len() as f64
    }

    fn loss(
        &self,
        trained: &Trained<B, A, NoHead<B>>,
        batch: &Batch,
        pass: &mut Pass<B>,
    ) -> Result<Tensor<B, 1>> {
        let (hidden, targets) = hidden_before(self.model, &trained.adapter, batch, pass)?;
        Ok(mean_loss(self.model, hidden, targets))
    }

    fn gradients(
        &self,
        trained: &Trained<B, A, NoHead<B>>,
        batch: &Batch,
        pass: &mut Pass<B>,
        penalty: &dyn Fn() -> Option<Tensor<B, 1>>,
    ) -> Result<(Tensor<B::InnerBackend, 1>, GradientsParams)> {
        let (loss, mut gradients) = match self.kept {
            Kept::All => at_once(self, trained, batch, pass, &|| None)?,
            Kept::Blocks => self.by_blocks(trained, batch, pass)?,
        };
        // By itself either way, so that both add in one order; and made after the task's graph is gone, since a way back
        // clears more of burn's graphs than its own.
        if let Some(penalty) = penalty() {
            let of_penalty = GradientsParams::from_grads(penalty.backward(), trained);
            accumulate(trained, &mut gradients, of_penalty, 1.0);
        }
        Ok((loss, gradients))
    }
}

impl<B: TrainOps> CausalLoss<'_, B> {
    /// The same gradients with no more than one block's graph at a time.
    fn by_blocks<A: Trainable<B>>(
        &self,
        trained: &Trained<B, A, NoHead<B>>,
        batch: &Batch,
        pass: &mut Pass<B>,
    ) -> Result<(Tensor<B::InnerBackend, 1>, GradientsParams)> {
        let (model, device) = (self.model, self.model.device());
        let inputs = inputs_of(model, batch)?;
        pass.set_tokens(inputs.mask.clone());

        // Forward without a graph, keeping what goes into each block.
        let mut into_blocks = Vec::with_capacity(model.config().n_layers);
        let mut hidden = {
            // On the same backend, whose operations may round otherwise than those of the one below it.
            let (adapter, pass) = (trained.adapter.clone().no_grad(), pass.unrecorded());
            let mut hidden = model.embed(&inputs);
            for layer in 0..model.config().n_layers {
                into_blocks.push(hidden.clone());
                hidden =
                    model.block(hidden, &inputs, &LayerAdapter { adapter: &adapter, pass: &pass, layer });
            }
            hidden.require_grad()
        };

        // The loss, and its gradient by what comes out of the last block.
        let last = before(model.norm(hidden.clone()), batch);
        let task = mean_loss(model, last, list(&batch.targets, &device));
        let loss = task.clone().inner();
        let mut grad = hidden.grad(&task.backward());

        // Back, each block once more with its graph.
        let mut gradients = GradientsParams::new();
        for (layer, into) in into_blocks.into_iter().enumerate().rev() {
            let Some(of_output) = grad.take() else { break };
            hidden = into.require_grad();
            let adapter = LayerAdapter { adapter: &trained.adapter, pass: &*pass, layer };
            let output = model.block(hidden.clone(), &inputs, &adapter);
            let mut of_block = (output * Tensor::from_inner(of_output)).sum().backward();
            grad = hidden.grad_remove(&mut of_block);
            accumulate(trained, &mut gradients, GradientsParams::from_grads(of_block, trained), 1.0);
        }
        Ok((loss, gradients))
    }
}

/// The mean over the targets.
fn mean_loss<B: LayerOps>(
    model: &Decoder<B>,
    hidden: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
) -> Tensor<B, 1> {
    let n = targets.dims()[0].max(1);
    token_loss(hidden, model.output_rows(), targets) / n as f64
}

/// Hidden states from which a token is predicted, `[n, d]`, and these tokens, `[n]`.
pub(super) fn hidden_before<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    batch: &Batch,
    pass: &mut Pass<B>,
) -> Result<(Tensor<B, 2>, Tensor<B, 1, Int>)> {
    let inputs = inputs_of(model, batch)?;
    pass.set_tokens(inputs.mask.clone());
    let hidden = model.forward(&inputs, adapter, pass, None);
    Ok((before(hidden, batch), list(&batch.targets, &model.device())))
}

fn inputs_of<B: LayerOps>(model: &Decoder<B>, batch: &Batch) -> Result<Inputs<B>> {
    let Batch { ids, places, rows, columns, .. } = batch;
    Inputs::new(model.config(), ids.clone(), places, [*rows, *columns], 0, &model.device())
}

/// Of all hidden states, those from which a token is predicted.
fn before<B: LayerOps>(hidden: Tensor<B, 3>, batch: &Batch) -> Tensor<B, 2> {
    let [rows, columns, d] = hidden.dims();
    let from = list(&batch.from, &hidden.device());
    hidden.reshape([rows * columns, d]).select(0, from)
}

fn list<B: Backend>(values: &[i32], device: &B::Device) -> Tensor<B, 1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}
