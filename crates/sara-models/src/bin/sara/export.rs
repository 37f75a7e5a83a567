//! `sara export`: write an adapter in another program's format.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use clap::Args;
use sara_models::adapted::handover::{PeftProfile, export_peft};
use sara_models::adapted::{Adapted, Opens};
use sara_models::architecture::Kind;
use sara_models::data::{Columns, Rows};
use sara_models::decoder::config::DecoderConfig;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::Device;
use serde::Serialize;

use crate::adapter::{Beside, kind};
use crate::console::Console;
use crate::device::{Compute, Job, dispatch};
use crate::files::Out;

/// Arguments of `sara export`.
#[derive(Args)]
pub(crate) struct Export {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the adapter, or of the run that trained it.
    #[arg(long)]
    adapter: PathBuf,
    #[command(flatten)]
    beside: Beside,
    /// `peft`: every loader reads it; `peft-compact`: each layer at its own rank, for recent loaders.
    #[arg(long, value_parser = ["peft", "peft-compact"])]
    to: String,
    /// Makes what depends on the input constant first: `mean-gate` is the mean over the tokens of --calibrate.
    #[arg(long, value_parser = ["mean-gate"], requires = "calibrate")]
    collapse: Option<String>,
    /// Labelled examples whose tokens decide the mean.
    #[arg(long, requires = "collapse")]
    calibrate: Option<PathBuf>,
    #[command(flatten)]
    out: Out,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    to: String,
    #[serde(flatten)]
    collapsed: Option<Collapsed>,
}

/// What the mean costs, on the data that it is taken over.
#[derive(Serialize)]
pub(crate) struct Collapsed {
    loss_before: Option<f64>,
    loss_after: Option<f64>,
}

struct ExportOf<'a, F>(&'a Export, PhantomData<F>);

impl<F: Opens> Job for ExportOf<'_, F> {
    type Output = (Vec<String>, Option<Collapsed>);

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let asked = self.0;
        let profile = if asked.to == "peft-compact" { PeftProfile::Compact } else { PeftProfile::Portable };
        let mut adapted =
            Adapted::<B, F>::open_beside(&asked.model, Some(&asked.adapter), asked.beside.base(), device)?;
        let mut collapsed = None;
        if let Some(file) = &asked.calibrate {
            let data = adapted.examples(&Rows::read(file, None)?, &Columns::default(), None)?;
            let (of_mean, before, after) = adapted.collapse(&data)?;
            adapted = of_mean;
            collapsed =
                Some(Collapsed { loss_before: before.value("loss"), loss_after: after.value("loss") });
        }
        export_peft(&adapted, profile, &asked.out.out)?;
        Ok((adapted.notes, collapsed))
    }
}

impl Export {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let read = [Some(&self.model), Some(&self.adapter), self.calibrate.as_ref()];
        let read: Vec<&Path> = read.into_iter().flatten().map(PathBuf::as_path).collect();
        self.out.check_dir(&read, "adapter_config.json")?;
        let device = device.unwrap_or(Device::Cpu);
        let (notes, collapsed) = match kind(&self.model)? {
            Kind::Encoder => dispatch(device, console, ExportOf::<EncoderConfig>(&self, PhantomData))?,
            Kind::Decoder => dispatch(device, console, ExportOf::<DecoderConfig>(&self, PhantomData))?,
        };
        console.notes(&notes);
        if let Some(Collapsed { loss_before: Some(before), loss_after: Some(after) }) = &collapsed {
            console.say(format!("loss        {before:.4} routed, {after:.4} at the mean of the gates"));
        }
        console.say(format!("exported    {} ({})", self.out.out.display(), self.to));
        console.result(&Report { out: self.out.out, to: self.to, collapsed })
    }
}
