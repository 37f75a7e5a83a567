//! The training loop, whatever the task.

use std::num::NonZeroUsize;
use std::time::Instant;

use burn::module::{AutodiffModule, ModuleDisplay};
use sara_core::parameters::{collect_where, restore_where};
use sara_core::{Adapter, Progress, Seed, Seen, Trainable};
use sara_ops::TrainOps;

use super::metrics::Metrics;
use super::optimizer::{Group, Optimizer};
use super::{
    Best, Clock, EvaluationRecord, Journal, Objective, Options, Outcome, Snapshot, StepOptions, StepRecord,
    Stepped, Timetable, Trained, step as one_step,
};
use crate::error::Result;

/// A frozen model with the examples to learn from and to be measured by: what the loop asks of a task.
pub trait Course<B, A, H>
where
    B: TrainOps,
    A: Trainable<B>,
    H: AutodiffModule<B, InnerModule: ModuleDisplay> + ModuleDisplay,
{
    /// The examples of a micro-batch.
    type Batch;

    /// What is made small.
    type Objective: Objective<B, Trained<B, A, H>, Batch = Self::Batch>;

    /// The one of this model.
    fn objective(&self) -> &Self::Objective;

    /// Tokens of each row that a batch may have.
    fn lengths(&self) -> Vec<usize>;

    /// The micro-batch of these rows.
    fn batch(&self, rows: &[usize]) -> Self::Batch;

    /// Tokens of a micro-batch that count.
    fn tokens(&self, batch: &Self::Batch) -> usize;

    /// Parameters with a rate or a decay of their own.
    fn groups(&self, trained: &Trained<B, A, H>) -> Vec<Group> {
        let _ = trained;
        Vec::new()
    }

    /// How good it is, and what the adapter recorded on the way; `None` where there is nothing to measure by.
    ///
    /// # Errors
    /// What evaluation said.
    fn measure(&self, trained: &Inner<B, A, H>, batch_size: NonZeroUsize) -> Result<Option<Measured<B>>>;
}

/// What is trained, without gradients.
pub type Inner<B, A, H> = <Trained<B, A, H> as AutodiffModule<B>>::InnerModule;

/// Metrics, and what the adapter recorded.
pub type Measured<B> = (Metrics, Seen<<B as burn::tensor::backend::AutodiffBackend>::InnerBackend>);

/// Trains from the start or from where `resume` stands.
///
/// On flex, call it inside [`sara_ops::threads::awake`]: else every product wakes the pool and waits for it, which takes
/// some hundredths of a step.
///
/// # Errors
/// Those of [`step`](crate::train::step()), [`Error::NoExamples`](crate::Error::NoExamples), those of the course, and what
/// the journal says.
pub fn fit<B, A, H, C>(
    course: &C,
    options: &Options,
    mut trained: Trained<B, A, H>,
    resume: Option<Snapshot>,
    journal: &mut impl Journal<Trained<B, A, H>>,
) -> Result<Outcome<B, A, H>>
where
    B: TrainOps,
    A: Trainable<B>,
    H: AutodiffModule<B, InnerModule: ModuleDisplay> + ModuleDisplay,
    C: Course<B, A, H>,
{
    let mut timetable = Timetable::new(course.lengths(), options)?;
    let mut optimizer = Optimizer::<B>::new(options.optimizer.adamw()).with_groups(course.groups(&trained));
    let (mut step, mut best, mut last) = (0, None::<Best>, None);
    if let Some(snapshot) = resume {
        let from_base = trained.adapter.apart().from_base;
        trained = restore_where(trained, &snapshot.trained, |id| !from_base.contains(&id), "checkpoint")?;
        optimizer.restore(&trained, snapshot.optimizer)?;
        (step, best) = (snapshot.step, snapshot.best);
    }
    let end = options.stop_after.unwrap_or(usize::MAX).min(timetable.total);
    let mut clock = Clock::default();

    while step < end {
        let micro_batches: Vec<_> =
            timetable.micro_batches(step).iter().map(|rows| course.batch(rows)).collect();
        let learning_rate = options.optimizer.rate(step, timetable.total);
        let at = StepOptions {
            progress: Progress { step, total: timetable.total },
            learning_rate,
            clip_norm: options.optimizer.clip_norm,
            seed: Seed(options.seed),
        };

        // A single optimizer step: the mean over all that it counts, whatever the micro-batches.
        let started = Instant::now();
        let (next, Stepped { loss, gradient_norm, .. }) =
            one_step(course.objective(), trained, &mut optimizer, &micro_batches, &mut (), &at)?;
        trained = next;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        step += 1;

        // Once in a while: report, evaluate, save.
        let tokens = micro_batches.iter().map(|batch| course.tokens(batch)).sum();
        clock.add(elapsed_ms, tokens);
        let epoch = timetable.epoch(step);
        let record = StepRecord { step, epoch, loss, learning_rate, gradient_norm, tokens, elapsed_ms };
        journal.step(&record, timetable.total)?;
        let ends_epoch = timetable.ends_epoch(step);
        let due = |every: Option<usize>| every.is_some_and(|n| step.is_multiple_of(n));
        if due(options.eval_every) || options.eval_every.is_none() && ends_epoch || step == timetable.total {
            let evaluated = trained.valid();
            if let Some((metrics, seen)) = course.measure(&evaluated, timetable.batch_size)? {
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
        }
        if due(options.save_every) || ends_epoch || step == end {
            let from_base = trained.adapter.apart().from_base;
            let trained = collect_where(&trained, |id| !from_base.contains(&id));
            let (optimizer, best) = (optimizer.state(), best.clone());
            journal.snapshot(&Snapshot { step, best, trained, optimizer })?;
        }
    }
    // A run that was cut off between its last step and its end has nothing left to train.
    if last.is_none() && step == timetable.total {
        last = course.measure(&trained.valid(), timetable.batch_size)?.map(|(metrics, _)| metrics);
    }
    let (step_ms, tokens_per_second) = (clock.median_ms(), clock.tokens_per_second());
    Ok(Outcome { trained, steps: step, best, last, step_ms, tokens_per_second })
}
