//! Labelled texts as files have them, and the order in which an epoch goes through them.
//!
//! A file becomes [`Rows`] of fields, whatever its format; rows become [`Examples`] once it is known which columns they
//! are in; a task makes datasets of these, and [`batches`] orders them by their lengths.

mod apart;
mod columns;
mod decode;
mod json;
mod labels;
mod order;
#[cfg(feature = "parquet")]
mod parquet;
mod rows;
mod table;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use apart::{VALID_SHARE, count_apart, keep_apart, note_apart};
pub use columns::Columns;
pub use order::{Order, batches};
pub use rows::{Format, Row, Rows};

use crate::error::{Error, Result};

/// What the model learns to say about a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One of several classes.
    #[default]
    Classify,
    /// A number, or several.
    Regress,
    /// Any number of several classes.
    MultiLabel,
    /// How it goes on.
    CausalLm,
}

/// The examples of one file, in the order of its lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// The file they were read from.
    pub path: PathBuf,
    /// The examples.
    pub list: Vec<Example>,
    /// What was assumed in reading them, for the reader.
    pub notes: Vec<String>,
    /// Names of the columns of labels where each class, or each number, has one of its own; else empty.
    pub label_columns: Vec<String>,
}

/// One text or pair of texts, with its label where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text; blank where there is none.
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
    /// The name of a class, or its index where the classes have no such name.
    Name(String),
    /// The names of all classes that apply, or their indices; perhaps none does.
    Names(Vec<String>),
    /// The numbers to predict, one for each output.
    Values(Vec<f64>),
}

/// Reads the examples of a file by the names `text`, `text_pair` and `label`.
///
/// # Errors
/// As [`Rows::read`] and [`Rows::examples`].
pub fn read(path: &Path, task: Task) -> Result<Examples> {
    Rows::read(path, None)?.examples(&Columns::default(), Some(task))
}

impl Example {
    /// Whether there is a text.
    pub fn has_text(&self) -> bool {
        !self.text.trim().is_empty()
    }
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
        let list = (1..).zip(texts).map(example).collect();
        let path = PathBuf::from("examples in memory");
        Self { path, list, notes: Vec::new(), label_columns: Vec::new() }
    }

    pub(crate) fn problem(&self, line: usize, problem: String) -> Error {
        Error::Data { path: self.path.clone(), line, problem }
    }
}

/// A name of the file as a terminal can show it: line ends and control characters are escaped.
pub(crate) fn shown(name: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(escaped).collect()
}

/// How many names a message or a report lists.
pub(crate) const LISTED: usize = 20;

/// The first of these names, at most `limit`, and how many more there are.
pub(crate) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>, limit: usize) -> String {
    let more = names.len().saturating_sub(limit);
    let first = names.take(limit).map(shown).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}
