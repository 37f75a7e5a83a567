//! `sara import`: make a native adapter of a PEFT one.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use sara_models::adapted::{Base, peft_dir, read_adapter};
use sara_models::architecture::Kind;
use sara_models::decoder::DecoderCheckpoint;
use sara_models::encoder::EncoderCheckpoint;
use sara_models::run::Device;
use serde::Serialize;

use crate::adapter::kind;
use crate::console::Console;
use crate::files::Out;

/// Arguments of `sara import`.
#[derive(Args)]
pub(crate) struct Import {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the PEFT adapter.
    #[arg(long)]
    from: PathBuf,
    #[command(flatten)]
    out: Out,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    method: &'static str,
    sites: usize,
}

impl Import {
    pub(crate) fn run(self, _device: Option<Device>, console: Console) -> anyhow::Result<()> {
        self.out.check_dir(&[&self.model, &self.from], "adapter.json")?;
        let problem =
            || format!("{}: holds no adapter_config.json, so it is no PEFT adapter", self.from.display());
        let from = peft_dir(&self.from)?.with_context(problem)?;
        let (stored, notes) = match kind(&self.model)? {
            Kind::Encoder => read_adapter(&from, &EncoderCheckpoint::open(&self.model)?, Base::TrainedOn)?,
            Kind::Decoder => read_adapter(&from, &DecoderCheckpoint::open(&self.model)?, Base::TrainedOn)?,
        };
        console.notes(&notes);
        stored.write(&self.out.out)?;
        let (method, sites) = (stored.manifest.method.name(), stored.manifest.plan.sites.len());
        console.say(format!("imported    {} ({method}, {sites} layers)", self.out.out.display()));
        console.result(&Report { out: self.out.out, method, sites })
    }
}
