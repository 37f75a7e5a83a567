//! Training: what is trained, for how long, and what a run leaves behind.
//!
//! The loop itself is [`classify`](crate::classify::classify()), and one turn of it [`step`](step()), to be read from top to bottom. It asks a [`Journal`] to write things
//! down and to keep checkpoints; `()` is the journal that keeps nothing.

use std::num::NonZeroUsize;

use burn::module::Module;
use burn::tensor::backend::Backend;
use sara_core::parameters::Tensors;
use sara_core::{Adapter, Figure, LinearOps};
use serde::{Deserialize, Serialize};

pub mod metrics;
pub mod optimizer;
pub mod schedule;
mod step;

pub use step::{StepOptions, Stepped, step};

use crate::classify::{Dataset, Order, batches};
use crate::encoder::head::Head;
use crate::error::Result;
use crate::run::OptimizerConfig;
use crate::train::metrics::Metrics;

/// Everything that is trained: the adapter, and the head of the task.
#[derive(Module, Debug)]
pub struct Trained<B: Backend, A: Module<B>> {
    /// The adapter.
    pub adapter: A,
    /// The head.
    pub head: Head<B>,
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Seed of the order of examples and of dropout.
    pub seed: u64,
    /// Whether each epoch goes through the examples in a new order.
    pub shuffle: bool,
    /// Learning rate, batch size, length and the rest of the optimization.
    pub optimizer: OptimizerConfig,
    /// Optimizer steps between evaluations; at the end of each epoch if `None`.
    pub eval_every: Option<usize>,
    /// Optimizer steps between checkpoints, beside those at the end of each epoch.
    pub save_every: Option<usize>,
    /// Stop after this many optimizer steps, with a checkpoint.
    pub stop_after: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            shuffle: true,
            optimizer: OptimizerConfig::default(),
            eval_every: None,
            save_every: None,
            stop_after: None,
        }
    }
}

/// One optimizer step, for the record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepRecord {
    /// Optimizer steps done.
    pub step: usize,
    /// Epochs done, with the part of the current one.
    pub epoch: f64,
    /// Mean loss of the task over the step's examples, without the method's penalty.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// L2 norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Tokens that count in the step's batches.
    pub tokens: usize,
    /// From the forward pass to the end of the optimizer step.
    pub elapsed_ms: f64,
}

/// One evaluation, for the record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationRecord {
    /// Optimizer steps done.
    pub step: usize,
    /// Epochs done.
    pub epoch: f64,
    /// What was measured on the validation data.
    pub valid: Metrics,
    /// What the method reports of itself.
    pub figures: Vec<Figure>,
}

/// Where a run stands: all that the next step depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Optimizer steps done.
    pub step: usize,
    /// The best evaluation so far, and its step.
    pub best: Option<Best>,
    /// Values of everything trained, and of the method's own state.
    pub trained: Tensors,
    /// State of the optimizer.
    pub optimizer: Tensors,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps done by then.
    pub step: usize,
    /// What was measured.
    pub metrics: Metrics,
}

/// What a finished or stopped run is.
#[derive(Debug)]
pub struct Outcome<B: Backend, A: Module<B>> {
    /// The adapter and head after the last step.
    pub trained: Trained<B, A>,
    /// Optimizer steps done.
    pub steps: usize,
    /// The best evaluation.
    pub best: Option<Best>,
    /// The last evaluation.
    pub last: Option<Metrics>,
    /// Median time of a step of this process, from the forward pass to the end of the optimizer step.
    pub step_ms: f64,
    /// Tokens that count, over the time of the steps of this process.
    pub tokens_per_second: f64,
}

/// Where a run writes things down.
pub trait Journal<B: LinearOps, A: Adapter<B>> {
    /// After each optimizer step.
    ///
    /// # Errors
    /// What writing said.
    fn step(&mut self, record: &StepRecord, total: usize) -> Result<()> {
        let _ = (record, total);
        Ok(())
    }

    /// After each evaluation; `best` is what was evaluated if it is the best so far.
    ///
    /// # Errors
    /// What writing said.
    fn evaluation(&mut self, record: &EvaluationRecord, best: Option<&Trained<B, A>>) -> Result<()> {
        let _ = (record, best);
        Ok(())
    }

    /// When it is time for a checkpoint.
    ///
    /// # Errors
    /// What writing said.
    fn checkpoint(&mut self, state: &State) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// The journal that keeps nothing.
impl<B: LinearOps, A: Adapter<B>> Journal<B, A> for () {}

/// Which examples each optimizer step sees: a function of the data's lengths, the options and the step alone.
#[derive(Debug)]
pub struct Timetable {
    lengths: Vec<usize>,
    pub(crate) batch_size: NonZeroUsize,
    accumulate: usize,
    order: OrderOfEpochs,
    /// Optimizer steps of an epoch.
    pub epoch_steps: usize,
    /// Optimizer steps of the run.
    pub total: usize,
    /// The epoch last asked for, and its micro-batches.
    current: Option<(usize, Vec<Vec<usize>>)>,
}

#[derive(Debug)]
enum OrderOfEpochs {
    AsRead,
    Shuffled(u64),
}

impl Timetable {
    /// The timetable of a run over `data`.
    pub fn new(data: &Dataset, options: &Options) -> Self {
        let optimizer = &options.optimizer;
        let lengths = data.lengths();
        Self {
            batch_size: NonZeroUsize::new(optimizer.batch_size).unwrap_or(NonZeroUsize::MIN),
            accumulate: optimizer.accumulate.max(1),
            order: if options.shuffle {
                OrderOfEpochs::Shuffled(options.seed)
            } else {
                OrderOfEpochs::AsRead
            },
            epoch_steps: optimizer.steps_per_epoch(lengths.len()),
            total: optimizer.total_steps(lengths.len()),
            lengths,
            current: None,
        }
    }

    /// The micro-batches of `step`, each a list of examples.
    pub fn micro_batches(&mut self, step: usize) -> &[Vec<usize>] {
        let epoch = step / self.epoch_steps;
        let order = match self.order {
            OrderOfEpochs::AsRead => Order::AsRead,
            OrderOfEpochs::Shuffled(seed) => Order::Shuffled { seed, epoch: epoch as u64 },
        };
        if self.current.as_ref().is_none_or(|(at, _)| *at != epoch) {
            self.current = Some((epoch, batches(&self.lengths, self.batch_size, order)));
        }
        let all = self.current.as_ref().map_or(&[][..], |(_, all)| all);
        let start = (step % self.epoch_steps) * self.accumulate;
        &all[start..(start + self.accumulate).min(all.len())]
    }

    /// Epochs done after `step` optimizer steps, with the part of the current one.
    pub fn epoch(&self, step: usize) -> f64 {
        step as f64 / self.epoch_steps as f64
    }

    /// Whether an epoch, or the run, ends with `step` optimizer steps done.
    pub fn ends_epoch(&self, step: usize) -> bool {
        step.is_multiple_of(self.epoch_steps) || step == self.total
    }
}

/// The largest amount of memory this process has held, where the system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
