//! Examples as token ids and targets, and the report about them.

use std::fmt;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Serialize;

use super::{Batch, Classes, collate};
use crate::data::{Example, Examples, LISTED, Label, listed, shown};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::tokenizer::{Encoded, Tokenizer};

/// What a file's examples become.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The examples, in the order of their lines.
    pub items: Vec<Item>,
    /// The place of each item among the examples of the file, from 0.
    pub places: Vec<usize>,
    /// The line of the file on which each begins.
    pub lines: Vec<usize>,
    /// What they are like, and what was cut or left out.
    pub report: Report,
}

/// One example as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types.
    pub types: Vec<u32>,
    /// What the model should say.
    pub target: Gold,
}

/// What the model should say about one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gold {
    /// The index of a class.
    Class(usize),
    /// A number.
    Value(f32),
    /// Not known.
    None,
}

/// What is made of the labels.
#[derive(Debug, Clone, Copy)]
pub enum Labels<'a> {
    /// Indices of these classes; an example without a label is dropped.
    Classes(&'a Classes),
    /// Numbers; an example without a label is dropped.
    Values,
    /// Nothing, for prediction: labels are not looked at.
    Ignored,
}

/// What a dataset is like; its `Display` is for people, before the first step.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Examples that are used.
    pub examples: usize,
    /// Examples left out because they have no label.
    pub dropped: usize,
    /// Examples left out because they have no text.
    pub without_text: usize,
    /// What was assumed in reading the file.
    pub notes: Vec<String>,
    /// The limit on tokens per example.
    pub max_tokens: usize,
    /// Examples cut to that limit.
    pub truncated: usize,
    /// Tokens per example before the cut.
    pub tokens: Lengths,
    /// How many examples each class has, in the order of the classes; empty without classes.
    pub classes: Vec<ClassCount>,
    /// The values to predict, where the targets are values.
    pub values: Option<ValueRange>,
}

/// The number of examples of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub name: String,
    /// Its examples.
    pub count: usize,
}

/// Where the values to predict lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ValueRange {
    /// The smallest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub max: f64,
}

/// Quantiles of a set of lengths; each is the length of an example (nearest rank).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// A quarter is not longer.
    pub p25: usize,
    /// Half is not longer.
    pub p50: usize,
    /// Three quarters are not longer.
    pub p75: usize,
    /// 95 of 100 are not longer.
    pub p95: usize,
    /// The longest.
    pub max: usize,
}

impl Dataset {
    /// Tokenizes the examples and looks up their labels. An example without a text is left out and counted.
    ///
    /// # Errors
    /// [`Error::Data`] for a text without a token of its own and for a label that is not one of the targets;
    /// [`Error::NoLabels`] and [`Error::NoTexts`] if every example would be left out; the errors of
    /// [`Tokenizer::encode`].
    pub fn prepare(
        examples: &Examples,
        tokenizer: &Tokenizer,
        max_tokens: usize,
        targets: Labels<'_>,
    ) -> Result<Self> {
        let wanted = targets_of(examples, targets)?;
        let needs_label = !matches!(targets, Labels::Ignored);
        let has_label = |place: &usize| !needs_label || wanted[*place] != Gold::None;
        let with_text: Vec<usize> =
            (0..examples.list.len()).filter(|&place| examples.list[place].has_text()).collect();
        if with_text.is_empty() {
            return Err(Error::NoTexts { path: examples.path.clone(), examples: examples.list.len() });
        }
        let places: Vec<usize> = with_text.iter().copied().filter(has_label).collect();
        if places.is_empty() {
            return Err(Error::NoLabels {
                path: examples.path.clone(),
                examples: examples.list.len(),
                notes: examples.notes.clone(),
            });
        }
        let kept: Vec<&Example> = places.iter().map(|&place| &examples.list[place]).collect();
        let wanted: Vec<Gold> = places.iter().map(|&place| wanted[place]).collect();
        let texts = kept.par_iter().map(|example| (example.text.as_str(), example.text_pair.as_deref()));
        let encoded = tokenizer.encode_all(texts, max_tokens)?;
        if let Some((example, _)) = kept.iter().zip(&encoded).find(|(_, encoded)| encoded.own == 0) {
            let problem = "the text has no token of its own; write some text or remove the line";
            return Err(examples.problem(example.line, problem.to_owned()));
        }
        let mut notes = examples.notes.clone();
        if let Labels::Classes(classes) = targets
            && classes.are_indexed(examples)
        {
            let names = listed(classes.names().iter().map(String::as_str), LISTED);
            notes.push(format!("whole numbers are the classes in their order: {names}"));
        }
        let lines = kept.iter().map(|example| example.line).collect();
        let report = Report {
            path: examples.path.clone(),
            examples: kept.len(),
            dropped: with_text.len() - kept.len(),
            without_text: examples.list.len() - with_text.len(),
            notes,
            max_tokens,
            truncated: encoded.iter().filter(|encoded| encoded.truncated).count(),
            tokens: Lengths::of(encoded.iter().map(|encoded| encoded.full_length).collect()),
            classes: count(&wanted, targets),
            values: ValueRange::of(&wanted),
        };
        let item = |(Encoded { ids, types, .. }, target)| Item { ids, types, target };
        Ok(Self { items: encoded.into_iter().zip(wanted).map(item).collect(), places, lines, report })
    }

    /// The number of tokens of each item, for [`batches`](crate::data::batches).
    pub fn lengths(&self) -> Vec<usize> {
        self.items.iter().map(|item| item.ids.len()).collect()
    }

    /// A hash of the items in their order.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        for Item { ids, types, target } in &self.items {
            hash.add(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>());
            hash.add(&types.iter().flat_map(|kind| kind.to_le_bytes()).collect::<Vec<_>>());
            hash.add(format!("{target:?}").as_bytes());
        }
        hash.finish()
    }

    /// Whether every item says what the answer is, all in the same way, and a head of so many labels can give it.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::NoTargets`], [`Error::NoLogit`].
    pub fn check_targets(&self, n_labels: usize) -> Result<()> {
        let first = self.items.first().ok_or(Error::NoExamples)?.target;
        let differs = |item: &&Item| {
            item.target == Gold::None
                || std::mem::discriminant(&item.target) != std::mem::discriminant(&first)
        };
        let classes = self.items.iter().filter_map(|item| match item.target {
            Gold::Class(class) => Some(class),
            _ => None,
        });
        match self.items.iter().filter(differs).count() {
            0 => match classes.max().filter(|&class| class >= n_labels) {
                Some(class) => Err(Error::NoLogit { class, n_labels }),
                None => Ok(()),
            },
            missing => {
                Err(Error::NoTargets { path: self.report.path.clone(), missing, examples: self.items.len() })
            }
        }
    }

    /// One padded batch of the items at these indices.
    ///
    /// # Panics
    /// If an index is not that of an item.
    pub fn batch(&self, indices: &[usize], pad_id: u32) -> Batch {
        let items: Vec<_> = indices.iter().map(|&index| &self.items[index]).collect();
        collate(&items, pad_id)
    }
}

fn targets_of(examples: &Examples, targets: Labels<'_>) -> Result<Vec<Gold>> {
    match targets {
        Labels::Ignored => Ok(vec![Gold::None; examples.list.len()]),
        Labels::Classes(classes) => {
            let indices = classes.indices(examples)?;
            Ok(indices.into_iter().map(|index| index.map_or(Gold::None, Gold::Class)).collect())
        }
        Labels::Values => {
            let value = |example: &Example| match &example.label {
                None => Ok(Gold::None),
                Some(Label::Value(value)) => Ok(Gold::Value(*value as f32)),
                Some(Label::Name(_)) => {
                    let problem = "the label is a class, not a value; read the file for task = \"regress\"";
                    Err(examples.problem(example.line, problem.to_owned()))
                }
            };
            examples.list.iter().map(value).collect()
        }
    }
}

fn count(wanted: &[Gold], targets: Labels<'_>) -> Vec<ClassCount> {
    let Labels::Classes(classes) = targets else { return Vec::new() };
    let mut counts: Vec<_> =
        classes.names().iter().map(|name| ClassCount { name: name.clone(), count: 0 }).collect();
    for target in wanted {
        if let Gold::Class(index) = target {
            counts[*index].count += 1;
        }
    }
    counts
}

impl ValueRange {
    fn of(targets: &[Gold]) -> Option<Self> {
        let values: Vec<f64> = targets
            .iter()
            .filter_map(|target| if let Gold::Value(value) = target { Some(f64::from(*value)) } else { None })
            .collect();
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Self { min, mean: values.iter().sum::<f64>() / values.len() as f64, max })
    }
}

impl Lengths {
    /// `lengths` is not empty.
    fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let at = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).max(1) - 1];
        Self { min: at(0), p25: at(25), p50: at(50), p75: at(75), p95: at(95), max: at(100) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lengths { min, p25, p50, p75, p95, max } = self.tokens;
        write!(f, "{}: {} examples", self.path.display(), self.examples)?;
        if self.dropped > 0 {
            write!(f, ", {} more dropped because they have no label", self.dropped)?;
        }
        write!(
            f,
            "\n  tokens     shortest {min}, 25 % {p25}, 50 % {p50}, 75 % {p75}, 95 % {p95}, longest {max}"
        )?;
        write!(f, "\n  truncated  {} to max_tokens = {}", self.truncated, self.max_tokens)?;
        if self.without_text > 0 {
            write!(f, "\n  dropped    {} because they have no text", self.without_text)?;
        }
        let listed: Vec<(String, usize)> =
            self.classes.iter().take(LISTED).map(|class| (shown(&class.name), class.count)).collect();
        let width = listed.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (index, (name, count)) in listed.iter().enumerate() {
            let heading = if index == 0 { "classes" } else { "" };
            let share = 100.0 * *count as f64 / self.examples as f64;
            write!(f, "\n  {heading:<9}  {name:<width$}  {count} ({share:.1} %)")?;
        }
        if self.classes.len() > LISTED {
            write!(
                f,
                "\n             and {} more, {} in all",
                self.classes.len() - LISTED,
                self.classes.len()
            )?;
        }
        if let Some(ValueRange { min, mean, max }) = self.values {
            write!(f, "\n  values     smallest {min:.4}, mean {mean:.4}, largest {max:.4}")?;
        }
        for note in &self.notes {
            write!(f, "\n  note       {note}")?;
        }
        Ok(())
    }
}
