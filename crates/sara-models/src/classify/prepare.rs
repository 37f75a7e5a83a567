//! What a run of this task learns from.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use sara_core::Seed;

use super::{Classes, Dataset, Labels};
use crate::adapted::Answer;
use crate::data::{Example, Examples, Label, Rows, Task};
use crate::error::{Error, Result};
use crate::run;
use crate::tokenizer::Tokenizer;

/// The share of the examples that is kept apart to choose the best model by.
const VALID_SHARE: f64 = 0.1;

/// What a run learns from.
#[derive(Debug)]
pub struct Learned {
    /// What the head will answer.
    pub answer: Answer,
    /// The examples to learn from.
    pub train: Dataset,
    /// The examples to choose the best model by.
    pub valid: Dataset,
    /// What was decided.
    pub notes: Vec<String>,
}

/// Reads what a run learns from: the answer's classes, and both datasets. Without a file of validation examples some
/// of the others are kept apart, of each class its share, chosen by `seed`.
///
/// # Errors
/// What reading said, a label that is not known, or a task that the checkpoint's head does not have.
pub fn prepare(
    data: &run::Data,
    task: Task,
    labels: Option<&[String]>,
    seed: Seed,
    tokenizer: &Tokenizer,
) -> Result<Learned> {
    let read = |path| Rows::read(path, data.format)?.examples(&data.columns(), Some(task));
    let train = read(&data.train)?;
    let mut notes = Vec::new();
    let (classes, note) = match task {
        Task::Regress => (Classes::of_checkpoint(outputs(&train, labels)), None),
        Task::Classify | Task::MultiLabel => Classes::of_run(labels, &train)?,
    };
    notes.extend(note);
    let (train, valid) = if let Some(valid) = &data.valid {
        (train, read(valid)?)
    } else {
        let (train, valid) = split(train, data.valid_share.unwrap_or(VALID_SHARE), seed)?;
        notes.push(format!(
            "{} examples kept apart to choose the best model by, {} to learn from (seed {})",
            valid.list.len(),
            train.list.len(),
            seed.0
        ));
        (train, valid)
    };
    let targets = Labels::of(task, &classes);
    let max_tokens = data.max_tokens.unwrap_or(usize::MAX);
    let train = Dataset::prepare(&train, tokenizer, max_tokens, targets)?;
    let valid = Dataset::prepare(&valid, tokenizer, max_tokens, targets)?;
    Ok(Learned { answer: Answer { task, classes: classes.names().to_vec() }, train, valid, notes })
}

/// Names of several numbers, as the checkpoint, the columns or their places have them; none for a single one.
fn outputs(train: &Examples, labels: Option<&[String]>) -> Vec<String> {
    let n = train.list.iter().find_map(|example| match &example.label {
        Some(Label::Values(values)) => Some(values.len()),
        _ => None,
    });
    let n = n.filter(|&n| n > 1).unwrap_or(0);
    let numbered: Vec<String> = (0..n).map(|output| format!("LABEL_{output}")).collect();
    let named = labels.filter(|names| names.len() == n && *names != numbered);
    match (named, train.label_columns.as_slice()) {
        (Some(names), _) => names.to_vec(),
        (None, columns) if columns.len() == n => columns.to_vec(),
        _ => numbered,
    }
}

/// Keeps a share of the examples that can be used apart, of each class as nearly the same as whole numbers allow; both
/// sides keep the order of the file.
fn split(examples: Examples, share: f64, seed: Seed) -> Result<(Examples, Examples)> {
    let mut of_class: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let is_used = |example: &&(usize, &Example)| example.1.has_text() && example.1.label.is_some();
    let numbered: Vec<(usize, &Example)> = examples.list.iter().enumerate().collect();
    for (place, example) in numbered.iter().filter(is_used) {
        let class = match &example.label {
            Some(Label::Name(name)) => name.clone(),
            Some(Label::Names(names)) => names.join("|"),
            _ => String::new(),
        };
        of_class.entry(class).or_default().push(*place);
    }
    let mut order = Vec::new();
    for (class, mut places) in of_class {
        places.shuffle(&mut seed.rng(&format!("valid/{class}")));
        order.extend(places);
    }
    if order.is_empty() {
        let (path, total) = (examples.path.clone(), examples.list.len());
        return Err(if examples.list.iter().any(Example::has_text) {
            Error::NoLabels { path, examples: total, notes: examples.notes }
        } else {
            Error::NoTexts { path, examples: total }
        });
    }
    let wanted = ((order.len() as f64 * share).round() as usize).max(1);
    if wanted >= order.len() {
        return Err(Error::NothingToKeepApart { path: examples.path, examples: order.len(), share });
    }
    // One class after the other, and of this row evenly spaced ones: every n-th, from half of n on.
    let up_to = |place: usize| (2 * place * wanted + order.len()) / (2 * order.len());
    let mut apart = vec![false; examples.list.len()];
    for (place, &example) in order.iter().enumerate() {
        apart[example] = up_to(place + 1) > up_to(place);
    }
    let Examples { path, list, notes, label_columns } = examples;
    let (valid, train): (Vec<_>, Vec<_>) = list.into_iter().zip(apart).partition(|(_, apart)| *apart);
    let side = |list: Vec<(Example, bool)>, notes| Examples {
        path: path.clone(),
        list: list.into_iter().map(|(example, _)| example).collect(),
        notes,
        label_columns: label_columns.clone(),
    };
    Ok((side(train, notes), side(valid, Vec::new())))
}
