//! `sara predict`: what a model says about each line.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use sara_models::adapted::{Adapted, Answer};
use sara_models::architecture::{Architecture, Kind};
use sara_models::causal_lm::evaluate::{Score, score};
use sara_models::classify::evaluate::predict;
use sara_models::classify::metrics::largest;
use sara_models::classify::{Dataset, Labels};
use sara_models::data::{Rows, Task};
use sara_models::decoder::config::DecoderConfig;
use sara_models::encoder::check_tokens;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::Device;
use sara_models::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::{Value, json};

use crate::adapter::Opened;
use crate::console::Console;
use crate::device::{Compute, Job, dispatch};
use crate::files::{DataFile, Out};

/// Arguments of `sara predict`.
#[derive(Args)]
pub(crate) struct Predict {
    #[command(flatten)]
    opened: Opened,
    #[command(flatten)]
    data: DataFile,
    #[command(flatten)]
    out: Out,
    /// Tokens at which texts are cut; 128 or the model's usable length by default.
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Examples of a batch.
    #[arg(long, default_value = "32")]
    batch_size: std::num::NonZeroUsize,
}

#[derive(Serialize)]
struct Report {
    examples: usize,
    truncated: usize,
    without_text: usize,
    out: PathBuf,
}

/// What came out, by the rows of the data.
pub(crate) struct Predicted {
    rows: Rows,
    said: Vec<Said>,
    /// What stands between several values in a cell.
    separator: String,
    truncated: usize,
    without_text: usize,
    notes: Vec<String>,
}

/// What is said of one row.
struct Said {
    /// Fields and their values, in order.
    fields: Vec<(&'static str, Value)>,
    /// What only lines of JSON hold.
    logits: Option<Value>,
}

/// Predicts by an encoder.
struct Answers<'a>(&'a Predict);

impl Job for Answers<'_> {
    type Output = Predicted;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Predicted> {
        let asked = self.0;
        let Adapted { checkpoint, model, trained, answer, mut notes, .. } =
            asked.opened.open::<B, EncoderConfig>(device)?;
        let tokenizer = Tokenizer::load(&checkpoint.dir)?;
        let rows = asked.data.rows()?;
        let examples = rows.examples(&asked.data.columns, None)?;
        let max_tokens = checkpoint.config.max_tokens(asked.max_tokens)?;
        let data = Dataset::prepare(&examples, &tokenizer, max_tokens, Labels::Ignored)?;
        check_tokens(&checkpoint.config, &data, &tokenizer)?;
        let mut logits = vec![None; rows.rows.len()];
        for (&place, row) in data.places.iter().zip(predict(&model, &trained, &data, asked.batch_size)?) {
            logits[place] = Some(row);
        }
        notes.extend(data.report.notes);
        let of_row = |logits: Option<Vec<f32>>| Said {
            fields: answered(&answer, logits.as_ref()),
            logits: Some(json!(logits)),
        };
        let separator = asked.data.columns.separator().to_owned();
        let (truncated, without_text) = (data.report.truncated, data.report.without_text);
        let said = logits.into_iter().map(of_row).collect();
        Ok(Predicted { rows, said, separator, truncated, without_text, notes })
    }
}

/// Scores by a decoder.
struct Scores<'a>(&'a Predict);

impl Job for Scores<'_> {
    type Output = Predicted;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Predicted> {
        let asked = self.0;
        let writer = asked.opened.open::<B, DecoderConfig>(device)?;
        let rows = asked.data.rows()?;
        let data = writer.examples(&rows, &asked.data.columns, asked.max_tokens)?;
        let mut scores = vec![None; rows.rows.len()];
        let found = score(&writer.model, &writer.trained.adapter, &data, asked.batch_size)?;
        for (&place, score) in data.places.iter().zip(found) {
            scores[place] = Some(score);
        }
        let of_row = |score: Option<Score>| {
            let (logprob, tokens) = (score.map(|score| score.logprob), score.map(|score| score.tokens));
            Said { fields: vec![("logprob", json!(logprob)), ("tokens", json!(tokens))], logits: None }
        };
        let (separator, truncated) = (String::new(), data.report.truncated);
        let notes = writer.notes.into_iter().chain(data.report.notes).collect();
        let said = scores.into_iter().map(of_row).collect();
        Ok(Predicted { rows, said, separator, truncated, without_text: data.report.dropped, notes })
    }
}

impl Predict {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        ensure!(
            !(self.out.is_stdout() && console.json),
            "--out - and --json both write on the standard output; leave one of them out"
        );
        let console = if self.out.is_stdout() { console.aside() } else { console };
        self.out.check_file(&self.opened.files(Some(&self.data.data)))?;
        let device = device.unwrap_or(Device::Auto);
        let predicted = match self.opened.kind()? {
            Kind::Encoder => dispatch(device, console, Answers(&self))?,
            Kind::Decoder => dispatch(device, console, Scores(&self))?,
        };
        let Predicted { truncated, without_text, notes, .. } = &predicted;
        let (truncated, without_text) = (*truncated, *without_text);
        console.notes(notes);
        let is_table =
            self.out.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        self.out.write(if is_table { predicted.table() } else { predicted.lines() }.as_bytes())?;
        let examples = predicted.said.len();
        let blank = if without_text > 0 { format!(", {without_text} without text") } else { String::new() };
        let shown = self.out.out.display();
        console.say(format!("{shown}: predictions for {examples} examples ({truncated} truncated{blank})"));
        console.result(&Report { examples, truncated, without_text, out: self.out.out })
    }
}

/// What these logits say, or that nothing is said.
fn answered(answer: &Answer, logits: Option<&Vec<f32>>) -> Vec<(&'static str, Value)> {
    let probability = |logits: &Vec<f32>, class: usize| {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - logits[class]).exp()).sum();
        1.0 / sum
    };
    match (answer.task, logits) {
        (Task::Regress, logits) => match logits.map(Vec::as_slice) {
            Some(&[value]) => vec![("value", json!(value))],
            several => vec![("value", json!(several))],
        },
        (Task::MultiLabel, None) => vec![("labels", Value::Null), ("probabilities", Value::Null)],
        (Task::MultiLabel, Some(logits)) => {
            let applies = answer.classes.iter().zip(logits).filter(|(_, logit)| **logit >= 0.0);
            let labels: Vec<&String> = applies.map(|(name, _)| name).collect();
            let probabilities: Vec<f64> =
                logits.iter().map(|&logit| 1.0 / (1.0 + f64::from(-logit).exp())).collect();
            vec![("labels", json!(labels)), ("probabilities", json!(probabilities))]
        }
        (Task::Classify | Task::CausalLm, None) => vec![("label", Value::Null), ("probability", Value::Null)],
        (Task::Classify | Task::CausalLm, Some(logits)) => {
            let class = largest(logits);
            let label = answer.classes.get(class);
            vec![("label", json!(label)), ("probability", json!(probability(logits, class)))]
        }
    }
}

impl Predicted {
    /// A JSON object for each row.
    fn lines(&self) -> String {
        let line = |said: &Said| {
            let logits = said.logits.iter().map(|logits| ("logits", logits.clone()));
            let object: serde_json::Map<String, Value> = said
                .fields
                .iter()
                .cloned()
                .chain(logits)
                .map(|(key, value)| (key.to_owned(), value))
                .collect();
            format!("{}\n", Value::Object(object))
        };
        self.said.iter().map(line).collect()
    }

    /// A table of the rows as they came, with what is said of each behind.
    fn table(&self) -> String {
        let names: Vec<&str> = self
            .said
            .first()
            .map_or_else(Vec::new, |said| said.fields.iter().map(|(name, _)| *name).collect());
        let is_taken = names
            .iter()
            .any(|name| self.rows.columns.iter().any(|column| column.trim().eq_ignore_ascii_case(name)));
        let before = if is_taken { "predicted_" } else { "" };
        let new = names.iter().map(|name| format!("{before}{name}"));
        let header: Vec<String> = self.rows.columns.iter().cloned().chain(new).collect();
        let mut table = record(&header);
        for (row, said) in self.rows.rows.iter().zip(&self.said) {
            let values = said.fields.iter().map(|(_, value)| self.said_cell(value));
            table.push_str(&record(&row.fields.iter().map(cell).chain(values).collect::<Vec<_>>()));
        }
        table
    }

    /// Several values stand in one cell, with what separates labels between them.
    fn said_cell(&self, value: &Value) -> String {
        match value {
            Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(&self.separator),
            value => cell(value),
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A line of a table; fields stand in quotes where they need them.
fn record(fields: &[String]) -> String {
    let quoted = |field: &String| {
        let needs = field.contains([',', '"', '\n', '\r']) || field.trim() != field;
        if needs { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.clone() }
    };
    format!("{}\n", fields.iter().map(quoted).collect::<Vec<_>>().join(","))
}
