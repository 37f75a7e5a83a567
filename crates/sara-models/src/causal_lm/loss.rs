//! What a language model is trained to make small.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};
use sara_core::{Adapter, Pass};
use sara_ops::{LayerOps, TrainOps, token_loss};

use super::Batch;
use crate::decoder::{Decoder, Inputs};
use crate::error::Result;
use crate::train::{NoHead, Objective, Trained};

/// The mean loss over the trained tokens of a batch.
#[derive(Debug)]
pub struct CausalLoss<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Decoder<B>,
}

impl<B, A> Objective<B, Trained<B, A, NoHead<B>>> for CausalLoss<'_, B>
where
    B: TrainOps,
    A: Adapter<B>,
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
        let sum = token_loss(hidden, self.model.output_rows(), targets);
        Ok(sum / batch.targets.len().max(1) as f64)
    }
}

/// Hidden states from which a token is predicted, `[n, d]`, and these tokens, `[n]`.
pub(super) fn hidden_before<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    batch: &Batch,
    pass: &mut Pass<B>,
) -> Result<(Tensor<B, 2>, Tensor<B, 1, Int>)> {
    let Batch { ids, places, rows, columns, from, targets } = batch;
    let device = model.device();
    let inputs = Inputs::new(model.config(), ids.clone(), places, [*rows, *columns], 0, &device)?;
    pass.set_tokens(inputs.mask.clone());
    let hidden = model.forward(&inputs, adapter, pass, None);
    let [_, _, d] = hidden.dims();
    let hidden = hidden.reshape([rows * columns, d]).select(0, list(from, &device));
    Ok((hidden, list(targets, &device)))
}

fn list<B: Backend>(values: &[i32], device: &B::Device) -> Tensor<B, 1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}
