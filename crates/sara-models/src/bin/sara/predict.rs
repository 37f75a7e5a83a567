//! `sara predict`: the logits of each line.

use std::path::PathBuf;

use clap::Args;
use sara_core::store::write_file;
use sara_models::adapted::Adapted;
use sara_models::architecture::Architecture;
use sara_models::classify::evaluate::predict;
use sara_models::classify::{Dataset, Labels};
use sara_models::data::read;
use sara_models::run::Device;
use sara_models::tokenizer::Tokenizer;
use serde::Serialize;

use crate::console::Console;
use crate::device::{Compute, Job, dispatch};

/// Arguments of `sara predict`.
#[derive(Args)]
pub(crate) struct Predict {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the adapter, native or PEFT's.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Texts, with or without labels: jsonl, csv or tsv.
    #[arg(long)]
    data: PathBuf,
    /// Where the logits go, one JSON object for each line.
    #[arg(long)]
    out: PathBuf,
    /// Tokens at which texts are cut; 128 or the model's usable length by default.
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Examples of a batch.
    #[arg(long, default_value = "32")]
    batch_size: std::num::NonZeroUsize,
}

#[derive(Serialize)]
struct Line<'a> {
    logits: &'a [f32],
}

#[derive(Serialize)]
struct Report {
    examples: usize,
    truncated: usize,
    out: PathBuf,
}

impl Job for &Predict {
    type Output = (Dataset, Vec<Vec<f32>>, Vec<String>);

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let Adapted { checkpoint, model, trained, answer, notes, .. } =
            Adapted::<B>::open(&self.model, self.adapter.as_deref(), device)?;
        let tokenizer = Tokenizer::load(&self.model)?;
        let examples = read(&self.data, answer.task)?;
        let max_tokens = checkpoint.config.max_tokens(self.max_tokens)?;
        let data = Dataset::prepare(&examples, &tokenizer, max_tokens, Labels::Ignored)?;
        let logits = predict(&model, &trained, &data, self.batch_size)?;
        Ok((data, logits, notes))
    }
}

impl Predict {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let (data, logits, notes) = dispatch(device.unwrap_or(Device::Auto), console, &self)?;
        console.notes(&notes);
        let mut text = String::new();
        for logits in &logits {
            text.push_str(&serde_json::to_string(&Line { logits })?);
            text.push('\n');
        }
        write_file(&self.out, text.as_bytes())?;
        let (examples, truncated) = (data.items.len(), data.report.truncated);
        console.say(format!("{}: logits of {examples} examples ({truncated} truncated)", self.out.display()));
        console.result(&Report { examples, truncated, out: self.out })
    }
}
