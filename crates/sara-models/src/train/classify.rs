//! The training loop for classification and regression of whole texts.

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};
use sara_core::parameters::{collect, restore, without_gradient};
use sara_core::{Pass, Progress, Seed, Seen, Trainable};

use super::{Best, EvaluationRecord, Journal, Options, Outcome, State, StepRecord, Timetable, Trained};
use crate::data::{Batch, Dataset};
use crate::encoder::{Encoder, Inputs};
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::ops::EncoderOps;
use crate::optimizer::{Optimizer, accumulate, clip_by_global_norm};

/// Trains an adapter and a head beside the frozen `model`, from the start or from where `resume` stands.
///
/// # Errors
/// [`Error::NoGradient`] if a trained parameter got no gradient in the first step, [`Error::NotFinite`] as soon as
/// the loss or the gradients are not finite, and what the journal says.
pub fn classify<B, A>(
    model: &Encoder<B>,
    mut trained: Trained<B, A>,
    train: &Dataset,
    valid: Option<&Dataset>,
    options: &Options,
    resume: Option<State>,
    journal: &mut impl Journal<B, A>,
) -> Result<Outcome<B, A>>
where
    B: AutodiffBackend + EncoderOps,
    B::InnerBackend: EncoderOps,
    A: Trainable<B>,
{
    let device = model.device();
    let seed = Seed(options.seed);
    let mut timetable = Timetable::new(train, options);
    let mut optimizer = Optimizer::<B>::new(options.optimizer.adamw());
    let (mut step, mut best, mut last) = (0, None::<Best>, None);
    if let Some(state) = resume {
        trained = restore(trained, &state.trained, "checkpoint")?;
        optimizer.restore(&trained, state.optimizer)?;
        (step, best) = (state.step, state.best);
    }
    let frozen = model.valid();
    let end = options.stop_after.unwrap_or(usize::MAX).min(timetable.total);
    let mut clock = Clock::default();

    while step < end {
        let micro_batches: Vec<Batch> =
            timetable.micro_batches(step).iter().map(|rows| train.batch(rows, model.pad_id())).collect();
        let rows: usize = micro_batches.iter().map(|batch| batch.rows).sum();
        let progress = Progress { step, total: timetable.total };
        let learning_rate = options.optimizer.rate(step, timetable.total);

        // A single optimizer step: the mean over all its examples, whatever the micro-batches.
        let started = Instant::now();
        let mut grads = GradientsParams::new();
        let mut seen = Seen::default();
        let mut loss = 0.0;
        for (index, batch) in micro_batches.iter().enumerate() {
            // Noise depends on the position in the run alone, so that a resumed run draws the same.
            B::seed(&device, seed.of_step(step, index));
            let inputs = Inputs::of_batch(model.config(), batch.clone(), &device)?;
            let pass = Pass::training(inputs.mask.clone());
            let hidden = model.forward(&inputs, &trained.adapter, &pass);
            let task = loss_of(trained.head.forward(hidden, &pass), batch);
            let share = batch.rows as f64 / rows as f64;
            loss += share * f64::from(task.clone().into_data().iter::<f32>().sum::<f32>());
            let objective = match trained.adapter.penalty(progress) {
                Some(penalty) => task + penalty,
                None => task,
            };
            let of_batch = GradientsParams::from_grads(objective.backward(), &trained);
            accumulate(&trained, &mut grads, of_batch, share);
            seen.merge(pass.into_seen());
        }
        if step == 0 {
            let paths = without_gradient(&trained, &grads);
            if !paths.is_empty() {
                return Err(Error::NoGradient { paths });
            }
        }
        let gradient_norm = clip_by_global_norm(&trained, &mut grads, Some(options.optimizer.clip_norm));
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(Error::NotFinite { step: step + 1, loss, gradient_norm, learning_rate });
        }
        trained = optimizer.step(learning_rate, trained, &grads);
        trained.adapter = trained.adapter.after_step(&grads, &seen, progress);
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        step += 1;

        // Once in a while: report, evaluate, save.
        let tokens = micro_batches.iter().flat_map(|batch| &batch.mask).filter(|&&counts| counts).count();
        clock.add(elapsed_ms, tokens);
        let epoch = timetable.epoch(step);
        let record = StepRecord { step, epoch, loss, learning_rate, gradient_norm, tokens, elapsed_ms };
        journal.step(&record, timetable.total)?;
        let ends_epoch = timetable.ends_epoch(step);
        let due = |every: Option<usize>| every.is_some_and(|n| step.is_multiple_of(n));
        if let Some(valid) = valid
            && (due(options.eval_every)
                || options.eval_every.is_none() && ends_epoch
                || step == timetable.total)
        {
            let metrics = evaluate(&frozen, &trained.valid(), valid, timetable.batch_size)?;
            let figures = trained.adapter.report();
            let is_best = best.as_ref().is_none_or(|best| metrics.beats(&best.metrics));
            if is_best {
                best = Some(Best { step, metrics: metrics.clone() });
            }
            let record = EvaluationRecord { step, epoch, valid: metrics.clone(), figures };
            journal.evaluation(&record, is_best.then_some(&trained))?;
            last = Some(metrics);
        }
        if due(options.save_every) || ends_epoch || step == end {
            let (trained, optimizer, best) = (collect(&trained), optimizer.state(), best.clone());
            journal.checkpoint(&State { step, best, trained, optimizer })?;
        }
    }
    let (step_ms, tokens_per_second) = (clock.median_ms(), clock.tokens_per_second());
    Ok(Outcome { trained, steps: step, best, last, step_ms, tokens_per_second })
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

/// Times of the steps of this process.
#[derive(Debug, Default)]
struct Clock {
    times_ms: Vec<f64>,
    tokens: usize,
}

impl Clock {
    fn add(&mut self, elapsed_ms: f64, tokens: usize) {
        self.times_ms.push(elapsed_ms);
        self.tokens += tokens;
    }

    fn median_ms(&self) -> f64 {
        let mut times = self.times_ms.clone();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(0.0)
    }

    fn tokens_per_second(&self) -> f64 {
        let seconds = self.times_ms.iter().sum::<f64>() / 1e3;
        if seconds > 0.0 { self.tokens as f64 / seconds } else { 0.0 }
    }
}
