//! What a run of this task learns from.

use super::{Classes, Dataset, Labels};
use crate::adapted::Answer;
use crate::data::{Task, read};
use crate::error::Result;
use crate::run;
use crate::tokenizer::Tokenizer;

/// What a run learns from: the answer's classes, and both datasets.
///
/// # Errors
/// What reading said, a label that is not known, or a task that the checkpoint's head does not have.
pub fn prepare(
    data: &run::Data,
    task: Task,
    labels: Option<&[String]>,
    tokenizer: &Tokenizer,
) -> Result<(Answer, Dataset, Dataset)> {
    let (train, valid) = (read(&data.train, task)?, read(&data.valid, task)?);
    let classes = match task {
        Task::Regress => None,
        Task::Classify => Some(Classes::of_run(labels, &train)?),
    };
    let targets = classes.as_ref().map_or(Labels::Values, Labels::Classes);
    let max_tokens = data.max_tokens.unwrap_or(usize::MAX);
    let train = Dataset::prepare(&train, tokenizer, max_tokens, targets)?;
    let valid = Dataset::prepare(&valid, tokenizer, max_tokens, targets)?;
    let classes = classes.as_ref().map_or_else(Vec::new, |classes| classes.names().to_vec());
    Ok((Answer { task, classes }, train, valid))
}
