//! The directory of a run: what was asked, what happened, checkpoints, and the adapter that came out.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use sara_core::parameters::{Tensors, collect};
use sara_core::store::{
    Manifest, StoredAdapter, read_safetensors, replace_dir, write_file, write_safetensors,
};
use sara_core::{AnyAdapter, Figure, LinearOps};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plot::{Curves, Metric, Point, SiteRank, loss_svg, ranks_svg};
use crate::train::metrics::Metrics;
use crate::train::{Best, EvaluationRecord, Journal, State, StepRecord, Trained};

const RUN: &str = "run.toml";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const STATE: &str = "state.json";
const TRAINED: &str = "trained.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Checkpoints kept; older ones are removed.
const KEPT: usize = 2;

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
}

/// The part of a checkpoint that is no tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    step: usize,
    best: Option<Best>,
}

impl RunDir {
    /// Starts a directory for a run described by `run_toml`.
    ///
    /// # Errors
    /// [`Error::RunExists`] if something is there already.
    pub fn create(path: &Path, run_toml: &str) -> Result<Self> {
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(Error::io(path))?;
        write_file(&path.join(RUN), run_toml.as_bytes()).inspect_err(|_| {
            // A run that could not start leaves nothing behind.
            let _ = fs::remove_dir(path);
        })?;
        Ok(Self { path: path.to_owned() })
    }

    /// Whether a run could start at `path`.
    ///
    /// # Errors
    /// [`Error::RunExists`] if something is there already.
    pub fn check_free(path: &Path) -> Result<()> {
        let taken = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        if taken { Err(Error::RunExists { path: path.to_owned() }) } else { Ok(()) }
    }

    /// Goes on with the run at `path`, which must have been started by the same `run_toml`.
    ///
    /// Returns the newest checkpoint; `None` if the run was stopped before its first.
    ///
    /// # Errors
    /// [`Error::NothingToResume`], [`Error::OtherRun`], or what reading the checkpoint said.
    pub fn resume(path: &Path, run_toml: &str) -> Result<(Self, Option<State>)> {
        let described = fs::read_to_string(path.join(RUN))
            .map_err(|_| Error::NothingToResume { path: path.to_owned() })?;
        if let Some((was, is)) =
            described.lines().zip(run_toml.lines()).find(|(was, is)| was != is).or_else(|| {
                (described.lines().count() != run_toml.lines().count())
                    .then_some(("", "another number of keys"))
            })
        {
            return Err(Error::OtherRun { path: path.to_owned(), was: was.to_owned(), is: is.to_owned() });
        }
        let dir = Self { path: path.to_owned() };
        let state = match dir.checkpoints()?.pop() {
            Some((_, checkpoint)) => Some(read_state(&checkpoint)?),
            None => None,
        };
        dir.forget_after(state.as_ref().map_or(0, |state| state.step))?;
        Ok((dir, state))
    }

    /// Checkpoints by step, oldest first.
    fn checkpoints(&self) -> Result<Vec<(usize, PathBuf)>> {
        let parent = self.path.join(CHECKPOINTS);
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(&parent)(error)),
        };
        let step = |path: PathBuf| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        };
        let mut all: Vec<_> = entries.filter_map(|entry| step(entry.ok()?.path())).collect();
        all.sort();
        Ok(all)
    }

    /// Removes records of steps that a resumed run will do again.
    fn forget_after(&self, step: usize) -> Result<()> {
        let path = self.path.join(METRICS);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let done = |line: &&str| {
            let record: Option<serde_json::Value> = serde_json::from_str(line).ok();
            record.and_then(|record| record["step"].as_u64()).is_some_and(|at| at as usize <= step)
        };
        let kept: String = text.lines().filter(done).flat_map(|line| [line, "\n"]).collect();
        Ok(write_file(&path, kept.as_bytes())?)
    }

    /// The journal of a run whose adapter is described by `manifest`.
    ///
    /// # Errors
    /// [`Error::Io`] if its file cannot be opened.
    pub fn journal(&self, manifest: Manifest) -> Result<RunJournal> {
        let path = self.path.join(METRICS);
        let metrics = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        Ok(RunJournal { dir: self.clone(), manifest, metrics })
    }

    /// Draws the pictures of the run from what its journal wrote.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be read, [`Error::Core`] if something cannot be written.
    pub fn draw(&self, ranks: &[(sara_core::Site, String, usize)]) -> Result<()> {
        let path = self.path.join(METRICS);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let records: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let points = |value: &dyn Fn(&serde_json::Value) -> Option<f64>| -> Vec<Point> {
            records
                .iter()
                .filter_map(|record| {
                    Some(Point { step: record["step"].as_u64()? as usize, value: value(record)? })
                })
                .collect()
        };
        let train = points(&|record| record["loss"].as_f64());
        let metrics = |record: &serde_json::Value| Metrics::deserialize(&record["valid"]).ok();
        let valid = points(&|record| metrics(record)?.value("loss"));
        let metric = points(&|record| Some(metrics(record)?.headline()?.1));
        let name = records.iter().find_map(|record| Some(metrics(record)?.headline()?.0)).unwrap_or_default();
        let title =
            self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let metric = (!metric.is_empty()).then_some(Metric { name, points: &metric });
        loss_svg(
            &self.path.join("loss.svg"),
            &Curves { title: &title, train: &train, valid: &valid, metric },
        )?;
        let roles: Vec<String> = ranks.iter().map(|(site, ..)| site.role.to_string()).collect();
        let sites: Vec<SiteRank<'_>> = ranks
            .iter()
            .zip(&roles)
            .map(|((site, name, rank), role)| SiteRank { name, layer: site.layer, role, rank: *rank })
            .collect();
        ranks_svg(&self.path.join("ranks.svg"), &sites)
    }
}

fn read_state(dir: &Path) -> Result<State> {
    let path = dir.join(STATE);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let StateFile { step, best } =
        serde_json::from_str(&text).map_err(|error| sara_core::Error::format(&path, error))?;
    let (trained, optimizer) =
        (read_safetensors(&dir.join(TRAINED))?, read_safetensors(&dir.join(OPTIMIZER))?);
    Ok(State { step, best, trained, optimizer })
}

/// What a run writes while it trains.
#[derive(Debug)]
pub struct RunJournal {
    dir: RunDir,
    manifest: Manifest,
    metrics: File,
}

impl RunJournal {
    fn line(&mut self, record: &impl Serialize) -> Result<()> {
        let path = self.dir.path.join(METRICS);
        let mut line =
            serde_json::to_string(record).map_err(|error| sara_core::Error::format(&path, error))?;
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(Error::io(&path))
    }

    /// The adapter and head as they are stored.
    pub fn stored<B: Backend>(&self, trained: &Trained<B, AnyAdapter<B>>) -> StoredAdapter {
        let (adapter, head): (Tensors, Tensors) = (collect(&trained.adapter), trained.head.tensors());
        let manifest = Manifest { head: head.keys().cloned().collect(), ..self.manifest.clone() };
        StoredAdapter { manifest, adapter, head }
    }
}

impl<B: LinearOps> Journal<B, AnyAdapter<B>> for RunJournal {
    fn step(&mut self, record: &StepRecord, _total: usize) -> Result<()> {
        self.line(record)
    }

    fn evaluation(
        &mut self,
        record: &EvaluationRecord,
        best: Option<&Trained<B, AnyAdapter<B>>>,
    ) -> Result<()> {
        self.line(record)?;
        if let Some(trained) = best {
            self.stored(trained).write(&self.dir.path.join("best"))?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, state: &State) -> Result<()> {
        self.metrics.sync_all().map_err(Error::io(&self.dir.path.join(METRICS)))?;
        let dest = self.dir.path.join(CHECKPOINTS).join(format!("step-{}", state.step));
        replace_dir(&dest, |dir| {
            write_safetensors(&dir.join(TRAINED), &state.trained, &[])?;
            write_safetensors(&dir.join(OPTIMIZER), &state.optimizer, &[])?;
            let file = StateFile { step: state.step, best: state.best.clone() };
            let text =
                serde_json::to_vec_pretty(&file).map_err(|error| sara_core::Error::format(&dest, error))?;
            write_file(&dir.join(STATE), &text)
        })?;
        let all = self.dir.checkpoints()?;
        for (_, old) in all.iter().take(all.len().saturating_sub(KEPT)) {
            fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(())
    }
}

/// The rank at each planned site: what the method reports at the end, else what was planned.
pub fn final_ranks(manifest: &Manifest, figures: &[Figure]) -> Vec<(sara_core::Site, String, usize)> {
    let rank = |planned: &sara_core::Planned| {
        let reported =
            figures.iter().find(|figure| figure.site == planned.target.site && figure.name == "rank");
        let rank = reported.map_or(planned.rank, |figure| figure.value as usize);
        (planned.target.site, planned.target.name.clone(), rank)
    };
    manifest.plan.sites.iter().map(rank).collect()
}
