//! One optimizer step: forward, loss and penalty, backward, clip, update, what the method does afterwards.

use burn::module::{AutodiffModule, ModuleDisplay};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sara_core::parameters::without_gradient;
use sara_core::{Noise, Pass, Progress, Seed, Seen, TrainOps, Trainable};

use super::{Processes, Totals, Trained};
use crate::error::{Error, Result};
use crate::train::optimizer::{Optimizer, accumulate, loss_and_norm, scale};

/// What a task asks of a step.
pub trait Objective<B: TrainOps, T: AutodiffModule<B>> {
    /// The examples of a micro-batch.
    type Batch;

    /// What a micro-batch counts in the mean over the step: its rows, or its trained tokens.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// Mean loss of a micro-batch over what its weight counts, `[1]`.
    ///
    /// # Errors
    /// Where the model cannot take the examples.
    fn loss(&self, trained: &T, batch: &Self::Batch, pass: &mut Pass<B>) -> Result<Tensor<B, 1>>;

    /// The same loss, and the gradients of its sum with what `penalty` gives by all that is trained.
    ///
    /// # Errors
    /// As [`Self::loss`].
    fn gradients(
        &self,
        trained: &T,
        batch: &Self::Batch,
        pass: &mut Pass<B>,
        penalty: &dyn Fn() -> Option<Tensor<B, 1>>,
    ) -> Result<(Tensor<B::InnerBackend, 1>, GradientsParams)> {
        at_once(self, trained, batch, pass, penalty)
    }
}

/// The gradients of an objective, all through one graph.
///
/// # Errors
/// As [`Objective::loss`].
pub fn at_once<B: TrainOps, T: AutodiffModule<B>, O: Objective<B, T> + ?Sized>(
    objective: &O,
    trained: &T,
    batch: &O::Batch,
    pass: &mut Pass<B>,
    penalty: &dyn Fn() -> Option<Tensor<B, 1>>,
) -> Result<(Tensor<B::InnerBackend, 1>, GradientsParams)> {
    let task = objective.loss(trained, batch, pass)?;
    let loss = task.clone().inner();
    let whole = match penalty() {
        Some(penalty) => task + penalty,
        None => task,
    };
    Ok((loss, GradientsParams::from_grads(whole.backward(), trained)))
}

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

/// Trains on the weighted mean over all `micro_batches`, whatever their sizes; the device is read once.
///
/// # Errors
/// [`Error::NoExamples`] without a micro-batch, [`Error::NoGradient`] if a trained parameter got no gradient in the
/// first step, [`Error::NotFinite`] where the loss or the gradients are not finite, and those of the objective.
pub fn step<B, A, H, O>(
    objective: &O,
    mut trained: Trained<B, A, H>,
    optimizer: &mut Optimizer<B>,
    micro_batches: &[O::Batch],
    processes: &mut impl Processes<B>,
    options: &StepOptions,
) -> Result<(Trained<B, A, H>, Stepped)>
where
    B: TrainOps,
    A: Trainable<B>,
    H: AutodiffModule<B, InnerModule: ModuleDisplay> + ModuleDisplay,
    O: Objective<B, Trained<B, A, H>>,
{
    let StepOptions { progress, learning_rate, clip_norm, seed } = *options;
    let weight: f64 = micro_batches.iter().map(|batch| objective.weight(batch)).sum();
    let (mut gradients, mut seen, mut loss) = (GradientsParams::new(), Seen::default(), None);
    for (micro_batch, batch) in micro_batches.iter().enumerate() {
        let pass = Pass::training(Noise { seed, step: progress.step, micro_batch });
        let mut pass = if trained.adapter.records() { pass.recording() } else { pass };
        let penalty = || trained.adapter.penalty(progress);
        let (of_task, of_batch) = objective.gradients(&trained, batch, &mut pass, &penalty)?;
        let share = objective.weight(batch) / weight;
        let part = of_task * share;
        loss = Some(loss.map_or(part.clone(), |sum| sum + part));
        accumulate(&trained, &mut gradients, of_batch, share);
        seen.merge(pass.into_seen().inner());
    }
    if progress.step == 0 {
        let paths = without_gradient(&trained, &gradients);
        if !paths.is_empty() {
            return Err(Error::NoGradient { paths });
        }
    }
    let loss = loss.ok_or(Error::NoExamples)?;
    let Totals { mut gradients, loss, seen, .. } =
        processes.combine(Totals { gradients, loss, weight, seen })?;
    let (loss, gradient_norm) = loss_and_norm(&trained, loss, &gradients);
    if !(loss.is_finite() && gradient_norm.is_finite()) {
        return Err(Error::NotFinite { step: progress.step + 1, loss, gradient_norm, learning_rate });
    }
    scale(&trained, &mut gradients, clip_norm, gradient_norm);
    trained = optimizer.step(learning_rate, trained, &gradients);
    trained.adapter = trained.adapter.after_step(&gradients, &seen, progress);
    Ok((trained, Stepped { loss, gradient_norm, gradients }))
}
