//! `sara train`: train an adapter as a run file says.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use sara_core::RankPlan;
use sara_models::architecture::Kind;
use sara_models::data::Task;
use sara_models::decoder::config::DecoderConfig;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::dir::RunDir;
use sara_models::run::{Device, Ended, Learnable, Mode, Prepared, Run, Summary, Trains};
use serde::Serialize;
use serde_json::Value;

use crate::adapter::{Beside, kind};
use crate::console::{Console, count, table};
use crate::device::{Compute, Job, dispatch};
use crate::progress::Shown;

/// Arguments of `sara train`.
#[derive(Args)]
pub(crate) struct Train {
    /// The run file.
    #[arg(long)]
    config: PathBuf,
    /// Values in place of the file's: key.sub=value.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Go on from the newest checkpoint of the run.
    #[arg(long)]
    resume: bool,
    /// With --resume and a raised optimizer.epochs or `optimizer.max_steps`: go on to the new total.
    #[arg(long, requires = "resume")]
    extend: bool,
    #[command(flatten)]
    beside: Beside,
    /// Save a checkpoint after this step and stop.
    #[arg(long, value_name = "STEP")]
    stop_after: Option<usize>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Train {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let run = Run::load(&self.config, &self.overrides)?;
        let device = device.unwrap_or(run.device);
        if let Some(threads) = run.threads {
            // Refused where --threads came first, which is what the command line is for.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
        if !self.resume {
            RunDir::check_free(&run.output)?;
        }
        let (task, model) = (run.task, kind(&run.model)?);
        match (task, model) {
            (Task::CausalLm, Kind::Decoder) => self.run_as::<DecoderConfig>(run, device, console),
            (Task::CausalLm, Kind::Encoder) => {
                bail!(
                    "task = \"causal-lm\" is for models that write, and this one is an encoder; set another task"
                )
            }
            (_, Kind::Encoder) => self.run_as::<EncoderConfig>(run, device, console),
            (_, Kind::Decoder) => bail!(
                "the model writes, and the task is to answer about texts; set task = \"causal-lm\", or give an encoder"
            ),
        }
    }

    fn run_as<F: Trains>(&self, run: Run, device: Device, console: Console) -> anyhow::Result<()> {
        let prepared = Prepared::<F>::beside(run, self.beside.base())?;
        let (model, family) = (prepared.run.model.display(), prepared.checkpoint.config.name());
        console.say(format!("model       {model} ({family})"));
        console.notes(&prepared.notes);
        console.say(prepared.train.report());
        console.say(prepared.valid.report());
        if self.resume
            && !self.extend
            && !self.dry_run
            && let Some(summary) = prepared.finished()?
        {
            console.say(format!("finished    {} is trained to its end", summary.output.display()));
            return console.result(&summary);
        }
        let mode = Mode { resume: self.resume, extend: self.extend, stop_after: self.stop_after };
        let job = TrainJob { prepared: &prepared, mode, dry_run: self.dry_run, console };
        match dispatch(device, console, job)? {
            Outcome::Finished(summary) => console.result(&summary),
            Outcome::Stopped => Ok(()),
            Outcome::Planned { trainable } => {
                match prepared.train.plan(
                    &prepared.run,
                    &prepared.checkpoint.config,
                    prepared.checkpoint.bytes(),
                ) {
                    Some(plan) => console.result(&DryRun { plan, trainable }),
                    None => Ok(()),
                }
            }
        }
    }
}

/// How it went.
pub(crate) enum Outcome {
    Finished(Box<Summary>),
    Stopped,
    Planned { trainable: usize },
}

/// What would be trained, for a script.
#[derive(Serialize)]
struct DryRun {
    #[serde(flatten)]
    plan: Value,
    trainable: usize,
}

struct TrainJob<'a, F: Trains> {
    prepared: &'a Prepared<F>,
    mode: Mode,
    dry_run: bool,
    console: Console,
}

impl<F: Trains> Job for TrainJob<'_, F> {
    type Output = Outcome;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Outcome> {
        let Self { prepared, mode, dry_run, console } = self;
        let start = prepared.start::<B>(device)?;
        console.say(show_plan(&start.plan));
        let config = &prepared.checkpoint.config;
        let trainable = prepared.method.count(config.shape(), &start.plan);
        let head = match config.head_count(prepared.answer.n_labels()) {
            0 => String::new(),
            head => format!(", {} in the head", count(head)),
        };
        let method = prepared.method.name();
        console.say(format!("trainable   {} in the adapter ({method}){head}", count(trainable)));
        if dry_run {
            return Ok(Outcome::Planned { trainable });
        }
        let mut shown = Shown::new(console);
        let ended = prepared.execute::<B>(start, mode, &mut shown, device)?;
        shown.finish();
        match ended {
            Ended::Stopped(step) => {
                console.say(format!("stopped     after step {step}; go on with --resume"));
                Ok(Outcome::Stopped)
            }
            Ended::Finished(summary) => {
                console.say(format!(
                    "done        {} ({:.0} ms a step)",
                    summary.output.display(),
                    summary.step_ms
                ));
                Ok(Outcome::Finished(Box::new(summary)))
            }
        }
    }
}

/// The plan as a reader sees it: a row for each block, a column for each role.
pub(crate) fn show_plan(plan: &RankPlan) -> String {
    let mut roles: Vec<_> = plan.sites.iter().map(|planned| planned.target.site.role).collect();
    roles.sort();
    roles.dedup();
    let mut layers: Vec<_> = plan.sites.iter().map(|planned| planned.target.site.layer).collect();
    layers.dedup();
    let heading = std::iter::once("ranks".to_owned()).chain(roles.iter().map(ToString::to_string)).collect();
    let cell = |layer, role| {
        let at = plan.sites.iter().find(|p| p.target.site == sara_core::Site { layer, role });
        at.map_or_else(|| "-".to_owned(), |planned| planned.rank.to_string())
    };
    let row = |&layer: &usize| {
        std::iter::once(format!("layer {layer}")).chain(roles.iter().map(|&role| cell(layer, role))).collect()
    };
    let ranks = table(&std::iter::once(heading).chain(layers.iter().map(row)).collect::<Vec<_>>());
    let (sum, sites) = (plan.total(), plan.sites.len());
    format!("{ranks}\nin all      {sum}, {:.2} a layer", sum as f64 / sites.max(1) as f64)
}
