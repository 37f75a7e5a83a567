//! Training, whatever the model and the task: one optimizer step, the optimizer, the schedule, and what a run leaves
//! behind.
//!
//! [`fit`](fit()) is the loop, and [`step`](step()) one turn of it, both to be read from top to bottom; a task gives them a
//! [`Course`] and an [`Objective`]. The loop asks a [`Journal`] to write things down and to keep [`Snapshot`]s; `()` is the
//! journal that keeps nothing.

use std::marker::PhantomData;

use burn::module::Module;
use burn::tensor::backend::Backend;

mod fit;
mod journal;
pub mod metrics;
pub mod optimizer;
mod processes;
pub mod schedule;
mod step;
mod timetable;

pub use fit::{Course, Inner, Measured, fit};
pub use journal::{Best, EvaluationRecord, Journal, Snapshot, StepRecord};
pub use processes::{Processes, Totals};
pub use step::{Objective, StepOptions, Stepped, at_once, step};
pub use timetable::{Clock, Timetable};

use sara_core::parameters::{Tensors, mismatches};

use crate::adapted::Answer;
use crate::checkpoint::SavedHead;
use crate::error::{Error, Result};
use crate::run::OptimizerConfig;
use crate::train::metrics::Metrics;

/// Everything that is trained: the adapter, and the head of the task.
///
/// Parameters are `adapter.*` and `head.*` in files.
#[derive(Module, Debug)]
pub struct Trained<B: Backend, A: Module<B>, H: Module<B>> {
    /// The adapter.
    pub adapter: A,
    /// The head.
    pub head: H,
    backend: PhantomData<B>,
}

impl<B: Backend, A: Module<B>, H: Module<B>> Trained<B, A, H> {
    /// An adapter and the head beside it.
    pub fn new(adapter: A, head: H) -> Self {
        Self { adapter, head, backend: PhantomData }
    }
}

/// What a task trains beside the adapter, and what files say of it.
pub trait TaskHead<B: Backend>: Module<B> {
    /// The trained tensors by their names in a Hugging Face model, weights as `[d_out, d_in]`.
    fn tensors(&self) -> Tensors;

    /// This head with the values of `tensors`, named and oriented as [`Self::tensors`] gives them.
    ///
    /// # Errors
    /// [`Error::Mismatch`] that lists every tensor that is missing, unknown or of another shape;
    /// `what` names the source.
    fn with_tensors(self, tensors: &Tensors, what: &str) -> Result<Self>;

    /// The trained modules as PEFT lists them under `modules_to_save`.
    fn modules_to_save(&self) -> Vec<&'static str>;

    /// What a checkpoint with this head says of it, if anything.
    ///
    /// # Errors
    /// [`Error::Config`] where `answer` has not as many names as the head has logits.
    fn saved(&self, answer: &Answer) -> Result<Option<SavedHead>>;
}

/// The head of a task that has none.
#[derive(Module, Debug)]
pub struct NoHead<B: Backend> {
    backend: PhantomData<B>,
}

impl<B: Backend> Default for NoHead<B> {
    fn default() -> Self {
        Self { backend: PhantomData }
    }
}

impl<B: Backend> TaskHead<B> for NoHead<B> {
    fn tensors(&self) -> Tensors {
        Tensors::new()
    }

    fn with_tensors(self, tensors: &Tensors, what: &str) -> Result<Self> {
        let mismatches = mismatches(&[], tensors);
        if mismatches.is_empty() {
            return Ok(self);
        }
        Err(Error::Mismatch { what: what.to_owned(), mismatches })
    }

    fn modules_to_save(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn saved(&self, _answer: &Answer) -> Result<Option<SavedHead>> {
        Ok(None)
    }
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
    /// Optimizer steps between snapshots, beside those at the end of each epoch.
    pub save_every: Option<usize>,
    /// Stop after this many optimizer steps, with a snapshot.
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

/// What a finished or stopped run is.
#[derive(Debug)]
pub struct Outcome<B: Backend, A: Module<B>, H: Module<B>> {
    /// The adapter and head after the last step.
    pub trained: Trained<B, A, H>,
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

/// The largest amount of memory this process has held, where the system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
