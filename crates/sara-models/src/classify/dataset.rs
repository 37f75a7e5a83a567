//! Examples as token ids and targets, and the report about them.

use std::fmt;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Serialize;

use super::{Batch, Classes, collate};
use crate::data::{Example, Examples, LISTED, Label, Task, listed, shown};
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
#[derive(Debug, Clone, PartialEq)]
pub enum Gold {
    /// The index of a class.
    Class(usize),
    /// Numbers, one for each output.
    Values(Vec<f32>),
    /// For each class 1 where it applies, else 0.
    Flags(Vec<f32>),
    /// Not known.
    None,
}

/// What is made of the labels.
#[derive(Debug, Clone, Copy)]
pub enum Labels<'a> {
    /// Indices of these classes; an example without a label is dropped.
    Classes(&'a Classes),
    /// Which of these classes apply; an example without labels is dropped.
    Sets(&'a Classes),
    /// Numbers, for outputs of these names, which are empty where nobody gave any; an example without a label is dropped.
    Values(&'a [String]),
    /// Nothing, for prediction: labels are not looked at.
    Ignored,
}

impl<'a> Labels<'a> {
    /// What a task makes of them; of numbers, `classes` are the names of the outputs.
    pub fn of(task: Task, classes: &'a Classes) -> Self {
        match task {
            Task::Classify => Self::Classes(classes),
            Task::MultiLabel => Self::Sets(classes),
            Task::Regress => Self::Values(classes.names()),
            Task::CausalLm => Self::Ignored,
        }
    }
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
        let wanted: Vec<Gold> = places.iter().map(|&place| wanted[place].clone()).collect();
        let texts = kept.par_iter().map(|example| (example.text.as_str(), example.text_pair.as_deref()));
        let encoded = tokenizer.encode_all(texts, max_tokens)?;
        if let Some((example, _)) = kept.iter().zip(&encoded).find(|(_, encoded)| encoded.own == 0) {
            let problem = "the text has no token of its own; write some text or remove the line";
            return Err(examples.problem(example.line, problem.to_owned()));
        }
        let mut notes = examples.notes.clone();
        notes.extend(taken_in_order(examples, targets));
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
    /// [`Error::NoExamples`], [`Error::NoTargets`], [`Error::NoLogit`], [`Error::OutputCount`].
    pub fn check_targets(&self, n_labels: usize) -> Result<()> {
        let first = &self.items.first().ok_or(Error::NoExamples)?.target;
        let differs = |item: &&Item| {
            item.target == Gold::None || std::mem::discriminant(&item.target) != std::mem::discriminant(first)
        };
        let missing = self.items.iter().filter(differs).count();
        if missing > 0 {
            let (path, examples) = (self.report.path.clone(), self.items.len());
            return Err(Error::NoTargets { path, missing, examples });
        }
        for item in &self.items {
            match &item.target {
                Gold::Class(class) if *class >= n_labels => {
                    return Err(Error::NoLogit { class: *class, n_labels });
                }
                Gold::Values(values) | Gold::Flags(values) if values.len() != n_labels => {
                    let (path, found) = (self.report.path.clone(), values.len());
                    return Err(Error::OutputCount { path, found, n_labels });
                }
                _ => {}
            }
        }
        Ok(())
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
        Labels::Sets(classes) => {
            let flags = |set: Vec<usize>| {
                let flag = |class: usize| if set.contains(&class) { 1.0 } else { 0.0 };
                Gold::Flags((0..classes.names().len()).map(flag).collect())
            };
            Ok(classes.sets(examples)?.into_iter().map(|set| set.map_or(Gold::None, flags)).collect())
        }
        Labels::Values(names) => {
            let order = by_name(names, &examples.label_columns);
            let value = |example: &Example| match &example.label {
                None => Ok(Gold::None),
                Some(Label::Values(values)) => {
                    let own = match order.as_ref().filter(|order| order.len() == values.len()) {
                        Some(order) => order.iter().map(|&place| values[place] as f32).collect(),
                        None => values.iter().map(|&value| value as f32).collect(),
                    };
                    Ok(Gold::Values(own))
                }
                Some(Label::Name(_) | Label::Names(_)) => {
                    let problem = "the label is a class, not a value; read the file for task = \"regress\"";
                    Err(examples.problem(example.line, problem.to_owned()))
                }
            };
            examples.list.iter().map(value).collect()
        }
    }
}

/// For each of these outputs the place of its column, where the columns are named as they are.
fn by_name(names: &[String], columns: &[String]) -> Option<Vec<usize>> {
    let place = |name: &String| columns.iter().position(|column| column == name);
    names
        .iter()
        .map(place)
        .collect::<Option<Vec<_>>>()
        .filter(|order| !order.is_empty() && order.len() == columns.len())
}

/// A note where labels mean something by their place rather than their name.
fn taken_in_order(examples: &Examples, targets: Labels<'_>) -> Option<String> {
    let all = |names: &[String]| listed(names.iter().map(String::as_str), LISTED);
    match targets {
        Labels::Classes(classes) | Labels::Sets(classes) if classes.are_indexed(examples) => {
            Some(format!("whole numbers are the classes in their order: {}", all(classes.names())))
        }
        Labels::Values(names) => {
            let columns = &examples.label_columns;
            let is_said = !names.is_empty() && !columns.is_empty() && by_name(names, columns).is_none();
            is_said.then(|| format!("columns {} are taken in their order for {}", all(columns), all(names)))
        }
        _ => None,
    }
}

fn count(wanted: &[Gold], targets: Labels<'_>) -> Vec<ClassCount> {
    let (Labels::Classes(classes) | Labels::Sets(classes)) = targets else { return Vec::new() };
    let mut counts: Vec<_> =
        classes.names().iter().map(|name| ClassCount { name: name.clone(), count: 0 }).collect();
    for target in wanted {
        match target {
            Gold::Class(index) => counts[*index].count += 1,
            Gold::Flags(flags) => {
                counts.iter_mut().zip(flags).for_each(|(class, flag)| class.count += *flag as usize);
            }
            _ => {}
        }
    }
    counts
}

impl ValueRange {
    fn of(targets: &[Gold]) -> Option<Self> {
        let values: Vec<f64> = targets
            .iter()
            .flat_map(|target| if let Gold::Values(values) = target { values.as_slice() } else { &[] })
            .map(|&value| f64::from(value))
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
