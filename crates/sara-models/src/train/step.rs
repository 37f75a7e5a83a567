//! One optimizer step: forward, loss and penalty, backward, clip, update, what the method does afterwards.

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};
use sara_core::parameters::without_gradient;
use sara_core::{Pass, Progress, Seed, Seen, Trainable};

use super::Trained;
use crate::classify::Batch;
use crate::encoder::{Encoder, Inputs};
use crate::error::{Error, Result};
use crate::ops::EncoderOps;
use crate::train::optimizer::{Optimizer, accumulate, clip_by_global_norm};

/// What a step depends on beside its examples and the values it starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOptions {
    /// Where training stands.
    pub progress: Progress,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Largest norm of all gradients together.
    pub clip_norm: f64,
    /// Seed of the run's noise.
    pub seed: Seed,
}

/// What a step was like.
#[derive(Debug)]
pub struct Stepped {
    /// Mean loss of the task over the step's examples, without the method's penalty.
    pub loss: f64,
    /// L2 norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// The gradients that the optimizer saw, clipped.
    pub gradients: GradientsParams,
}

/// Trains on the mean over all examples of `micro_batches`, whatever their sizes.
///
/// # Errors
/// [`Error::NoGradient`] if a trained parameter got no gradient in the first step, [`Error::NotFinite`] where the loss
/// or the gradients are not finite, [`Error::Input`] where the tokens are not this model's.
pub fn step<B, A>(
    model: &Encoder<B>,
    mut trained: Trained<B, A>,
    optimizer: &mut Optimizer<B>,
    micro_batches: &[Batch],
    options: &StepOptions,
) -> Result<(Trained<B, A>, Stepped)>
where
    B: AutodiffBackend<InnerBackend: EncoderOps> + EncoderOps,
    A: Trainable<B>,
{
    let StepOptions { progress, learning_rate, clip_norm, seed } = *options;
    let device = model.device();
    let rows: usize = micro_batches.iter().map(|batch| batch.rows).sum();
    let mut gradients = GradientsParams::new();
    let mut seen = Seen::default();
    let mut loss = 0.0;
    for (index, batch) in micro_batches.iter().enumerate() {
        // Noise depends on the position in the run alone, so that a resumed run draws the same.
        B::seed(&device, seed.of_step(progress.step, index));
        let inputs = Inputs::of_batch(model.config(), batch.clone(), &device)?;
        let pass = Pass::training(inputs.mask.clone());
        let pass = if trained.adapter.records_inputs() { pass.recording() } else { pass };
        let hidden = model.first_token(&inputs, &trained.adapter, &pass);
        let task = loss_of(trained.head.forward(hidden, &pass), batch);
        let share = batch.rows as f64 / rows as f64;
        loss += share * f64::from(task.clone().into_data().iter::<f32>().sum::<f32>());
        let objective = match trained.adapter.penalty(progress) {
            Some(penalty) => task + penalty,
            None => task,
        };
        let of_batch = GradientsParams::from_grads(objective.backward(), &trained);
        accumulate(&trained, &mut gradients, of_batch, share);
        seen.merge(pass.into_seen());
    }
    if progress.step == 0 {
        let paths = without_gradient(&trained, &gradients);
        if !paths.is_empty() {
            return Err(Error::NoGradient { paths });
        }
    }
    let gradient_norm = clip_by_global_norm(&trained, &mut gradients, Some(clip_norm));
    if !(loss.is_finite() && gradient_norm.is_finite()) {
        return Err(Error::NotFinite { step: progress.step + 1, loss, gradient_norm, learning_rate });
    }
    trained = optimizer.step(learning_rate, trained, &gradients);
    trained.adapter = trained.adapter.after_step(&gradients, &seen, progress);
    Ok((trained, Stepped { loss, gradient_norm, gradients }))
}

/// Mean loss of a batch, `[1]`: cross entropy of classes, or squared error of a single value.
///
/// # Shapes
/// - `logits`: `[rows, n_labels]`
fn loss_of<B: AutodiffBackend>(logits: Tensor<B, 2>, batch: &Batch) -> Tensor<B, 1> {
    let device = logits.device();
    let rows = batch.rows;
    let losses = if batch.classes.is_empty() {
        let values = Tensor::<B, 2>::from_data(TensorData::new(batch.values.clone(), [rows, 1]), &device);
        (logits - values).powi_scalar(2)
    } else {
        let classes = TensorData::new(batch.classes.clone(), [rows, 1]);
        log_softmax(logits, 1).gather(1, Tensor::<B, 2, Int>::from_data(classes, &device)).neg()
    };
    (losses.sum_dim(0) / rows as f64).reshape([1])
}
