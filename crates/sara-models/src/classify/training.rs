//! The training loop for classification and regression of whole texts.

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use sara_core::parameters::{collect_where, restore_where};
use sara_core::{Adapter, Progress, Seed, Trainable};
use sara_ops::TrainOps;

use super::loss::ClassifyLoss;
use crate::classify::evaluate::{evaluate, observe};
use crate::classify::{Batch, Dataset};
use crate::encoder::Encoder;
use crate::encoder::head::Head;
use crate::error::Result;
use crate::train::optimizer::{Group, Optimizer};
use crate::train::{
    Best, Clock, EvaluationRecord, Journal, Options, Outcome, Snapshot, StepOptions, StepRecord, Stepped,
    Timetable, Trained, step as one_step,
};

/// What is trained on, and how.
#[derive(Debug)]
pub struct Classify<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Encoder<B>,
    /// The examples to learn from.
    pub train: &'a Dataset,
    /// The examples to choose the best model by.
    pub valid: Option<&'a Dataset>,
    /// How to train.
    pub options: Options,
}

/// Adapter and head of a classifier.
type Classifier<B, A> = Trained<B, A, Head<B>>;

/// Trains an adapter and a head beside the frozen model, from the start or from where `resume` stands.
///
/// On flex, call it inside [`sara_ops::threads::awake`]: else every product wakes the pool and waits for it, which takes
/// some hundredths of a step.
///
/// # Errors
/// Those of [`step`](crate::train::step()), [`Error::NoExamples`](crate::Error::NoExamples) and
/// [`Error::NoTargets`](crate::Error::NoTargets) for data that nothing can be learned from, and what the journal says.
pub fn classify<B, A>(
    task: &Classify<'_, B>,
    mut trained: Classifier<B, A>,
    resume: Option<Snapshot>,
    journal: &mut impl Journal<Classifier<B, A>>,
) -> Result<Outcome<B, A, Head<B>>>
where
    B: TrainOps,
    A: Trainable<B>,
{
    let Classify { model, train, valid, options } = task;
    let n_labels = trained.head.n_labels();
    train.check_targets(n_labels)?;
    valid.map_or(Ok(()), |valid| valid.check_targets(n_labels))?;
    let mut timetable = Timetable::new(train.lengths(), options)?;
    let mut optimizer =
        Optimizer::<B>::new(options.optimizer.adamw()).with_groups(groups(&trained.head, options));
    let (mut step, mut best, mut last) = (0, None::<Best>, None);
    if let Some(snapshot) = resume {
        let from_base = trained.adapter.apart().from_base;
        trained = restore_where(trained, &snapshot.trained, |id| !from_base.contains(&id), "checkpoint")?;
        optimizer.restore(&trained, snapshot.optimizer)?;
        (step, best) = (snapshot.step, snapshot.best);
    }
    let objective = ClassifyLoss { model };
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
            one_step(&objective, trained, &mut optimizer, &micro_batches, &mut (), &at)?;
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
        if let Some(valid) = *valid
            && (due(options.eval_every)
                || options.eval_every.is_none() && ends_epoch
                || step == timetable.total)
        {
            let evaluated = trained.valid();
            let (metrics, seen) = observe(&frozen, &evaluated, valid, timetable.batch_size)?;
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
        last = Some(evaluate(&frozen, &trained.valid(), valid, timetable.batch_size)?);
    }
    let (step_ms, tokens_per_second) = (clock.median_ms(), clock.tokens_per_second());
    Ok(Outcome { trained, steps: step, best, last, step_ms, tokens_per_second })
}

/// Parameters of the head with a rate of their own, and its biases, which transformers' trainer leaves out of the
/// decay.
fn groups<B: AutodiffBackend>(head: &Head<B>, options: &Options) -> Vec<Group> {
    let rate = options.optimizer.head_rate();
    let biases = head.bias_paths().into_iter().map(|path| Group {
        under: format!("head.{path}"),
        rate,
        weight_decay: Some(0.0),
    });
    std::iter::once(Group { under: "head".into(), rate, weight_decay: None }).chain(biases).collect()
}
