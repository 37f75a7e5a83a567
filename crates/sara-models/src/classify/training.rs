//! The training loop for classification and regression of whole texts.

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use sara_core::parameters::{collect, restore};
use sara_core::{Progress, Seed, Trainable};

use crate::classify::evaluate::evaluate;
use crate::classify::{Batch, Dataset};
use crate::encoder::Encoder;
use crate::error::Result;
use crate::ops::EncoderOps;
use crate::train::optimizer::Optimizer;
use crate::train::{
    Best, EvaluationRecord, Journal, Options, Outcome, State, StepOptions, StepRecord, Stepped, Timetable,
    Trained, step as one_step,
};

/// Trains an adapter and a head beside the frozen `model`, from the start or from where `resume` stands.
///
/// On flex, call it inside [`sara_svd::threads::awake`]: else every product wakes the pool and waits for it, which takes
/// some hundredths of a step.
///
/// # Errors
/// Those of [`step`](crate::train::step()), and what the journal says.
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
    B: AutodiffBackend<InnerBackend: EncoderOps> + EncoderOps,
    A: Trainable<B>,
{
    let mut timetable = Timetable::new(train, options);
    let mut optimizer = Optimizer::<B>::new(options.optimizer.adamw()).without_decay(trained.head.biases());
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
        let learning_rate = options.optimizer.rate(step, timetable.total);
        let at = StepOptions {
            progress: Progress { step, total: timetable.total },
            learning_rate,
            clip_norm: options.optimizer.clip_norm,
            seed: Seed(options.seed),
        };

        // A single optimizer step: the mean over all its examples, whatever the micro-batches.
        let started = Instant::now();
        let (next, Stepped { loss, gradient_norm, .. }) =
            one_step(model, trained, &mut optimizer, &micro_batches, &at)?;
        trained = next;
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
