//! What can go wrong in this crate.

use std::path::{Path, PathBuf};

/// The result of what can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, with its cause and its remedy, in one line.
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

    /// A data file's name tells no known format.
    #[error("{}: unknown kind of data file; its name must end in .jsonl, .csv or .tsv", path.display())]
    DataFormat {
        /// The data file.
        path: PathBuf,
    },

    /// A data file holds no example.
    #[error("{}: holds no examples; give at least one, one per line", path.display())]
    EmptyData {
        /// The data file.
        path: PathBuf,
    },

    /// One line of a data file cannot be used.
    #[error("{}, line {line}: {problem}", path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what to do about it.
        problem: String,
    },

    /// No example of a file that should have labels has one.
    #[error("{}: none of its {examples} examples has a label; add \"label\" to each line", path.display())]
    NoLabels {
        /// The data file.
        path: PathBuf,
        /// How many examples it holds.
        examples: usize,
    },

    /// All examples that are to define the classes belong to one class.
    #[error("{}: every label is `{class}`; a classifier needs examples of two classes or more", path.display())]
    OneClass {
        /// The data file.
        path: PathBuf,
        /// The only class.
        class: String,
    },

    /// A tokenizer cannot be read or failed on a text.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong and what to do about it.
        problem: String,
    },

    /// The length limit leaves no token for the text.
    #[error(
        "max_tokens = {max_tokens} leaves no room for the text beside {special} special tokens; use {} or more",
        special + sequences
    )]
    MaxTokens {
        /// The limit asked for.
        max_tokens: usize,
        /// How many tokens the tokenizer adds.
        special: usize,
        /// How many texts make up one example: 1, or 2 for a pair.
        sequences: usize,
    },
}

impl Error {
    /// Turns what the system said about `path` into an [`Error::Io`]; for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
