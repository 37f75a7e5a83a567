//! Examples as token ids, and which of them are learned.

use std::fmt;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ChatTokenizer;
use super::example::{Example, Examples};
use super::template::Ending;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::tokenizer::Frame;

/// What a file's examples become.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The examples that are kept, in the order of their lines.
    pub items: Vec<Item>,
    /// The place of each among the rows of the file, from 0.
    pub places: Vec<usize>,
    /// The line of the file on which each begins.
    pub lines: Vec<usize>,
    /// What they are like, and what was cut or left out.
    pub report: Report,
}

/// One example as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each is learned from those before it; the first never is.
    pub trained: Vec<bool>,
}

/// Which tokens are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// Completions and the assistant's turns; of a text all but the first.
    #[default]
    Completion,
    /// All but the first.
    All,
}

/// What a dataset is like; its `Display` is for people, before the first step.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Examples that are used.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those that are learned.
    pub trained_tokens: usize,
    /// Examples cut to the limit.
    pub truncated: usize,
    /// Rows left out: without a text, or cut to nothing that is learned.
    pub dropped: usize,
    /// Prompts that end within a token of the whole, which is learned as a whole.
    pub boundary_moved: usize,
    /// The limit on tokens per example.
    pub max_tokens: usize,
    /// The longest example before the cut.
    pub longest: usize,
    /// What was assumed in reading the file.
    pub notes: Vec<String>,
}

/// An example before it is cut.
struct Whole {
    item: Item,
    boundary_moved: bool,
}

impl Dataset {
    /// Tokenizes the examples and says what is learned of each. A text that is too long loses its end.
    ///
    /// # Errors
    /// [`Error::Data`] for an example that nothing can be learned from; [`Error::NothingTrained`] if every one would be
    /// left out; the errors of [`Tokenizer::tokens`](crate::tokenizer::Tokenizer::tokens).
    pub fn prepare(
        examples: &Examples,
        tokenizer: &ChatTokenizer,
        max_tokens: usize,
        train_on: TrainOn,
    ) -> Result<Self> {
        let whole = |(line, example): &(usize, Option<Example>)| {
            example.as_ref().map(|example| whole(examples, *line, example, tokenizer, train_on)).transpose()
        };
        let all = examples.list.par_iter().map(whole).collect::<Result<Vec<_>>>()?;
        let path = examples.path.clone();
        let mut report = Report { path, max_tokens, notes: examples.notes.clone(), ..Report::default() };
        let (mut items, mut places, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (place, whole) in all.into_iter().enumerate() {
            let Some(Whole { mut item, boundary_moved }) = whole else {
                report.dropped += 1;
                continue;
            };
            report.longest = report.longest.max(item.ids.len());
            if item.ids.len() > max_tokens {
                item.ids.truncate(max_tokens);
                item.trained.truncate(max_tokens);
                report.truncated += 1;
            }
            let trained = item.trained.iter().filter(|&&trained| trained).count();
            if trained == 0 {
                report.dropped += 1;
                continue;
            }
            report.boundary_moved += usize::from(boundary_moved);
            report.trained_tokens += trained;
            report.tokens += item.ids.len();
            items.push(item);
            places.push(place);
            lines.push(examples.list[place].0);
        }
        report.examples = items.len();
        if items.is_empty() {
            return Err(Error::NothingTrained {
                path: report.path,
                examples: examples.list.len(),
                max_tokens,
            });
        }
        Ok(Self { items, places, lines, report })
    }

    /// The number of tokens of each item.
    pub fn lengths(&self) -> Vec<usize> {
        self.items.iter().map(|item| item.ids.len()).collect()
    }

    /// A hash of the items in their order.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        for Item { ids, trained } in &self.items {
            hash.add(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>());
            hash.add(&trained.iter().map(|&trained| u8::from(trained)).collect::<Vec<_>>());
        }
        hash.finish()
    }
}

fn whole(
    examples: &Examples,
    line: usize,
    example: &Example,
    tokenizer: &ChatTokenizer,
    train_on: TrainOn,
) -> Result<Whole> {
    let eos = tokenizer.special("eos_token").and_then(|token| tokenizer.id(token));
    let eos = eos.ok_or_else(|| Error::NoEndOfText { path: tokenizer.path().to_owned() })?;
    let ended = |mut ids: Vec<u32>| {
        if ids.last() != Some(&eos) {
            ids.push(eos);
        }
        ids
    };
    let (ids, from, boundary_moved) = match example {
        Example::Text(text) => (ended(tokenizer.tokens(text, Frame::Own)?.ids), 1, false),
        Example::Prompt { prompt, completion } => {
            let ids = ended(tokenizer.tokens(&format!("{prompt}{completion}"), Frame::Own)?.ids);
            let given = given(prompt, tokenizer)?;
            if completion.is_empty() {
                let problem =
                    "has an empty completion, of which nothing can be learned; write one or remove the line";
                return Err(examples.problem(line, problem.to_owned()));
            }
            let same = ids.iter().zip(&given).take_while(|(a, b)| a == b).count();
            (ids, same.max(1), same < given.len())
        }
        Example::Chat { messages, variables } => {
            let said = chat(messages, variables, tokenizer, train_on);
            let item = said.map_err(|error| examples.problem(line, error.to_string()))?;
            return Ok(Whole { item, boundary_moved: false });
        }
    };
    let from = if train_on == TrainOn::All { 1 } else { from };
    let trained = (0..ids.len()).map(|place| place >= from).collect();
    Ok(Whole { item: Item { ids, trained }, boundary_moved })
}

/// What a text is to go on from, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The tokens that are given.
    pub prompt: Vec<u32>,
    /// The text that is to follow.
    pub expected: String,
}

impl Question {
    /// The questions in these examples: prompts, and conversations up to their last turn. A plain text asks nothing.
    ///
    /// # Errors
    /// As [`Dataset::prepare`].
    pub fn all(examples: &Examples, tokenizer: &ChatTokenizer) -> Result<Vec<Self>> {
        let mut questions = Vec::new();
        for (line, example) in &examples.list {
            let question = match example {
                None | Some(Example::Text(_)) => continue,
                Some(Example::Prompt { prompt, completion }) => {
                    Self { prompt: given(prompt, tokenizer)?, expected: completion.clone() }
                }
                Some(Example::Chat { messages, variables }) => {
                    let Some((last, before)) = messages.split_last() else { continue };
                    let text = tokenizer
                        .template()
                        .and_then(|template| template.text(before, variables, Ending::Prompt))
                        .map_err(|error| examples.problem(*line, error.to_string()))?;
                    let expected = last["content"].as_str().unwrap_or_default().to_owned();
                    Self { prompt: tokenizer.tokens(&text, Frame::Bare)?.ids, expected }
                }
            };
            questions.push(question);
        }
        Ok(questions)
    }
}

/// The tokens of a prompt, without what the tokenizer puts behind every text.
fn given(prompt: &str, tokenizer: &ChatTokenizer) -> Result<Vec<u32>> {
    let mut ids = tokenizer.tokens(prompt, Frame::Own)?.ids;
    let eos = tokenizer.special("eos_token").unwrap_or_default();
    if ids.last().is_some_and(|&last| Some(last) == tokenizer.id(eos)) && !prompt.ends_with(eos) {
        ids.pop();
    }
    Ok(ids)
}

/// A conversation, of which the assistant's turns are learned.
fn chat(
    messages: &[Value],
    variables: &Map<String, Value>,
    tokenizer: &ChatTokenizer,
    train_on: TrainOn,
) -> Result<Item> {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        return Err(Error::NoAnswer);
    }
    let rendered = tokenizer.template()?.conversation(messages, variables)?;
    let tokens = tokenizer.tokens(&rendered.text, Frame::Bare)?;
    let mut trained = match train_on {
        TrainOn::Completion => rendered.trained(&tokens),
        TrainOn::All => vec![true; tokens.ids.len()],
    };
    // Nothing stands before the first token, from which it could be told.
    if let Some(first) = trained.first_mut() {
        *first = false;
    }
    Ok(Item { ids: tokens.ids, trained })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { examples, tokens, trained_tokens, truncated, dropped, max_tokens, longest, .. } = self;
        write!(f, "{}: {examples} examples", self.path.display())?;
        write!(f, "\n  tokens     {tokens}, {trained_tokens} of them learned, longest text {longest}")?;
        write!(f, "\n  truncated  {truncated} to max_tokens = {max_tokens}")?;
        if *dropped > 0 {
            write!(f, "\n  dropped    {dropped} of which nothing is learned")?;
        }
        if self.boundary_moved > 0 {
            write!(f, "\n  boundary   {} prompts end within a token, which is learned", self.boundary_moved)?;
        }
        for note in &self.notes {
            write!(f, "\n  note       {note}")?;
        }
        Ok(())
    }
}
