//! The directory of a run: what was asked, what happened, checkpoints, and the adapter that came out.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use sara_core::store::{
    Manifest, StoredAdapter, read_safetensors, replace_dir, stored_bytes, write_file, write_safetensors,
};
use sara_core::{AnyAdapter, Figure, LayerOps, Site};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plot::{Curves, Metric, Point, SiteRank, SiteShares, loss_svg, ranks_svg, shares_svg};
use crate::run::inputs::Inputs;
use crate::run::{Run, Summary};
use crate::train::metrics::Metrics;
use crate::train::{Best, EvaluationRecord, Journal, Snapshot, StepRecord, TaskHead, Trained};

/// The adapter of the last step.
pub(crate) const ADAPTER: &str = "adapter";
/// The adapter of the best evaluation.
const BEST: &str = "best";
const RUN: &str = "run.toml";
const INPUTS: &str = "inputs.json";
const METRICS: &str = "metrics.jsonl";
const SUMMARY: &str = "summary.json";
const SNAPSHOTS: &str = "checkpoints";
const STATE: &str = "state.json";
const TRAINED: &str = "trained.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Snapshots kept; older ones are removed.
const KEPT: usize = 2;

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
}

/// The part of a snapshot that is no tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    step: usize,
    best: Option<Best>,
}

impl RunDir {
    /// Starts a directory for a run described by `run_toml` that reads these inputs.
    ///
    /// # Errors
    /// [`Error::RunExists`] if something is there already.
    pub(crate) fn create(path: &Path, run_toml: &str, inputs: &Inputs) -> Result<Self> {
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let file = path.join(INPUTS);
        let text = serde_json::to_vec_pretty(inputs).map_err(|error| Error::format(&file, error))?;
        let written =
            write_file(&path.join(RUN), run_toml.as_bytes()).and_then(|()| write_file(&file, &text));
        written.inspect_err(|_| {
            // A run that could not start leaves nothing behind.
            let _ = fs::remove_file(path.join(RUN));
            let _ = fs::remove_dir(path);
        })?;
        Ok(Self { path: path.to_owned() })
    }

    /// The adapter of the best evaluation, or else of the last step, if `path` is the directory of a run.
    pub fn best_adapter(path: &Path) -> Option<PathBuf> {
        let adapters = [BEST, ADAPTER].map(|name| path.join(name));
        adapters.into_iter().find(|dir| path.join(RUN).exists() && dir.exists())
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

    /// Goes on with the run at `path`, which must have been started by the same `run_toml`, with the same inputs.
    ///
    /// Returns the newest snapshot that is whole, with a note where a newer one is not; `None` if the run was stopped
    /// before its first.
    ///
    /// # Errors
    /// [`Error::NothingToResume`], [`Error::OtherRun`], [`Error::OtherInputs`], or what reading the only snapshots said.
    pub(crate) fn resume(
        path: &Path,
        run_toml: &str,
        inputs: &Inputs,
    ) -> Result<(Self, Option<Snapshot>, Vec<String>)> {
        Self::check_same(path, run_toml)?;
        Self { path: path.to_owned() }.go_on(inputs)
    }

    /// The same for a run whose length alone is another one: it becomes the run that `run_toml` describes.
    ///
    /// # Errors
    /// As [`Self::resume`]; [`Error::NothingToExtend`] where not more than the run's own steps are asked for.
    pub(crate) fn extend(
        path: &Path,
        run_toml: &str,
        inputs: &Inputs,
        steps: impl Fn(&Run) -> usize,
    ) -> Result<(Self, Option<Snapshot>, Vec<String>)> {
        let file = path.join(RUN);
        let described = Self::described(path)?;
        let length = |line: &&str| line.starts_with("epochs = ") || line.starts_with("max_steps = ");
        let apart = |text: &str| text.lines().filter(|line| !length(line)).collect::<Vec<_>>().join("\n");
        same(path, &apart(&described), &apart(run_toml))?;
        let (old, new) =
            (Run::parse(&described, &file.display().to_string(), &[])?, Run::parse(run_toml, RUN, &[])?);
        let (was, is) = (steps(&old), steps(&new));
        if is <= was {
            return Err(Error::NothingToExtend { path: path.to_owned(), was, is });
        }
        let (dir, snapshot, mut notes) = Self { path: path.to_owned() }.go_on(inputs)?;
        let at = snapshot.as_ref().map_or(0, |snapshot| snapshot.step);
        let [before, after] = [old.optimizer.rate(at, was), new.optimizer.rate(at, is)];
        notes.push(format!(
            "from {was} to {is} optimizer steps: rates and phases are those of {is} steps from here on, the learning rate \
             of step {} is {after:.3e}, where it would have been {before:.3e}",
            at + 1
        ));
        write_file(&file, run_toml.as_bytes())?;
        match fs::remove_file(dir.path.join(SUMMARY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&dir.path)(error)),
            _ => Ok((dir, snapshot, notes)),
        }
    }

    fn go_on(self, inputs: &Inputs) -> Result<(Self, Option<Snapshot>, Vec<String>)> {
        let file = self.path.join(INPUTS);
        let mut notes = Vec::new();
        match fs::read(&file) {
            Ok(text) => {
                let was = serde_json::from_slice(&text).map_err(|error| Error::format(&file, error))?;
                inputs.check(&was, &self.path)?;
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(&file)(error));
            }
            Err(_) => notes.push(format!("no {INPUTS}: whether data and model are the same is not checked")),
        }
        let (mut whole, mut damaged) = (None, None);
        for (step, dir) in self.snapshots()?.into_iter().rev() {
            match read_snapshot(&dir) {
                Ok(snapshot) => {
                    whole = Some(snapshot);
                    break;
                }
                Err(error) => {
                    notes.push(format!("the checkpoint of step {step} is damaged ({error})"));
                    damaged = damaged.or(Some(error));
                }
            }
        }
        if let (None, Some(error)) = (&whole, damaged) {
            return Err(error);
        }
        self.forget_after(whole.as_ref().map_or(0, |snapshot| snapshot.step))?;
        Ok((self, whole, notes))
    }

    /// The summary of the run at `path`, if it has reached its end.
    ///
    /// # Errors
    /// [`Error::NothingToResume`], [`Error::OtherRun`], or what reading it said.
    pub fn finished(path: &Path, run_toml: &str) -> Result<Option<Summary>> {
        Self::check_same(path, run_toml)?;
        let path = path.join(SUMMARY);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(serde_json::from_str(&text).map_err(|error| Error::format(&path, error))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }

    /// Writes what a finished run was like.
    ///
    /// # Errors
    /// What the system said.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        let path = self.path.join(SUMMARY);
        let text = serde_json::to_string_pretty(summary).map_err(|error| Error::format(&path, error))?;
        Ok(write_file(&path, text.as_bytes())?)
    }

    /// The run file of the run at `path`.
    fn described(path: &Path) -> Result<String> {
        fs::read_to_string(path.join(RUN)).map_err(|_| Error::NothingToResume { path: path.to_owned() })
    }

    /// Whether the run at `path` was started by this `run_toml`.
    fn check_same(path: &Path, run_toml: &str) -> Result<()> {
        same(path, &Self::described(path)?, run_toml)
    }

    /// Snapshots by step, oldest first.
    fn snapshots(&self) -> Result<Vec<(usize, PathBuf)>> {
        let parent = self.path.join(SNAPSHOTS);
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
    pub fn draw(&self, ranks: &[(Site, String, usize)]) -> Result<()> {
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
        ranks_svg(&self.path.join("ranks.svg"), &sites)?;
        let shares = records.iter().rev().find_map(|record| record["figures"].as_array());
        let shares = shares.map_or_else(Vec::new, |figures| use_of_experts(figures));
        if !shares.is_empty() {
            shares_svg(&self.path.join("router.svg"), &shares)?;
        }
        Ok(())
    }
}

/// Whether two run files are the same, line by line.
fn same(path: &Path, described: &str, run_toml: &str) -> Result<()> {
    let differing = described.lines().zip(run_toml.lines()).find(|(was, is)| was != is).or_else(|| {
        let same_length = described.lines().count() == run_toml.lines().count();
        (!same_length).then_some(("", "another number of keys"))
    });
    match differing {
        None => Ok(()),
        Some((was, is)) => {
            Err(Error::OtherRun { path: path.to_owned(), was: was.to_owned(), is: is.to_owned() })
        }
    }
}

/// The shares of each site's experts among the figures of an evaluation.
fn use_of_experts(figures: &[serde_json::Value]) -> Vec<SiteShares> {
    let mut sites: Vec<SiteShares> = Vec::new();
    for figure in figures.iter().filter(|figure| figure["name"] == Figure::EXPERT_USE) {
        let site = Site::deserialize(&figure["site"]);
        let (Ok(site), Some(share)) = (site, figure["value"].as_f64()) else { continue };
        let name = format!("layers.{site}");
        match sites.last_mut() {
            Some(site) if site.name == name => site.shares.push(share),
            _ => sites.push(SiteShares { name, shares: vec![share] }),
        }
    }
    sites
}

fn read_snapshot(dir: &Path) -> Result<Snapshot> {
    let path = dir.join(STATE);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let StateFile { step, best } =
        serde_json::from_str(&text).map_err(|error| Error::format(&path, error))?;
    let (trained, optimizer) =
        (read_safetensors(&dir.join(TRAINED))?, read_safetensors(&dir.join(OPTIMIZER))?);
    Ok(Snapshot { step, best, trained, optimizer })
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
        let mut line = serde_json::to_string(record).map_err(|error| Error::format(&path, error))?;
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(Error::io(&path))
    }

    /// Writes the adapter and head to the directory `name` of the run.
    ///
    /// # Errors
    /// What writing said.
    pub(crate) fn write_adapter<B: LayerOps, H: TaskHead<B>>(
        &mut self,
        trained: &Trained<B, AnyAdapter<B>, H>,
        name: &str,
    ) -> Result<()> {
        let stored = StoredAdapter::new(self.manifest.clone(), &trained.adapter, trained.head.tensors());
        // What is frozen is described once, and on the disk once, if it was written before.
        self.manifest.frozen.clone_from(&stored.manifest.frozen);
        let written = [BEST, ADAPTER].map(|name| self.dir.path.join(name));
        let sibling = written.iter().find(|dir| stored_bytes(dir).is_ok_and(|(_, frozen)| frozen > 0));
        Ok(stored.write_beside(&self.dir.path.join(name), sibling.map(PathBuf::as_path))?)
    }
}

impl<B: LayerOps, H: TaskHead<B>> Journal<Trained<B, AnyAdapter<B>, H>> for RunJournal {
    fn step(&mut self, record: &StepRecord, _total: usize) -> Result<()> {
        self.line(record)
    }

    fn evaluation(
        &mut self,
        record: &EvaluationRecord,
        best: Option<&Trained<B, AnyAdapter<B>, H>>,
    ) -> Result<()> {
        self.line(record)?;
        if let Some(trained) = best {
            self.write_adapter(trained, BEST)?;
        }
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.metrics.sync_all().map_err(Error::io(&self.dir.path.join(METRICS)))?;
        let dest = self.dir.path.join(SNAPSHOTS).join(format!("step-{}", snapshot.step));
        replace_dir::<Error>(&dest, |dir| {
            write_safetensors(&dir.join(TRAINED), &snapshot.trained, &[])?;
            write_safetensors(&dir.join(OPTIMIZER), &snapshot.optimizer, &[])?;
            let file = StateFile { step: snapshot.step, best: snapshot.best.clone() };
            let text = serde_json::to_vec_pretty(&file).map_err(|error| Error::format(&dest, error))?;
            Ok(write_file(&dir.join(STATE), &text)?)
        })?;
        let all = self.dir.snapshots()?;
        for (_, old) in all.iter().take(all.len().saturating_sub(KEPT)) {
            fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(())
    }
}

/// The rank at each planned site: what the method reports at the end, else what was planned.
pub fn final_ranks(manifest: &Manifest, figures: &[Figure]) -> Vec<(Site, String, usize)> {
    let rank = |planned: &sara_core::Planned| {
        let reported =
            figures.iter().find(|figure| figure.site == Some(planned.target.site) && figure.name == "rank");
        let rank = reported.map_or(planned.rank, |figure| figure.value as usize);
        (planned.target.site, planned.target.name.clone(), rank)
    };
    manifest.plan.sites.iter().map(rank).collect()
}
