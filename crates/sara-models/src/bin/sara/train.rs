//! `sara train`: train an adapter as a run file says.

use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use clap::Args;
use sara_core::parameters::Tensors;
use sara_core::store::{Manifest, write_file};
use sara_core::{Adapter, AnyAdapter, MethodConfig, RankPlan, Seed};
use sara_models::adapted::handover::{PeftProfile, export_peft, manifest};
use sara_models::adapted::{Adapted, Answer, read_adapter};
use sara_models::checkpoint::{Checkpoint, Loaded};
use sara_models::classify::Dataset;
use sara_models::classify::classify;
use sara_models::encoder::check_tokens;
use sara_models::run::dir::{RunDir, final_ranks};
use sara_models::run::{BackboneDropout, Device, Run};
use sara_models::tokenizer::Tokenizer;
use sara_models::train::metrics::Metrics;
use sara_models::train::{Best, Options, Outcome, State, Trained, peak_memory_bytes};
use serde::Serialize;

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
    /// Save a checkpoint after this step and stop.
    #[arg(long, value_name = "STEP")]
    stop_after: Option<usize>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What `summary.json` and `--json` say.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) output: PathBuf,
    pub(crate) method: &'static str,
    pub(crate) trainable: usize,
    pub(crate) head: usize,
    pub(crate) steps: usize,
    pub(crate) step_ms: f64,
    pub(crate) tokens_per_second: f64,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) best: Option<Metrics>,
    pub(crate) best_step: Option<usize>,
    pub(crate) last: Option<Metrics>,
    /// Whether the same seed gives the same bits on this backend.
    pub(crate) bit_for_bit: bool,
}

/// A run, checked: nothing is written before this stands.
pub(crate) struct Prepared {
    pub(crate) run: Run,
    pub(crate) method: MethodConfig,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) answer: Answer,
    pub(crate) train: Dataset,
    pub(crate) valid: Dataset,
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
        let prepared = Prepared::new(run, console)?;
        let job = TrainJob {
            prepared,
            resume: self.resume,
            stop_after: self.stop_after,
            dry_run: self.dry_run,
            console,
        };
        if let Some(summary) = dispatch(device, console, job)? {
            console.result(&summary)?;
        }
        Ok(())
    }
}

impl Prepared {
    /// Reads everything that a run reads, and says what it found.
    pub(crate) fn new(mut run: Run, console: Console) -> anyhow::Result<Self> {
        let method: MethodConfig = run.method()?;
        run.set_method(&method)?;
        let checkpoint = Checkpoint::open(&run.model)?;
        let tokenizer = Tokenizer::load(&run.model)?;
        let max_tokens = checkpoint.config.max_tokens(run.data.max_tokens)?;
        run.data.max_tokens = Some(max_tokens);
        let (answer, train, valid) = sara_models::adapted::prepare(
            &run.data,
            run.task,
            checkpoint.config.labels.as_deref(),
            &tokenizer,
        )?;
        check_tokens(&checkpoint.config, &train)?;
        check_tokens(&checkpoint.config, &valid)?;
        method.check_steps(run.optimizer.total_steps(train.items.len()))?;
        console.say(format!("model       {} ({})", run.model.display(), checkpoint.config.family.name()));
        console.say(&train.report);
        console.say(&valid.report);
        Ok(Self { run, method, checkpoint, answer, train, valid })
    }

    /// The rank of each target.
    pub(crate) fn plan<B: Compute>(&self, device: &B::Device) -> anyhow::Result<RankPlan> {
        let targets = self.run.targets.select(&self.checkpoint.config.linears())?;
        Ok(self.method.plan(&targets, &mut self.checkpoint.weight_source::<B>(device))?)
    }
}

struct TrainJob {
    prepared: Prepared,
    resume: bool,
    stop_after: Option<usize>,
    dry_run: bool,
    console: Console,
}

impl Job for TrainJob {
    type Output = Option<Summary>;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Option<Summary>> {
        let Self { prepared, resume, stop_after, dry_run, console } = self;
        let start = start::<B>(&prepared, console, device)?;
        let (run, Start { plan, method, .. }) = (&prepared.run, &start);
        console.say(show_plan(plan));
        let shape = prepared.checkpoint.config.shape();
        console.say(format!(
            "trainable   {} in the adapter ({}), {} in the head",
            count(method.count(shape, plan)),
            method.name(),
            count(prepared.checkpoint.config.head_count(prepared.answer.n_labels()))
        ));
        if dry_run {
            return Ok(None);
        }
        let (toml, output) = (run.to_toml()?, run.output.clone());
        let open = || {
            if resume {
                return Ok(RunDir::resume(&output, &toml)?);
            }
            Ok((RunDir::create(&output, &toml)?, None))
        };
        execute::<B>(&prepared, start, open, stop_after, console, device)
    }
}

/// What training starts from.
pub(crate) struct Start<B: Compute> {
    adapter: AnyAdapter<Autodiff<B>>,
    pub(crate) plan: RankPlan,
    method: MethodConfig,
    /// Empty where the head is the checkpoint's, or new.
    head: Tensors,
}

/// The adapter at its start: new, or as `init_adapter` says.
pub(crate) fn start<B: Compute>(
    prepared: &Prepared,
    console: Console,
    device: &B::Device,
) -> anyhow::Result<Start<B>> {
    let Prepared { run, method, checkpoint, .. } = prepared;
    if let Some(dir) = &run.init_adapter {
        let (stored, notes) = read_adapter(dir, checkpoint)?;
        console.notes(&notes);
        let adapter = stored.build(device)?;
        let (Manifest { plan, method, .. }, head) = (stored.manifest, stored.head);
        return Ok(Start { adapter, plan, method, head });
    }
    let plan = prepared.plan::<B>(device)?;
    let adapter = method.init(checkpoint.config.shape(), &plan, Seed(run.seed), device)?;
    Ok(Start { adapter, plan, method: method.clone(), head: Tensors::new() })
}

/// Trains, and writes what comes out; `None` if the run was stopped before its end.
///
/// `open` starts or resumes the run's directory; it is called once nothing but training can fail.
pub(crate) fn execute<B: Compute>(
    prepared: &Prepared,
    start: Start<B>,
    open: impl FnOnce() -> anyhow::Result<(RunDir, Option<State>)>,
    stop_after: Option<usize>,
    console: Console,
    device: &B::Device,
) -> anyhow::Result<Option<Summary>> {
    let Prepared { run, checkpoint, answer, train, valid, .. } = prepared;
    let Start { adapter, plan, method, head: start_head } = start;
    let Loaded { model, mut head, notes } =
        checkpoint.load::<Autodiff<B>>(answer.n_labels(), Seed(run.seed), device)?;
    match &run.init_adapter {
        Some(init) if !start_head.is_empty() => {
            head = head.with_tensors(&start_head, &init.display().to_string())?;
        }
        _ => console.notes(&notes),
    }
    let dropouts = match run.backbone_dropout {
        BackboneDropout::Checkpoint => checkpoint.config.dropouts,
        BackboneDropout::Rate(rate) => {
            sara_models::encoder::config::Dropouts { hidden: rate, attention: rate, classifier: rate }
        }
    };
    console.say(format!("dropout     {} in the backbone", dropouts.hidden));
    let (model, head) = (model.with_dropout(dropouts), head.with_dropout(dropouts.classifier));
    let options = Options {
        seed: run.seed,
        shuffle: run.data.shuffle,
        optimizer: run.optimizer.clone(),
        eval_every: run.eval_every,
        save_every: Some(run.save_every),
        stop_after,
    };
    let total = run.optimizer.total_steps(train.items.len());
    let manifest = manifest(checkpoint, &method, &plan, answer)?;
    let (dir, state) = open()?;
    if let Some(state) = &state {
        console.say(format!("resuming    at step {}", state.step));
    }
    let done = state.as_ref().map_or(0, |state| state.step);
    let mut shown = Shown::new(console, dir.journal(manifest.clone())?, done, total);
    let trained = Trained { adapter, head };
    let outcome = classify(&model, trained, train, Some(valid), &options, state, &mut shown)?;
    let journal = shown.finish();
    if outcome.steps < total {
        console.say(format!("stopped     after step {}; go on with --resume", outcome.steps));
        return Ok(None);
    }
    let stored = journal.stored(&outcome.trained);
    stored.write(&dir.path.join("adapter"))?;
    let Outcome { trained, steps, best, last, step_ms, tokens_per_second } = outcome;
    dir.draw(&final_ranks(&manifest, &trained.adapter.report()))?;
    write_peft(prepared, model.valid(), trained.valid(), &dir.path.join("peft"))?;
    let summary = Summary {
        output: dir.path.clone(),
        method: method.name(),
        trainable: method.count(checkpoint.config.shape(), &plan),
        head: checkpoint.config.head_count(answer.n_labels()),
        steps,
        step_ms,
        tokens_per_second,
        peak_memory_bytes: peak_memory_bytes(),
        best_step: best.as_ref().map(|best| best.step),
        best: best.map(|Best { metrics, .. }| metrics),
        last,
        bit_for_bit: B::BIT_FOR_BIT,
    };
    write_file(&dir.path.join("summary.json"), serde_json::to_string_pretty(&summary)?.as_bytes())?;
    console.say(format!("done        {} ({:.0} ms a step)", dir.path.display(), step_ms));
    Ok(Some(summary))
}

/// The PEFT export of a finished run.
fn write_peft<B: Compute>(
    prepared: &Prepared,
    model: sara_models::encoder::Encoder<B>,
    trained: Trained<B, AnyAdapter<B>>,
    dest: &Path,
) -> anyhow::Result<()> {
    let adapted = Adapted {
        checkpoint: Checkpoint::open(&prepared.run.model)?,
        tokenizer: Tokenizer::load(&prepared.run.model)?,
        model,
        trained: Trained { adapter: Some(trained.adapter), head: trained.head },
        answer: prepared.answer.clone(),
        stored: None,
        notes: Vec::new(),
    };
    Ok(export_peft(&adapted, PeftProfile::Portable, dest)?)
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
    table(&std::iter::once(heading).chain(layers.iter().map(row)).collect::<Vec<_>>())
}
