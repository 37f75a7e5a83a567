//! The classes of a classifier and their order.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::{Example, Examples, LISTED, Label, listed, shown};
use crate::error::{Error, Result};

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
    /// `LABEL_0`, `LABEL_1`, .. are no names: such a checkpoint fixes how many classes there are, and the data name them
    /// where they have as many. The second value says so.
    ///
    /// # Errors
    /// As [`Self::of_data`].
    pub fn of_run(labels: Option<&[String]>, train: &Examples) -> Result<(Self, Option<String>)> {
        let Some(labels) = labels.filter(|labels| labels.len() > 1) else {
            return Ok((Self::of_data(train)?, None));
        };
        let fixed = Self::of_checkpoint(labels.to_vec());
        let known: BTreeSet<&str> = fixed.names.iter().map(String::as_str).collect();
        let is_known = |example: &Example| match &example.label {
            Some(Label::Name(name)) => known.contains(name.as_str()),
            Some(Label::Names(names)) => names.iter().all(|name| known.contains(name.as_str())),
            _ => true,
        };
        if !fixed.are_numbered() || train.list.iter().all(is_known) {
            return Ok((fixed, None));
        }
        match Self::of_data(train) {
            Ok(named) if named.names.len() == labels.len() => {
                let names = listed(named.names.iter().map(String::as_str), LISTED);
                let note = format!(
                    "the checkpoint's {} classes have no names; taken in order: {names}",
                    labels.len()
                );
                Ok((named, Some(note)))
            }
            _ => Ok((fixed, None)),
        }
    }

    /// The classes of a checkpoint with a head, in the order of its `id2label`.
    pub fn of_checkpoint(names: Vec<String>) -> Self {
        Self { names, origin: Origin::Checkpoint }
    }

    /// The classes that occur in labelled examples, as they are written: sorted as numbers where all are numbers, else
    /// by their spelling.
    ///
    /// # Errors
    /// [`Error::NoLabels`], [`Error::OneClass`], and [`Error::Data`] for labels that are values rather than classes.
    pub fn of_data(examples: &Examples) -> Result<Self> {
        let mut names = BTreeSet::new();
        let mut labelled = 0;
        for example in &examples.list {
            match &example.label {
                None => continue,
                Some(Label::Name(name)) => _ = names.insert(name.clone()),
                Some(Label::Names(several)) => names.extend(several.iter().cloned()),
                Some(label) => return Err(not_a_class(examples, example, label)),
            }
            labelled += 1;
        }
        // Columns of their own tell the classes and their order, those that never apply too.
        if !examples.label_columns.is_empty() && labelled > 0 {
            return Ok(Self { names: examples.label_columns.clone(), origin: Origin::Data });
        }
        let mut names: Vec<String> = names.into_iter().collect();
        let numbers: Option<Vec<f64>> = names.iter().map(|name| name.parse().ok()).collect();
        if let Some(numbers) = numbers {
            let fractions = numbers.iter().any(|number| number.fract() != 0.0);
            if fractions && names.len() > LISTED && 2 * names.len() > labelled {
                let problem = format!(
                    "has {} different numbers as labels of {labelled} examples; numbers to predict are for \
                     task = \"regress\"",
                    names.len()
                );
                return Err(
                    examples.problem(examples.list.first().map_or(1, |example| example.line), problem)
                );
            }
            let mut order: Vec<(f64, String)> = numbers.into_iter().zip(names).collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0));
            names = order.into_iter().map(|(_, name)| name).collect();
        }
        let has_sets = examples.list.iter().any(|example| matches!(example.label, Some(Label::Names(_))));
        match names.as_slice() {
            [_] if has_sets => Ok(Self { names, origin: Origin::Data }),
            [] => Err(Error::NoLabels {
                path: examples.path.clone(),
                examples: examples.list.len(),
                notes: examples.notes.clone(),
            }),
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
    /// A label is the name of a class; `true` and `false` are so in any case of their letters. Where the classes have
    /// other names than whole numbers, a whole number that is no name is an index.
    ///
    /// # Errors
    /// [`Error::Data`] for a label that is none of the classes.
    pub fn indices(&self, examples: &Examples) -> Result<Vec<Option<usize>>> {
        let places = self.places();
        let index = |example: &Example| match &example.label {
            None => Ok(None),
            Some(Label::Name(name)) => self.place(&places, name, examples, example).map(Some),
            Some(label) => Err(not_a_class(examples, example, label)),
        };
        examples.list.iter().map(index).collect()
    }

    /// The classes that apply to each example, `None` where it has no labels.
    ///
    /// # Errors
    /// As [`Self::indices`], and [`Error::Columns`] where some columns of labels are not those of the classes.
    pub fn sets(&self, examples: &Examples) -> Result<Vec<Option<Vec<usize>>>> {
        let places = self.places();
        let columns = &examples.label_columns;
        let found = |name: &String| places.get(name.as_str()).copied().or_else(|| self.other(name));
        let of_columns: BTreeSet<usize> = columns.iter().filter_map(found).collect();
        if !columns.is_empty() && (of_columns.len(), columns.len()) != (self.names.len(), self.names.len()) {
            let all = |names: &[String]| listed(names.iter().map(String::as_str), LISTED);
            let problem = format!(
                "has columns {} for labels, and the classes are {}; name a column for each class",
                all(columns),
                all(&self.names)
            );
            return Err(Error::Columns { path: examples.path.clone(), problem });
        }
        let set = |example: &Example| match &example.label {
            None => Ok(None),
            Some(Label::Names(names)) => {
                let place = |name: &String| self.place(&places, name, examples, example);
                names.iter().map(place).collect::<Result<_>>().map(Some)
            }
            Some(label) => Err(not_a_class(examples, example, label)),
        };
        examples.list.iter().map(set).collect()
    }

    /// Places by name; of two classes of one name the first is meant.
    fn places(&self) -> BTreeMap<&str, usize> {
        self.names.iter().enumerate().rev().map(|(place, name)| (name.as_str(), place)).collect()
    }

    fn place(
        &self,
        places: &BTreeMap<&str, usize>,
        name: &str,
        examples: &Examples,
        example: &Example,
    ) -> Result<usize> {
        let found = places.get(name).copied().or_else(|| self.other(name));
        found.ok_or_else(|| examples.problem(example.line, self.unknown(name)))
    }

    /// Whether a label of these examples is an index rather than a name.
    pub(super) fn are_indexed(&self, examples: &Examples) -> bool {
        let known: BTreeSet<&str> = self.names.iter().map(String::as_str).collect();
        let is_index = |name: &String| !known.contains(name.as_str()) && name.parse::<usize>().is_ok();
        examples.list.iter().any(|example| match &example.label {
            Some(Label::Name(name)) => is_index(name),
            Some(Label::Names(names)) => names.iter().any(is_index),
            _ => false,
        })
    }

    /// The class that a label means which is no name as it stands.
    fn other(&self, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        if ["true", "false"].contains(&lower.as_str()) {
            let mut same = (0..self.names.len()).filter(|&place| self.names[place].to_lowercase() == lower);
            return same.next().filter(|_| same.next().is_none());
        }
        let index = name.parse::<usize>().ok().filter(|&index| index < self.names.len());
        // Beside `1 star` or `0.5` a number may be meant as a name.
        let has_numbers = self
            .names
            .iter()
            .any(|class| class.trim_start_matches(['-', '+', '.']).starts_with(|c: char| c.is_ascii_digit()));
        index.filter(|_| !has_numbers)
    }

    fn unknown(&self, name: &str) -> String {
        let origin = match self.origin {
            Origin::Checkpoint => "the checkpoint",
            Origin::Data => "the training data",
        };
        let classes = listed(self.names.iter().map(String::as_str), LISTED);
        format!("label `{}` is unknown to {origin}; its classes are {classes}", shown(name))
    }

    /// Whether the names are those that stand where nobody gave any.
    fn are_numbered(&self) -> bool {
        self.names.iter().enumerate().all(|(index, name)| *name == format!("LABEL_{index}"))
    }
}

fn not_a_class(examples: &Examples, example: &Example, label: &Label) -> Error {
    let problem = match label {
        Label::Name(_) => {
            "the label is one class of several; read the file for task = \"multi-label\"".to_owned()
        }
        Label::Names(_) => "the label is a list; read the file for task = \"classify\"".to_owned(),
        Label::Values(values) => {
            format!("label {values:?} is a value, not a class; read the file for task = \"classify\"")
        }
    };
    examples.problem(example.line, problem)
}
