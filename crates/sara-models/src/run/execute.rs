//! A run from its file to its directory: what `sara train` does, for any program, from the start or resumed.
//!
//! [`Prepared::new`] reads, [`Prepared::start`] plans, [`Prepared::execute`] trains and writes; each says in its result,
//! or to the journal, what it decided.

use std::path::PathBuf;

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use sara_core::parameters::Tensors;
use sara_core::store::{StoredAdapter, stored_bytes};
use sara_core::{Adapter, AnyAdapter, MethodConfig, RankPlan, Seed};
use sara_ops::LayerOps;
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use super::dir::{ADAPTER, RunDir, RunJournal, final_ranks};
use super::inputs::Inputs;
use super::trains::{Learnable, Learned, Trains};
use super::{Run, inherit};
use crate::adapted::handover::{PeftProfile, export_peft, manifest};
use crate::adapted::{Adapted, Answer, Base, read_adapter};
use crate::architecture::Family;
use crate::checkpoint::Checkpoint;
use crate::encoder::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::train::metrics::Metrics;
use crate::train::{
    Best, EvaluationRecord, Journal, Options, Outcome, Snapshot, StepRecord, TaskHead, Trained,
    peak_memory_bytes,
};

/// A run, checked: nothing is written before this stands.
#[derive(Debug)]
pub struct Prepared<F: Trains = EncoderConfig> {
    /// The run file, with everything that it left open.
    pub run: Run,
    /// The method that is trained.
    pub method: MethodConfig,
    /// The pretrained model.
    pub checkpoint: Checkpoint<F>,
    /// What the head will answer.
    pub answer: Answer,
    /// The examples to learn from.
    pub train: F::Data,
    /// The examples to choose the best model by.
    pub valid: F::Data,
    /// What was decided on the way.
    pub notes: Vec<String>,
    /// The adapter to start from, where one is given.
    init: Option<StoredAdapter>,
    /// Hashes of what was read.
    inputs: Inputs,
}

/// The adapter that training starts from.
#[derive(Debug)]
pub struct Start<B: LayerOps> {
    adapter: AnyAdapter<Autodiff<B>>,
    /// The rank of each target.
    pub plan: RankPlan,
    /// Empty where the head is the checkpoint's, or new.
    head: Tensors,
}

/// How a run goes about its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Goes on from the newest snapshot; else the directory must be new.
    pub resume: bool,
    /// Resumes with more steps than the run was started with.
    pub extend: bool,
    /// Ends after so many optimizer steps, with a snapshot.
    pub stop_after: Option<usize>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// Trained to its end, and everything is written.
    Finished(Summary),
    /// Stopped after so many optimizer steps, to be resumed.
    Stopped(usize),
}

/// What `summary.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The run's directory.
    pub output: PathBuf,
    /// The method's name.
    pub method: String,
    /// Trained values of the adapter.
    pub trainable: usize,
    /// Values of the head.
    pub head: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Median time of a step.
    pub step_ms: f64,
    /// Tokens that count, over the time of the steps.
    pub tokens_per_second: f64,
    /// The most memory that the process held, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What was measured at the best evaluation.
    pub best: Option<Metrics>,
    /// Optimizer steps done by then.
    pub best_step: Option<usize>,
    /// What was measured at the end.
    pub last: Option<Metrics>,
    /// Bytes of the file with the adapter and the head.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Bytes of the file with what is frozen out of the base, where the method has such.
    #[serde(default)]
    pub frozen_bytes: u64,
    /// Whether the same seed gives the same bits on this backend.
    pub bit_for_bit: bool,
}

/// What a run trains.
pub type Learner<F, B> = Trained<Autodiff<B>, AnyAdapter<Autodiff<B>>, <F as Family>::Head<Autodiff<B>>>;

impl<F: Trains> Prepared<F> {
    /// Reads everything that a run reads but the weights, and checks that it fits together.
    ///
    /// # Errors
    /// What reading said; where the data, the adapter to start from and the model do not fit.
    pub fn new(run: Run) -> Result<Self> {
        Self::beside(run, Base::TrainedOn)
    }

    /// The same; `base` says which model the adapter to start from may be put beside.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn beside(mut run: Run, base: Base) -> Result<Self> {
        run.check_paths()?;
        let checkpoint = Checkpoint::<F>::open(&run.model)?;
        let (init, mut notes) = match &run.init_adapter {
            Some(dir) => {
                let (stored, notes) = read_adapter(dir, &checkpoint, base)?;
                (Some(stored), notes)
            }
            None => (None, Vec::new()),
        };
        if let Some(stored) = &init {
            notes.extend(inherit::from_adapter(&mut run, stored, &checkpoint.config.linears())?);
        }
        let method: MethodConfig = run.method()?;
        run.set_method(&method)?;
        if run.optimizer.learning_rate.is_none() {
            let rate = method.learning_rate();
            notes.push(format!("learning rate {rate:e}, the default of {}", method.name()));
            run.optimizer.learning_rate = Some(rate);
        }
        run.targets.get_or_insert_with(|| checkpoint.config.default_targets());
        run.data.max_tokens = Some(checkpoint.config.max_tokens(run.data.max_tokens)?);
        let Learned { answer, train, valid, tokenizer, notes: of_data } = F::learn(&run, &checkpoint)?;
        notes.extend(of_data);
        method.check_steps(run.optimizer.total_steps(train.rows(&run.data)))?;
        let inputs = Inputs {
            base: checkpoint.fingerprint(),
            tokenizer,
            classes: Inputs::of_classes(&answer.classes),
            train: train.fingerprint(),
            valid: valid.fingerprint(),
        };
        Ok(Self { run, method, checkpoint, answer, train, valid, notes, init, inputs })
    }

    /// The summary of the run, if it was trained to its end before.
    ///
    /// # Errors
    /// [`Error::OtherRun`] where the directory is of another run, or what reading said.
    pub fn finished(&self) -> Result<Option<Summary>> {
        RunDir::finished(&self.run.output, &self.run.to_toml()?)
    }

    /// The adapter at its start: new, or as `init_adapter` says.
    ///
    /// # Errors
    /// Where the method does not fit the model.
    pub fn start<B: LayerOps + SvdOps>(&self, device: &B::Device) -> Result<Start<B>> {
        if let Some(stored) = &self.init {
            let mut weights = self.checkpoint.weight_source::<Autodiff<B>>(device);
            let adapter = stored.build(&mut weights, device)?;
            let plan = stored.manifest.plan.clone();
            return Ok(Start { adapter, plan, head: stored.head.clone() });
        }
        let targets = self.run.targets.clone().unwrap_or_else(|| self.checkpoint.config.default_targets());
        let seed = Seed(self.run.seed);
        let (adapter, plan) = self.checkpoint.new_adapter(&self.method, &targets, seed, device)?;
        Ok(Start { adapter, plan, head: Tensors::new() })
    }

    /// Trains, and writes what comes out; the directory appears once nothing but training can fail.
    ///
    /// # Errors
    /// What loading, training or writing said.
    pub fn execute<B: LayerOps + SvdOps>(
        &self,
        start: Start<B>,
        mode: Mode,
        watcher: &mut impl Journal<Learner<F, B>>,
        device: &B::Device,
    ) -> Result<Ended> {
        let Self { run, checkpoint, answer, train, .. } = self;
        let Start { adapter, plan, head: start_head } = start;
        let (model, head) = F::open(self, &start_head, &mut |kind, text| watcher.note(kind, text), device)?;
        let examples = train.rows(&run.data);
        let total = run.optimizer.total_steps(examples);
        let manifest = manifest(checkpoint, &self.method, &plan, answer)?;
        let toml = run.to_toml()?;
        let (dir, snapshot, notes) = match mode {
            Mode { extend: true, .. } => {
                let steps = |run: &Run| run.optimizer.total_steps(examples);
                RunDir::extend(&run.output, &toml, &self.inputs, steps)?
            }
            Mode { resume: true, .. } => RunDir::resume(&run.output, &toml, &self.inputs)?,
            _ => (RunDir::create(&run.output, &toml, &self.inputs)?, None, Vec::new()),
        };
        for note in &notes {
            watcher.note("note", note);
        }
        if let Some(snapshot) = &snapshot {
            watcher.note("resuming", &format!("at step {}", snapshot.step));
        }
        let options = self.options(mode.stop_after);
        let mut journal = Watched { journal: dir.journal(manifest.clone())?, watcher };
        let outcome = F::train(self, &model, options, Trained::new(adapter, head), snapshot, &mut journal)?;
        if outcome.steps < total {
            return Ok(Ended::Stopped(outcome.steps));
        }
        journal.journal.write_adapter(&outcome.trained, ADAPTER)?;
        let Outcome { trained, steps, best, last, step_ms, tokens_per_second } = outcome;
        dir.draw(&final_ranks(&manifest, &trained.adapter.report()))?;
        let (stored_bytes, frozen_bytes) = stored_bytes(&dir.path.join(ADAPTER))?;
        let summary = Summary {
            output: dir.path.clone(),
            method: self.method.name().to_owned(),
            trainable: self.method.count(checkpoint.config.shape(), &plan),
            head: checkpoint.config.head_count(answer.n_labels()),
            steps,
            step_ms,
            tokens_per_second,
            peak_memory_bytes: peak_memory_bytes(),
            best_step: best.as_ref().map(|best| best.step),
            best: best.map(|Best { metrics, .. }| metrics),
            last,
            stored_bytes,
            frozen_bytes,
            bit_for_bit: B::BIT_FOR_BIT,
        };
        // Before what may be refused: a run that was trained to its end has its summary.
        dir.write_summary(&summary)?;
        let (model, head) = F::inner(model, trained.head);
        match self.write_peft(model, trained.adapter.valid(), head, &dir) {
            Err(Error::Core(error)) if refuses(&error) => {
                watcher.note("note", &format!("no files for PEFT: {error}"));
            }
            written => written?,
        }
        Ok(Ended::Finished(summary))
    }

    /// How the run file says to train.
    fn options(&self, stop_after: Option<usize>) -> Options {
        Options {
            seed: self.run.seed,
            shuffle: self.run.data.shuffle,
            optimizer: self.run.optimizer.clone(),
            eval_every: self.run.eval_every,
            save_every: Some(self.run.save_every),
            stop_after,
        }
    }

    /// The PEFT export of a finished run.
    fn write_peft<B: LayerOps>(
        &self,
        model: F::Model<B>,
        adapter: AnyAdapter<B>,
        head: F::Head<B>,
        dir: &RunDir,
    ) -> Result<()> {
        let adapted = Adapted::<B, F> {
            checkpoint: Checkpoint::open(&self.run.model)?,
            model,
            trained: Trained::new(Some(adapter), head),
            answer: self.answer.clone(),
            stored: None,
            notes: Vec::new(),
        };
        export_peft(&adapted, PeftProfile::Portable, &dir.path.join("peft"))
    }
}

/// Whether the adapter itself has no form in these files, which is nobody's fault.
fn refuses(error: &sara_core::Error) -> bool {
    use sara_core::Error::{NotExportable, NotMergeable};
    matches!(error, NotExportable { .. } | NotMergeable { .. })
}

/// The journal of the run's directory, and whoever watches.
struct Watched<'a, W> {
    journal: RunJournal,
    watcher: &'a mut W,
}

impl<B: LayerOps, H: TaskHead<B>, W> Journal<Trained<B, AnyAdapter<B>, H>> for Watched<'_, W>
where
    W: Journal<Trained<B, AnyAdapter<B>, H>>,
{
    fn step(&mut self, record: &StepRecord, total: usize) -> Result<()> {
        Journal::<Trained<B, AnyAdapter<B>, H>>::step(&mut self.journal, record, total)?;
        self.watcher.step(record, total)
    }

    fn evaluation(
        &mut self,
        record: &EvaluationRecord,
        best: Option<&Trained<B, AnyAdapter<B>, H>>,
    ) -> Result<()> {
        self.watcher.evaluation(record, best)?;
        self.journal.evaluation(record, best)
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        Journal::<Trained<B, AnyAdapter<B>, H>>::snapshot(&mut self.journal, snapshot)?;
        self.watcher.snapshot(snapshot)
    }
}
