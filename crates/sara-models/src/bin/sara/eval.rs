//! `sara eval`: measure a model, with or without an adapter, on labelled data.

use std::marker::PhantomData;

use anyhow::ensure;
use clap::Args;
use sara_models::adapted::Opens;
use sara_models::architecture::Kind;
use sara_models::data::Task;
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

struct EvalOf<'a, F>(&'a Eval, PhantomData<F>);

impl<F: Opens> Job for EvalOf<'_, F> {
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
        let data = adapted.examples(&asked.data.rows()?, &asked.data.columns, asked.max_tokens)?;
        let metrics = adapted.evaluate(&data, asked.batch_size)?;
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
