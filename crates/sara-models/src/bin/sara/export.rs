//! `sara export`: write an adapter in another program's format.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use sara_models::adapted::Adapted;
use sara_models::adapted::handover::{PeftProfile, export_peft};
use sara_models::run::Device;
use serde::Serialize;

use crate::console::Console;
use crate::device::{Compute, Job, dispatch};

/// Arguments of `sara export`.
#[derive(Args)]
pub(crate) struct Export {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the adapter.
    #[arg(long)]
    adapter: PathBuf,
    /// `peft`: every loader reads it; `peft-compact`: each layer at its own rank, for recent loaders.
    #[arg(long, value_parser = ["peft", "peft-compact"])]
    to: String,
    /// Where it goes; must not be there yet.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    to: String,
}

impl Job for &Export {
    type Output = Vec<String>;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Vec<String>> {
        let profile = if self.to == "peft-compact" { PeftProfile::Compact } else { PeftProfile::Portable };
        let adapted = Adapted::<B>::open(&self.model, Some(&self.adapter), device)?;
        export_peft(&adapted, profile, &self.out)?;
        Ok(adapted.notes)
    }
}

impl Export {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        ensure!(!self.out.exists(), "{}: is there already; choose another --out", self.out.display());
        console.notes(&dispatch(device.unwrap_or(Device::Cpu), console, &self)?);
        console.say(format!("exported    {} ({})", self.out.display(), self.to));
        console.result(&Report { out: self.out, to: self.to })
    }
}
