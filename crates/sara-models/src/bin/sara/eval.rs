//! `sara eval`: measure a model, with or without an adapter, on labelled data.

use anyhow::ensure;
use clap::Args;
use sara_models::classify::Dataset;
use sara_models::classify::evaluate::evaluate;
use sara_models::data::Task;
use sara_models::run::Device;
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

impl Job for &Eval {
    type Output = (Dataset, Metrics, Vec<String>);

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let adapted = self.opened.open::<B>(device)?;
        ensure!(
            self.task.is_none_or(|task| task == adapted.answer.task),
            "the head was trained for another task; leave --task out to use its own"
        );
        ensure!(
            self.data.columns.label_separator.is_none() || adapted.answer.task == Task::MultiLabel,
            "--label-separator is for several labels, and the head gives one answer; leave it out"
        );
        let data = adapted.labelled(&self.data.rows()?, &self.data.columns, self.max_tokens)?;
        let metrics = evaluate(&adapted.model, &adapted.trained, &data, self.batch_size)?;
        Ok((data, metrics, adapted.notes))
    }
}

impl Eval {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let (data, metrics, notes) = dispatch(device.unwrap_or(Device::Auto), console, &self)?;
        console.notes(&notes);
        console.say(&data.report);
        for (name, value) in metrics.iter() {
            console.say(format!("{name:<15} {value}"));
        }
        console.result(&Report { examples: data.items.len(), metrics })
    }
}
