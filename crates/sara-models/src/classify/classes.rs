//! The classes of a classifier and their order.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::{Example, Examples, Label};
use crate::error::{Error, Result};

/// How many names an error message lists.
const LISTED: usize = 20;

/// The classes' names; a class's index is its place in this order and its row in the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    names: Vec<String>,
    origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Checkpoint,
    Data,
}

impl Classes {
    /// The classes of a run: a checkpoint with a classification head fixes them by its `labels`, otherwise they come from
    /// the training data.
    ///
    /// # Errors
    /// As [`Self::of_data`].
    pub fn of_run(labels: Option<&[String]>, train: &Examples) -> Result<Self> {
        match labels {
            Some(labels) if labels.len() > 1 => Ok(Self::of_checkpoint(labels.to_vec())),
            _ => Self::of_data(train),
        }
    }

    /// The classes of a checkpoint with a head, in the order of its `id2label`.
    pub fn of_checkpoint(names: Vec<String>) -> Self {
        Self { names, origin: Origin::Checkpoint }
    }

    /// The classes that occur in labelled examples: names sorted, or indices `0, 1, ..` named `0`, `1`, `..`.
    ///
    /// # Errors
    /// [`Error::NoLabels`], [`Error::OneClass`], and [`Error::Data`] for labels of another kind than the first
    /// one's or an index that leaves a gap below it.
    pub fn of_data(examples: &Examples) -> Result<Self> {
        let mut names = BTreeSet::new();
        let mut indices = BTreeMap::new();
        for example in &examples.list {
            match &example.label {
                None => continue,
                Some(Label::Name(name)) => _ = names.insert(name.clone()),
                Some(Label::Index(index)) => _ = indices.entry(*index).or_insert(example.line),
                Some(Label::Value(value)) => return Err(not_a_class(examples, example, *value)),
            }
            if let (Some(name), Some((index, _))) = (names.first(), indices.first_key_value()) {
                let problem =
                    format!("labels are names (`{name}`) and indices ({index}); use one kind throughout");
                return Err(examples.problem(example.line, problem));
            }
        }
        if let Some((missing, (index, &line))) =
            indices.iter().enumerate().find(|(place, (index, _))| place != *index)
        {
            let problem = format!(
                "label {index}, but no example has label {missing}; number the classes from 0 without gaps"
            );
            return Err(examples.problem(line, problem));
        }
        let names: Vec<_> =
            names.into_iter().chain(indices.into_keys().map(|index| index.to_string())).collect();
        match names.as_slice() {
            [] => Err(Error::NoLabels { path: examples.path.clone(), examples: examples.list.len() }),
            [class] => Err(Error::OneClass { path: examples.path.clone(), class: class.clone() }),
            _ => Ok(Self { names, origin: Origin::Data }),
        }
    }

    /// The names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The class of each example, `None` where it has no label.
    ///
    /// # Errors
    /// [`Error::Data`] for a label that is none of the classes, and where names and indices are mixed.
    pub fn indices(&self, examples: &Examples) -> Result<Vec<Option<usize>>> {
        let mut kind = None;
        let index = |example: &Example| {
            let Some(label) = &example.label else { return Ok(None) };
            let first = *kind.get_or_insert_with(|| std::mem::discriminant(label));
            if first != std::mem::discriminant(label) {
                let problem = "labels are names on some lines and indices on others; use one kind throughout";
                return Err(examples.problem(example.line, problem.to_owned()));
            }
            self.index(examples, example, label).map(Some)
        };
        examples.list.iter().map(index).collect()
    }

    fn index(&self, examples: &Examples, example: &Example, label: &Label) -> Result<usize> {
        let (found, label) = match label {
            Label::Index(index) => {
                (Some(*index).filter(|&index| index < self.names.len()), index.to_string())
            }
            Label::Name(name) => (self.names.iter().position(|class| class == name), format!("`{name}`")),
            Label::Value(value) => return Err(not_a_class(examples, example, *value)),
        };
        found.ok_or_else(|| {
            let origin = match self.origin {
                Origin::Checkpoint => "the checkpoint",
                Origin::Data => "the training data",
            };
            let problem = format!("label {label} is unknown to {origin}; its classes are {}", self.listed());
            examples.problem(example.line, problem)
        })
    }

    fn listed(&self) -> String {
        let listed = self.names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.names.len().saturating_sub(LISTED) {
            0 => listed,
            more => format!("{listed} and {more} more"),
        }
    }
}

fn not_a_class(examples: &Examples, example: &Example, value: f64) -> Error {
    let problem = format!("label {value} is a value, not a class; read the file for task = \"classify\"");
    examples.problem(example.line, problem)
}
