//! Labelled texts as files have them, and the order in which an epoch goes through them.
//!
//! A file becomes [`Examples`]; a task makes datasets of them, and [`batches`] orders these by their lengths.

mod order;
mod read;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use order::{Order, batches};
pub use read::read;

use crate::error::Error;

/// What the model learns to say about a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One of several classes.
    #[default]
    Classify,
    /// A number.
    Regress,
}

/// The examples of one file, in the order of its lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// The file they were read from.
    pub path: PathBuf,
    /// The examples.
    pub list: Vec<Example>,
}

/// One text or pair of texts, with its label where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The label.
    pub label: Option<Label>,
    /// The line of the file on which the example begins, counted from 1.
    pub line: usize,
}

/// A label as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// The name of a class.
    Name(String),
    /// The index of a class.
    Index(usize),
    /// A number to predict.
    Value(f64),
}

impl Examples {
    /// Texts with the names of their classes, from memory.
    pub fn labelled<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let name = |label: &str| Some(Label::Name(label.to_owned()));
        Self::in_memory(pairs.into_iter().map(|(text, label)| (text, name(label))))
    }

    /// Texts whose classes are asked for, from memory.
    pub fn unlabelled<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::in_memory(texts.into_iter().map(|text| (text, None)))
    }

    fn in_memory<'a>(texts: impl Iterator<Item = (&'a str, Option<Label>)>) -> Self {
        let example = |(line, (text, label)): (usize, (&str, _))| Example {
            text: text.to_owned(),
            text_pair: None,
            label,
            line,
        };
        Self { path: PathBuf::from("examples in memory"), list: (1..).zip(texts).map(example).collect() }
    }

    pub(crate) fn problem(&self, line: usize, problem: String) -> Error {
        Error::Data { path: self.path.clone(), line, problem }
    }
}
