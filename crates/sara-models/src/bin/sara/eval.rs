//! `sara eval`: measure a model, with or without an adapter, on labelled data.

use std::marker::PhantomData;

use anyhow::{bail, ensure};
use clap::Args;
use sara_models::adapted::{Adapted, Opens, Writer};
use sara_models::architecture::Kind;
use sara_models::causal_lm::evaluate::exact_match;
use sara_models::causal_lm::{ChatTokenizer, Examples, Question};
use sara_models::data::{Rows, Task};
use sara_models::decoder::config::DecoderConfig;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::{Device, Learnable};
use sara_models::train::metrics::Metrics;
use serde::Serialize;

use crate::adapter::Opened;
use crate::console::Console;
use crate::device::{Compute, Job, dispatch};
use crate::files::DataFile;

/// Arguments of `sara eval`.
#[derive(Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    opened: Opened,
    #[command(flatten)]
    data: DataFile,
    /// The task; what the head was trained for by default.
    #[arg(long, value_enum)]
    task: Option<Task>,
    /// Tokens at which texts are cut; 128 or the model's usable length by default.
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Let the model answer each prompt, and count the answers that are right word for word; for models that write.
    #[arg(long)]
    generate: bool,
    /// With --generate: new tokens at most.
    #[arg(long, default_value_t = 64, requires = "generate")]
    max_new_tokens: usize,
    /// Examples of a batch.
    #[arg(long, default_value = "32")]
    batch_size: std::num::NonZeroUsize,
}

#[derive(Serialize)]
struct Report {
    examples: usize,
    metrics: Metrics,
}

/// What was measured.
struct Measured {
    report: String,
    examples: usize,
    metrics: Metrics,
    notes: Vec<String>,
}

/// What only some families can do.
trait Answers: Opens {
    /// The share of right answers, `None` where nothing is asked.
    fn exact_match<B: Compute>(
        adapted: &Adapted<B, Self>,
        asked: &Eval,
        rows: &Rows,
    ) -> anyhow::Result<Option<f64>>;
}

impl Answers for EncoderConfig {
    fn exact_match<B: Compute>(_: &Adapted<B>, _: &Eval, _: &Rows) -> anyhow::Result<Option<f64>> {
        bail!("--generate is for models that write, and this one is an encoder; leave it out")
    }
}

impl Answers for DecoderConfig {
    fn exact_match<B: Compute>(writer: &Writer<B>, asked: &Eval, rows: &Rows) -> anyhow::Result<Option<f64>> {
        let tokenizer = ChatTokenizer::load(&writer.checkpoint.dir)?;
        let questions = Question::all(&Examples::of_rows(rows)?, &tokenizer)?;
        let answers = writer.answers(&questions, &tokenizer, asked.max_new_tokens, asked.batch_size)?;
        Ok(exact_match(&questions, &answers))
    }
}

struct EvalOf<'a, F>(&'a Eval, PhantomData<F>);

impl<F: Answers> Job for EvalOf<'_, F> {
    type Output = Measured;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Measured> {
        let asked = self.0;
        let adapted = asked.opened.open::<B, F>(device)?;
        ensure!(
            asked.task.is_none_or(|task| task == adapted.answer.task),
            "the head was trained for another task; leave --task out to use its own"
        );
        ensure!(
            asked.data.columns.label_separator.is_none() || adapted.answer.task == Task::MultiLabel,
            "--label-separator is for several labels, and the head gives one answer; leave it out"
        );
        let rows = asked.data.rows()?;
        let data = adapted.examples(&rows, &asked.data.columns, asked.max_tokens)?;
        let mut metrics = adapted.evaluate(&data, asked.batch_size)?;
        if asked.generate {
            metrics.insert("exact_match", F::exact_match(&adapted, asked, &rows)?);
        }
        let (report, examples) = (data.report().to_string(), data.examples());
        Ok(Measured { report, examples, metrics, notes: adapted.notes })
    }
}

impl Eval {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let device = device.unwrap_or(Device::Auto);
        let Measured { report, examples, metrics, notes } = match self.opened.kind()? {
            Kind::Encoder => dispatch(device, console, EvalOf::<EncoderConfig>(&self, PhantomData))?,
            Kind::Decoder => dispatch(device, console, EvalOf::<DecoderConfig>(&self, PhantomData))?,
        };
        console.notes(&notes);
        console.say(report);
        for (name, value) in metrics.iter() {
            console.say(format!("{name:<15} {value}"));
        }
        console.result(&Report { examples, metrics })
    }
}
