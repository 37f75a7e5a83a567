//! `sara import`: make a native adapter of a PEFT one.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use sara_models::adapted::read_adapter;
use sara_models::encoder::EncoderCheckpoint;
use sara_models::run::Device;
use serde::Serialize;

use crate::console::Console;

/// Arguments of `sara import`.
#[derive(Args)]
pub(crate) struct Import {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the PEFT adapter.
    #[arg(long)]
    from: PathBuf,
    /// Where the native adapter goes; must not be there yet.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    method: &'static str,
    sites: usize,
}

impl Import {
    pub(crate) fn run(self, _device: Option<Device>, console: Console) -> anyhow::Result<()> {
        ensure!(!self.out.exists(), "{}: is there already; choose another --out", self.out.display());
        ensure!(
            self.from.join("adapter_config.json").exists(),
            "{}: holds no adapter_config.json, so it is no PEFT adapter",
            self.from.display()
        );
        let (stored, notes) = read_adapter(&self.from, &EncoderCheckpoint::open(&self.model)?)?;
        console.notes(&notes);
        stored.write(&self.out)?;
        let (method, sites) = (stored.manifest.method.name(), stored.manifest.plan.sites.len());
        console.say(format!("imported    {} ({method}, {sites} layers)", self.out.display()));
        console.result(&Report { out: self.out, method, sites })
    }
}
