//! What can go wrong in this crate.

use std::path::PathBuf;

/// A failure, with its cause and, where there is one, its remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    // ---- run file, optimizer ----
    /// A run file, or an override of it, does not hold what it should.
    #[error("{place}: {problem}")]
    Run {
        /// The file, with the line where it is known, or the override.
        place: String,
        /// What is wrong and what to do about it, in one line.
        problem: String,
    },

    /// A value of the run's configuration is out of its range.
    #[error("{field} = {found}: expected {expected}")]
    Config {
        /// The key, with its table.
        field: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },

    /// The stored state of an optimizer does not fit the parameters that are trained.
    #[error(
        "the optimizer's state does not fit ({}); resume with the run's own model and method",
        mismatches.join("; ")
    )]
    OptimizerState {
        /// One entry for each tensor, with what was expected and what was found.
        mismatches: Vec<String>,
    },
    // ---- checkpoints, model ----
    /// Adapters, or a file that has what the adapters' crate checks.
    #[error(transparent)]
    Core(#[from] sara_core::Error),

    /// A batch that the model cannot take.
    #[error("{problem}")]
    Input {
        /// What is wrong and what to do about it.
        problem: String,
    },

    // ---- training ----
    /// Parameters that are trained got no gradient.
    #[error(
        "no gradient reached {}: the adapter is not used by the model, or the method trains what the loss does not see",
        paths.join(", ")
    )]
    NoGradient {
        /// Paths of the parameters.
        paths: Vec<String>,
    },

    /// The loss or its gradients are not finite any more.
    #[error(
        "step {step}: the loss is {loss} and the norm of the gradients {gradient_norm} at a learning rate of \
         {learning_rate:e}; lower optimizer.learning_rate"
    )]
    NotFinite {
        /// The optimizer step, from 1.
        step: usize,
        /// Loss of the step.
        loss: f64,
        /// Norm of its gradients.
        gradient_norm: f64,
        /// Learning rate of the step.
        learning_rate: f64,
    },

    /// There is a run where a new one should go.
    #[error("{}: holds something already; choose another output, or go on with --resume", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },

    /// There is no run to go on with.
    #[error("{}: holds no run to resume; start it without --resume", path.display())]
    NothingToResume {
        /// The directory.
        path: PathBuf,
    },

    /// The run to resume was started otherwise.
    #[error(
        "{}: was started with `{was}`, and now it says `{is}`; resume with the run's own settings",
        path.display()
    )]
    OtherRun {
        /// The directory.
        path: PathBuf,
        /// The first line that differs, as it was.
        was: String,
        /// The same line now.
        is: String,
    },

    /// Neither the checkpoint nor an adapter has a head for a task.
    #[error("{}: has no classification head; give an --adapter that was trained with one", path.display())]
    NoHead {
        /// The model's directory.
        path: PathBuf,
    },
}
