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
