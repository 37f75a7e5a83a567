//! `sara merge`: fold an adapter into the weights and write the checkpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use sara_core::Site;
use sara_models::adapted::Adapted;
use sara_models::architecture::Architecture;
use sara_models::run::Device;
use serde::Serialize;

use crate::adapter::Beside;
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

impl Job for &Merge {
    type Output = (Vec<SiteReport>, Vec<String>);

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let (merged, norms) =
            Adapted::<B>::open_beside(&self.model, Some(&self.adapter), self.beside.base(), device)?
                .merge()?;
        merged.save(&self.out.out)?;
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
        let (sites, notes) = dispatch(device.unwrap_or(Device::Cpu), console, &self)?;
        console.notes(&notes);
        let heading = vec!["site".to_owned(), "norm of the change".to_owned()];
        let row = |site: &SiteReport| vec![site.name.clone(), format!("{:.4}", site.frobenius_norm)];
        console.say(table(&std::iter::once(heading).chain(sites.iter().map(row)).collect::<Vec<_>>()));
        console.say(format!("merged      {}", self.out.out.display()));
        console.result(&Report { out: self.out.out, sites })
    }
}
