//! `sara ranks`: the rank of each layer, from the singular values of its weight.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use sara_core::{Target, WeightSource};
use sara_models::architecture::Architecture;
use sara_models::checkpoint::Checkpoint;
use sara_models::plot::{SiteSpectrum, spectra_svg};
use sara_models::run::Device;
use sara_svd::{Convention, SpectrumRank, spectrum_rank};
use serde::Serialize;

use crate::console::{Console, table};
use crate::device::{Compute, Job, dispatch};
use crate::files::check_file;
use crate::params::parse_targets;
use crate::progress::bar;

/// Arguments of `sara ranks`.
#[derive(Args)]
pub(crate) struct Ranks {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Share of the sum of singular values that the rank must reach.
    #[arg(long)]
    share: f64,
    /// `reach`: the smallest rank that reaches the share; `floor`: the largest that stays below it, at least 1.
    #[arg(long, default_value = "reach", value_parser = ["reach", "floor"])]
    convention: String,
    /// Module names, separated by commas, or all-linear.
    #[arg(long, default_value = "all-linear")]
    targets: String,
    /// Draw the spectra into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Replace the picture of an earlier run.
    #[arg(long, requires = "svg")]
    overwrite: bool,
}

#[derive(Serialize)]
struct Report {
    share: f64,
    convention: Convention,
    elapsed_ms: f64,
    sites: Vec<SiteReport>,
}

#[derive(Serialize)]
struct SiteReport {
    name: String,
    d_in: usize,
    d_out: usize,
    rank: usize,
    nuclear_norm: f64,
    spectral_norm: f64,
}

struct Spectra<'a> {
    checkpoint: &'a Checkpoint<Box<dyn Architecture>>,
    targets: &'a [Target],
    share: f64,
    convention: Convention,
    console: Console,
}

impl Job for Spectra<'_> {
    type Output = Vec<SpectrumRank>;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output> {
        let bar = bar(self.console, self.targets.len() as u64, "weights");
        let mut weights = self.checkpoint.weight_source::<B>(device);
        let mut spectra = Vec::new();
        for target in self.targets {
            let spectrum = spectrum_rank(weights.weight(target)?, self.share, self.convention)
                .map_err(|source| sara_core::Error::Spectrum { name: target.name.clone(), source })?;
            spectra.push(spectrum);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(spectra)
    }
}

impl Ranks {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let convention = if self.convention == "floor" { Convention::Floor } else { Convention::Reach };
        // A share out of range is refused before any weight is read.
        sara_svd::host::rank_of(&[1.0], self.share, convention)?;
        let checkpoint = Checkpoint::open_any(&self.model)?;
        if let Some(path) = &self.svg {
            check_file(path, "--svg", self.overwrite, &[&checkpoint.dir])?;
        }
        let targets = parse_targets(&self.targets).select(&checkpoint.config.linears())?;
        let started = Instant::now();
        let job =
            Spectra { checkpoint: &checkpoint, targets: &targets, share: self.share, convention, console };
        let spectra = dispatch(device.unwrap_or(Device::Auto), console, job)?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        if let Some(path) = &self.svg {
            let roles: Vec<String> = targets.iter().map(|target| target.site.role.to_string()).collect();
            let sites: Vec<SiteSpectrum<'_>> = targets
                .iter()
                .zip(&spectra)
                .zip(&roles)
                .map(|((target, spectrum), role)| SiteSpectrum {
                    layer: target.site.layer,
                    role,
                    values: &spectrum.values,
                    rank: spectrum.rank,
                })
                .collect();
            spectra_svg(path, &sites)?;
        }
        let site = |(target, spectrum): (&Target, &SpectrumRank)| SiteReport {
            name: checkpoint.path_of(target),
            d_in: target.d_in,
            d_out: target.d_out,
            rank: spectrum.rank,
            nuclear_norm: spectrum.nuclear_norm,
            spectral_norm: spectrum.spectral_norm,
        };
        let sites: Vec<SiteReport> = targets.iter().zip(&spectra).map(site).collect();
        console.say(show(&sites));
        console.say(format!(
            "{} weights in {:.2} s, share {} of the sum of singular values ({})",
            sites.len(),
            elapsed_ms / 1e3,
            self.share,
            self.convention
        ));
        console.result(&Report { share: self.share, convention, elapsed_ms, sites })
    }
}

fn show(sites: &[SiteReport]) -> String {
    let heading = ["layer", "shape", "rank", "sum of singular values", "largest"].map(str::to_owned).to_vec();
    let row = |site: &SiteReport| {
        vec![
            site.name.clone(),
            format!("{} x {}", site.d_out, site.d_in),
            site.rank.to_string(),
            format!("{:.3}", site.nuclear_norm),
            format!("{:.3}", site.spectral_norm),
        ]
    };
    table(&std::iter::once(heading).chain(sites.iter().map(row)).collect::<Vec<_>>())
}
