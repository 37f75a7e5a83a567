//! `sara merge`: fold an adapter into the weights and write the checkpoint.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::PathBuf;

use clap::Args;
use sara_core::Site;
use sara_models::adapted::{Adapted, Opens};
use sara_models::architecture::Kind;
use sara_models::decoder::config::DecoderConfig;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::Device;
use serde::Serialize;

use crate::adapter::{Beside, kind};
use crate::console::{Console, table};
use crate::device::{Compute, Job, dispatch};
use crate::files::Out;

/// Arguments of `sara merge`.
#[derive(Args)]
pub(crate) struct Merge {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the adapter, native or PEFT's, or of the run that trained it.
    #[arg(long)]
    adapter: PathBuf,
    #[command(flatten)]
    beside: Beside,
    #[command(flatten)]
    out: Out,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    sites: Vec<SiteReport>,
}

/// One merged layer, for the report.
#[derive(Serialize)]
pub(crate) struct SiteReport {
    name: String,
    frobenius_norm: f64,
}

struct MergeOf<'a, F>(&'a Merge, PhantomData<F>);

impl<F: Opens> Job for MergeOf<'_, F> {
    type Output = (Vec<SiteReport>, Vec<String>);

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let Merge { model, adapter, beside, out } = self.0;
        let adapted = Adapted::<B, F>::open_beside(model, Some(adapter), beside.base(), device)?;
        let (merged, norms) = adapted.merge()?;
        merged.save(&out.out)?;
        let linears = merged.checkpoint.config.linears();
        let names: BTreeMap<Site, String> =
            linears.into_iter().map(|target| (target.site, target.name)).collect();
        let report = |(site, frobenius_norm): (Site, f64)| {
            let name = names.get(&site).cloned().unwrap_or_else(|| site.to_string());
            SiteReport { name, frobenius_norm }
        };
        Ok((norms.into_iter().map(report).collect(), merged.notes))
    }
}

impl Merge {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        self.out.check_dir(&[&self.model, &self.adapter], "config.json")?;
        let device = device.unwrap_or(Device::Cpu);
        let (sites, notes) = match kind(&self.model)? {
            Kind::Encoder => dispatch(device, console, MergeOf::<EncoderConfig>(&self, PhantomData))?,
            Kind::Decoder => dispatch(device, console, MergeOf::<DecoderConfig>(&self, PhantomData))?,
        };
        console.notes(&notes);
        let heading = vec!["site".to_owned(), "norm of the change".to_owned()];
        let row = |site: &SiteReport| vec![site.name.clone(), format!("{:.4}", site.frobenius_norm)];
        console.say(table(&std::iter::once(heading).chain(sites.iter().map(row)).collect::<Vec<_>>()));
        console.say(format!("merged      {}", self.out.out.display()));
        console.result(&Report { out: self.out.out, sites })
    }
}
