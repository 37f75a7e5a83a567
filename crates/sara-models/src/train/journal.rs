//! What a run writes down: its steps, its evaluations, and snapshots to go on from.

use sara_core::Figure;
use sara_core::parameters::Tensors;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::train::metrics::Metrics;

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
pub struct Snapshot {
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

/// Where a run writes things down.
pub trait Journal<T> {
    /// What was decided, before the first step or after the last; `kind` is a word for what it is about.
    fn note(&mut self, kind: &'static str, text: &str) {
        let _ = (kind, text);
    }

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
    fn evaluation(&mut self, record: &EvaluationRecord, best: Option<&T>) -> Result<()> {
        let _ = (record, best);
        Ok(())
    }

    /// When it is time for a snapshot.
    ///
    /// # Errors
    /// What writing said.
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let _ = snapshot;
        Ok(())
    }
}

/// The journal that keeps nothing.
impl<T> Journal<T> for () {}
