//! The training loop for texts that go on.

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use sara_core::parameters::{collect_where, restore_where};
use sara_core::{Adapter, Progress, Seed, Trainable};
use sara_ops::TrainOps;

use super::batch::Packing;
use super::evaluate::{evaluate, observe};
use super::{Batch, CausalLoss, Dataset, Kept};
use crate::decoder::Decoder;
use crate::error::Result;
use crate::train::optimizer::Optimizer;
use crate::train::{
    Best, Clock, EvaluationRecord, Journal, NoHead, Options, Outcome, Snapshot, StepOptions, StepRecord,
    Stepped, Timetable, Trained, step as one_step,
};

/// What is trained on, and how.
#[derive(Debug)]
pub struct CausalLm<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Decoder<B>,
    /// The texts to learn from.
    pub train: &'a Dataset,
    /// The texts to choose the best model by.
    pub valid: Option<&'a Dataset>,
    /// How texts share rows.
    pub packing: Packing,
    /// What is kept for the way back.
    pub kept: Kept,
    /// How to train.
    pub options: Options,
}

/// The adapter of a language model.
type Writer<B, A> = Trained<B, A, NoHead<B>>;

/// Trains an adapter beside the frozen model, from the start or from where `resume` stands.
///
/// A step is the mean over all its trained tokens. On flex, call it inside [`sara_ops::threads::awake`].
///
/// # Errors
/// Those of [`step`](crate::train::step()), [`Error::NoExamples`](crate::Error::NoExamples), and what the journal says.
pub fn causal_lm<B, A>(
    task: &CausalLm<'_, B>,
    mut trained: Writer<B, A>,
    resume: Option<Snapshot>,
    journal: &mut impl Journal<Writer<B, A>>,
) -> Result<Outcome<B, A, NoHead<B>>>
where
    B: TrainOps,
    A: Trainable<B>,
{
    let CausalLm { model, train, valid, packing, kept, options } = task;
    let (rows, lengths) = (train.rows(*packing), train.lengths());
    let lengths = rows.iter().map(|row| row.iter().map(|&item| lengths[item]).sum()).collect();
    let mut timetable = Timetable::new(lengths, options)?;
    let mut optimizer = Optimizer::<B>::new(options.optimizer.adamw());
    let (mut step, mut best, mut last) = (0, None::<Best>, None);
    if let Some(snapshot) = resume {
        let from_base = trained.adapter.apart().from_base;
        trained = restore_where(trained, &snapshot.trained, |id| !from_base.contains(&id), "checkpoint")?;
        optimizer.restore(&trained, snapshot.optimizer)?;
        (step, best) = (snapshot.step, snapshot.best);
    }
    let objective = CausalLoss { model, kept: *kept };
    let frozen = model.valid();
    let end = options.stop_after.unwrap_or(usize::MAX).min(timetable.total);
    let mut clock = Clock::default();

    while step < end {
        let items = |row: &usize| rows[*row].iter().map(|&item| &train.items[item]).collect();
        let batch = |batch: &Vec<usize>| Batch::new(&batch.iter().map(items).collect::<Vec<_>>());
        let micro_batches: Vec<Batch> = timetable.micro_batches(step).iter().map(batch).collect();
        let learning_rate = options.optimizer.rate(step, timetable.total);
        let at = StepOptions {
            progress: Progress { step, total: timetable.total },
            learning_rate,
            clip_norm: options.optimizer.clip_norm,
            seed: Seed(options.seed),
        };

        // A single optimizer step: the mean over all its trained tokens, whatever the micro-batches.
        let started = Instant::now();
        let (next, Stepped { loss, gradient_norm, .. }) =
            one_step(&objective, trained, &mut optimizer, &micro_batches, &mut (), &at)?;
        trained = next;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        step += 1;

        // Once in a while: report, evaluate, save.
        let tokens = micro_batches.iter().map(Batch::tokens).sum();
        clock.add(elapsed_ms, tokens);
        let epoch = timetable.epoch(step);
        let record = StepRecord { step, epoch, loss, learning_rate, gradient_norm, tokens, elapsed_ms };
        journal.step(&record, timetable.total)?;
        let ends_epoch = timetable.ends_epoch(step);
        let due = |every: Option<usize>| every.is_some_and(|n| step.is_multiple_of(n));
        if let Some(valid) = *valid
            && (due(options.eval_every)
                || options.eval_every.is_none() && ends_epoch
                || step == timetable.total)
        {
            let evaluated = trained.valid();
            let (metrics, seen) = observe(&frozen, &evaluated.adapter, valid, timetable.batch_size)?;
            let mut figures = evaluated.adapter.report();
            figures.extend(evaluated.adapter.observed(&seen));
            let is_best = best.as_ref().is_none_or(|best| metrics.beats(&best.metrics));
            if is_best {
                best = Some(Best { step, metrics: metrics.clone() });
            }
            let record = EvaluationRecord { step, epoch, valid: metrics.clone(), figures };
            journal.evaluation(&record, is_best.then_some(&trained))?;
            last = Some(metrics);
        }
        if due(options.save_every) || ends_epoch || step == end {
            let from_base = trained.adapter.apart().from_base;
            let trained = collect_where(&trained, |id| !from_base.contains(&id));
            let (optimizer, best) = (optimizer.state(), best.clone());
            journal.snapshot(&Snapshot { step, best, trained, optimizer })?;
        }
    }
    // A run that was cut off between its last step and its end has nothing left to train.
    if let (Some(valid), None) = (*valid, &last)
        && step == timetable.total
    {
        last = Some(evaluate(&frozen, &trained.valid().adapter, valid, timetable.batch_size)?);
    }
    let (step_ms, tokens_per_second) = (clock.median_ms(), clock.tokens_per_second());
    Ok(Outcome { trained, steps: step, best, last, step_ms, tokens_per_second })
}
