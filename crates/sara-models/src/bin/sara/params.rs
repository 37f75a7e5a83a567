//! `sara params`: count trainable parameters before there is anything to train.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use sara_core::{MethodConfig, ModelShape, Planned, RankPlan, Target, Targets};
use sara_models::architecture::{Architecture, describe};
use sara_models::checkpoint::Checkpoint;
use sara_models::hub::locate;
use sara_models::run::{Device, Run};
use serde::Serialize;

use crate::console::{Console, count, table};
use crate::device::{Compute, Job, dispatch};

/// Arguments of `sara params`.
#[derive(Args)]
pub(crate) struct Params {
    /// Directory of the model; config.json is enough for methods that do not look at the weights.
    #[arg(long)]
    model: PathBuf,
    /// The method and its configuration, as JSON: '{"lora":{"rank":8}}'.
    #[arg(long)]
    method: String,
    /// Module names, separated by commas, or all-linear; queries and values by default.
    #[arg(long)]
    targets: Option<String>,
    /// Number of labels of the head; those of config.json by default.
    #[arg(long)]
    labels: Option<usize>,
}

#[derive(Serialize)]
struct Report {
    trainable: usize,
    head: usize,
    total: usize,
    shared: usize,
    sites: Vec<SiteReport>,
}

#[derive(Serialize)]
struct SiteReport {
    name: String,
    d_in: usize,
    d_out: usize,
    rank: usize,
    trainable: usize,
}

/// Targets as they stand on a command line.
pub(crate) fn parse_targets(text: &str) -> Targets {
    match text {
        "all-linear" => Targets::AllLinear,
        names => Targets::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
    }
}

/// Plans the ranks with the weights if the directory has any.
struct Plan<'a> {
    method: &'a MethodConfig,
    shape: ModelShape,
    targets: &'a [Target],
    model: &'a std::path::Path,
}

impl Job for Plan<'_> {
    type Output = RankPlan;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<RankPlan> {
        // A method that does not ask for weights never opens the file.
        struct OnDemand<'a, B: Compute> {
            model: &'a std::path::Path,
            opened: Option<Checkpoint<Box<dyn Architecture>>>,
            device: &'a B::Device,
        }
        impl<B: Compute> sara_core::WeightSource<B> for OnDemand<'_, B> {
            fn weight(&mut self, target: &Target) -> sara_core::Result<burn::tensor::Tensor<B, 2>> {
                let no_weights =
                    |error: sara_models::Error| sara_core::Error::NoWeights { reason: error.to_string() };
                let checkpoint = match self.opened.take() {
                    Some(checkpoint) => checkpoint,
                    None => Checkpoint::open_any(self.model).map_err(no_weights)?,
                };
                let weight = checkpoint.weight_source::<B>(self.device).weight(target);
                self.opened = Some(checkpoint);
                weight
            }
        }
        let mut weights = OnDemand::<B> { model: self.model, opened: None, device };
        Ok(self.method.plan(self.shape, self.targets, &mut weights)?)
    }
}

impl Params {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let config = describe(&locate(&self.model)?)?;
        let method = serde_json::from_str(&self.method).with_context(|| {
            format!("--method {}: write it as {{\"lora\": {{\"rank\": 8}}}}", self.method)
        })?;
        let method: MethodConfig = Run { method, ..Run::default() }.method()?;
        let targets = self.targets.as_deref().map_or_else(|| config.default_targets(), parse_targets);
        let targets = targets.select(&config.linears())?;
        let job = Plan { method: &method, shape: config.shape(), targets: &targets, model: &self.model };
        let plan = dispatch(device.unwrap_or(Device::Cpu), console, job)?;
        let shape = config.shape();
        let site = |planned: &Planned| SiteReport {
            name: planned.target.name.clone(),
            d_in: planned.target.d_in,
            d_out: planned.target.d_out,
            rank: planned.rank,
            trainable: method.count_at(planned),
        };
        let n_labels = self.labels.or(config.n_labels()).unwrap_or(2);
        let head = config.head_count(n_labels);
        ensure!(
            head > 0 || self.labels.is_none(),
            "--labels is for a head, which this model has none of; leave it out"
        );
        let report = Report {
            trainable: method.count(shape, &plan),
            head,
            shared: method.count_shared(shape, &plan),
            total: config.parameter_count() + head,
            sites: plan.sites.iter().map(site).collect(),
        };
        let heading = ["layer", "shape", "rank", "trainable"].map(str::to_owned).to_vec();
        let row = |site: &SiteReport| {
            vec![
                site.name.clone(),
                format!("{} x {}", site.d_out, site.d_in),
                site.rank.to_string(),
                count(site.trainable),
            ]
        };
        console.say(table(&std::iter::once(heading).chain(report.sites.iter().map(row)).collect::<Vec<_>>()));
        let of_head = match head {
            0 => String::new(),
            head => format!(", and {} in a head of {n_labels} labels", count(head)),
        };
        console.say(format!(
            "trainable   {} ({:.3} % of {}){of_head}",
            count(report.trainable),
            100.0 * report.trainable as f64 / report.total as f64,
            count(report.total),
        ));
        console.result(&report)
    }
}
