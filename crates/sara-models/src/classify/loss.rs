//! What a classifier is trained to make small.

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};
use sara_core::{Pass, Trainable};
use sara_ops::TrainOps;

use super::Batch;
use crate::encoder::head::Head;
use crate::encoder::{Encoder, Inputs};
use crate::error::Result;
use crate::train::{Objective, Trained};

/// The mean loss over the examples of a batch, of a head on the first token of `model`.
#[derive(Debug)]
pub struct ClassifyLoss<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Encoder<B>,
}

impl<B, A> Objective<B, Trained<B, A, Head<B>>> for ClassifyLoss<'_, B>
where
    B: TrainOps,
    A: Trainable<B>,
{
    type Batch = Batch;

    fn weight(&self, batch: &Batch) -> f64 {
        batch.rows as f64
    }

    fn loss(
        &self,
        trained: &Trained<B, A, Head<B>>,
        batch: &Batch,
        pass: &mut Pass<B>,
    ) -> Result<Tensor<B, 1>> {
        let inputs = Inputs::of_batch(self.model.config(), batch.clone(), &self.model.device())?;
        pass.set_tokens(inputs.mask.clone());
        let hidden = self.model.first_token(&inputs, &trained.adapter, pass);
        Ok(loss_of(trained.head.forward(hidden, pass), batch))
    }
}

/// Mean loss of a batch, `[1]`: cross entropy of classes; squared error of values, or binary cross entropy of flags, each
/// the mean over all outputs, as transformers has them.
///
/// # Shapes
/// - `logits`: `[rows, n_labels]`
fn loss_of<B: AutodiffBackend>(logits: Tensor<B, 2>, batch: &Batch) -> Tensor<B, 1> {
    let device = logits.device();
    let rows = batch.rows;
    let [_, outputs] = logits.dims();
    let targets = |values: &[f32]| {
        Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), [rows, outputs]), &device)
    };
    let (losses, parts) = if !batch.flags.is_empty() {
        // max(x, 0) - x t + ln(1 + exp(-|x|)), which does not overflow.
        let flags = targets(&batch.flags);
        let tail = logits.clone().abs().neg().exp().add_scalar(1.0).log();
        (logits.clone().clamp_min(0.0) - logits * flags + tail, outputs)
    } else if batch.classes.is_empty() {
        ((logits - targets(&batch.values)).powi_scalar(2), outputs)
    } else {
        let classes = TensorData::new(batch.classes.clone(), [rows, 1]);
        (log_softmax(logits, 1).gather(1, Tensor::<B, 2, Int>::from_data(classes, &device)).neg(), 1)
    };
    (losses.sum_dim(0).sum_dim(1) / (rows * parts) as f64).reshape([1])
}
