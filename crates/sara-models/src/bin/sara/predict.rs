//! `sara predict`: what a model says about each line.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use sara_models::adapted::{Adapted, Answer};
use sara_models::architecture::Architecture;
use sara_models::classify::evaluate::predict;
use sara_models::classify::metrics::largest;
use sara_models::classify::{Dataset, Labels, Report as DataReport};
use sara_models::data::{Rows, Task};
use sara_models::encoder::check_tokens;
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
    answer: Answer,
    /// `None` where a row has no text.
    logits: Vec<Option<Vec<f32>>>,
    /// What stands between several values in a cell.
    separator: String,
    report: DataReport,
    notes: Vec<String>,
}

impl Job for &Predict {
    type Output = Predicted;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let Adapted { checkpoint, model, trained, answer, notes, .. } = self.opened.open::<B>(device)?;
        let tokenizer = Tokenizer::load(&checkpoint.dir)?;
        let rows = self.data.rows()?;
        let examples = rows.examples(&self.data.columns, None)?;
        let max_tokens = checkpoint.config.max_tokens(self.max_tokens)?;
        let data = Dataset::prepare(&examples, &tokenizer, max_tokens, Labels::Ignored)?;
        check_tokens(&checkpoint.config, &data, &tokenizer)?;
        let mut logits = vec![None; rows.rows.len()];
        for (&place, row) in data.places.iter().zip(predict(&model, &trained, &data, self.batch_size)?) {
            logits[place] = Some(row);
        }
        let separator = self.data.columns.separator().to_owned();
        Ok(Predicted { rows, answer, logits, separator, report: data.report, notes })
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
        let predicted = dispatch(device.unwrap_or(Device::Auto), console, &self)?;
        let Predicted { report, notes, .. } = &predicted;
        console.notes(notes);
        console.notes(&report.notes);
        let is_table =
            self.out.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        self.out.write(if is_table { predicted.table() } else { predicted.lines() }.as_bytes())?;
        let (examples, truncated, without_text) =
            (predicted.logits.len(), report.truncated, report.without_text);
        let blank = if without_text > 0 { format!(", {without_text} without text") } else { String::new() };
        let shown = self.out.out.display();
        console.say(format!("{shown}: predictions for {examples} examples ({truncated} truncated{blank})"));
        console.result(&Report { examples, truncated, without_text, out: self.out.out })
    }
}

impl Predicted {
    /// What is said of one row, and its fields, in order.
    fn said(&self, logits: Option<&Vec<f32>>) -> Vec<(&'static str, Value)> {
        let probability = |logits: &Vec<f32>, class: usize| {
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit - logits[class]).exp()).sum();
            1.0 / sum
        };
        match (self.answer.task, logits) {
            (Task::Regress, logits) => match logits.map(Vec::as_slice) {
                Some(&[value]) => vec![("value", json!(value))],
                several => vec![("value", json!(several))],
            },
            (Task::MultiLabel, None) => vec![("labels", Value::Null), ("probabilities", Value::Null)],
            (Task::MultiLabel, Some(logits)) => {
                let applies = self.answer.classes.iter().zip(logits).filter(|(_, logit)| **logit >= 0.0);
                let labels: Vec<&String> = applies.map(|(name, _)| name).collect();
                let probabilities: Vec<f64> =
                    logits.iter().map(|&logit| 1.0 / (1.0 + f64::from(-logit).exp())).collect();
                vec![("labels", json!(labels)), ("probabilities", json!(probabilities))]
            }
            (Task::Classify, None) => vec![("label", Value::Null), ("probability", Value::Null)],
            (Task::Classify, Some(logits)) => {
                let class = largest(logits);
                let label = self.answer.classes.get(class);
                vec![("label", json!(label)), ("probability", json!(probability(logits, class)))]
            }
        }
    }

    /// A JSON object for each row.
    fn lines(&self) -> String {
        let line = |logits: &Option<Vec<f32>>| {
            let mut said = self.said(logits.as_ref());
            said.push(("logits", json!(logits)));
            let object: serde_json::Map<String, Value> =
                said.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            format!("{}\n", Value::Object(object))
        };
        self.logits.iter().map(line).collect()
    }

    /// A table of the rows as they came, with what is said of each behind.
    fn table(&self) -> String {
        let said = self.said(None);
        let is_taken = said
            .iter()
            .any(|(name, _)| self.rows.columns.iter().any(|column| column.trim().eq_ignore_ascii_case(name)));
        let before = if is_taken { "predicted_" } else { "" };
        let new = said.iter().map(|(name, _)| format!("{before}{name}"));
        let header: Vec<String> = self.rows.columns.iter().cloned().chain(new).collect();
        let mut table = record(&header);
        for (row, logits) in self.rows.rows.iter().zip(&self.logits) {
            let said = self.said(logits.as_ref());
            let values = said.iter().map(|(_, value)| self.said_cell(value));
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
