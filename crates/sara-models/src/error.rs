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
}
