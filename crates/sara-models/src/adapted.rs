//! A model opened for use: the checkpoint, and beside it the adapter and head of a directory.

pub mod handover;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use sara_core::store::StoredAdapter;
use sara_core::{Adapter, AnyAdapter, Backbone, LayerOps, Seed};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::architecture::Architecture;
use crate::classify::evaluate::{evaluate, observe};
use crate::classify::{Classes, Dataset, Labels};
use crate::data::{Columns, Rows, Task};
use crate::encoder::EncoderCheckpoint;
use crate::encoder::config::EncoderFamily;
use crate::encoder::head::{self, Head};
use crate::encoder::{Encoder, Loaded, check_tokens};
use crate::error::{Error, Result};
use crate::run::dir::RunDir;
use crate::tokenizer::Tokenizer;
use crate::train::Trained;
use crate::train::metrics::Metrics;

/// Examples that are evaluated at a time where nobody says how many.
pub(crate) const BATCH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// PEFT's names of the tasks whose adapters are read.
const TASK_TYPES: [&str; 2] = ["SEQ_CLS", "FEATURE_EXTRACTION"];

/// What a trained head answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The kind of task.
    pub task: Task,
    /// Names of the classes, or of several numbers, in the order of the logits; empty for a single number.
    pub classes: Vec<String>,
}

/// Beside which base an adapter may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Base {
    /// The one that it was trained beside, by its fingerprint, where the adapter has one.
    #[default]
    TrainedOn,
    /// Any of the same shape.
    Any,
}

/// A model with its adapter and head.
#[derive(Debug)]
pub struct Adapted<B: Backend> {
    /// The files of the backbone.
    pub checkpoint: EncoderCheckpoint,
    /// The frozen backbone.
    pub model: Encoder<B>,
    /// The adapter, where there is one, and the head.
    pub trained: Trained<B, Option<AnyAdapter<B>>, Head<B>>,
    /// What the head answers.
    pub answer: Answer,
    /// The adapter's files, where there is one.
    pub stored: Option<StoredAdapter>,
    /// What was decided on the way, for the reader.
    pub notes: Vec<String>,
}

impl Answer {
    /// Number of logits.
    pub fn n_labels(&self) -> usize {
        self.classes.len().max(1)
    }

    /// The answer of a checkpoint that has a head of its own.
    fn of_labels(labels: &[String], task: Task) -> Self {
        match labels {
            [_] if task != Task::MultiLabel => Self { task: Task::Regress, classes: Vec::new() },
            classes => Self { task, classes: classes.to_vec() },
        }
    }

    /// The classes, for looking up labels.
    pub fn classes(&self) -> Classes {
        Classes::of_checkpoint(self.classes.clone())
    }
}

/// An adapter directory, native or PEFT's, and what its reader should know. Of a run's directory, its best adapter.
///
/// # Errors
/// What reading it said, or where it does not fit the model; [`Error::OtherBase`] where it was trained beside another.
pub fn read_adapter(
    given: &Path,
    checkpoint: &EncoderCheckpoint,
    base: Base,
) -> Result<(StoredAdapter, Vec<String>)> {
    let (dir, mut notes) = match RunDir::best_adapter(given) {
        Some(best) => (best.clone(), vec![format!("the best adapter of the run, {}", best.display())]),
        None => (given.to_owned(), Vec::new()),
    };
    if let Some(dir) = peft_dir(&dir)? {
        if dir.file_name() != given.file_name() {
            notes.push(format!("the adapter in {}", dir.display()));
        }
        let config = &checkpoint.config;
        let imported = sara_core::import::peft::import(&dir, &config.linears(), config.shape())?;
        if let Some(task) = imported.task_type.filter(|task| !TASK_TYPES.contains(&task.as_str())) {
            return Err(Error::OtherTaskType { path: dir, task });
        }
        if !imported.embeddings.is_empty() {
            checkpoint.check_embeddings(&imported.embeddings, &dir)?;
            notes.push("the embeddings saved along are those of the model, and left out".to_owned());
        }
        let head =
            checkpoint.whole_head(imported.head.into_iter().collect(), &imported.head_changes, &dir)?;
        let mut manifest = imported.stored.manifest;
        manifest.head = head.keys().cloned().collect();
        let stored = StoredAdapter { manifest, head, ..imported.stored };
        let base_name = &stored.manifest.base;
        let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned();
        if !base_name.is_empty() && last(base_name) != last(&checkpoint.given.display().to_string()) {
            notes.push(format!("the adapter's files name another base, `{base_name}`"));
        }
        notes.extend(imported.notes);
        return Ok((stored, notes));
    }
    let stored = StoredAdapter::read(&dir)?;
    let linears = checkpoint.config.linears();
    let mismatches: Vec<String> = stored
        .manifest
        .plan
        .sites
        .iter()
        .filter(|planned| !linears.contains(&planned.target))
        .map(|planned| format!("{} is not in this model", planned.target.name))
        .collect();
    if !mismatches.is_empty() {
        return Err(Error::Mismatch { what: dir.display().to_string(), mismatches });
    }
    let trained_on = stored.manifest.base_fingerprint.as_ref();
    if trained_on.is_some_and(|fingerprint| *fingerprint != checkpoint.fingerprint()) {
        let base_name = stored.manifest.base.clone();
        if base == Base::TrainedOn {
            return Err(Error::OtherBase { adapter: dir, model: checkpoint.dir.clone(), base: base_name });
        }
        notes.push(format!("the adapter was trained beside other weights, those of `{base_name}`"));
    }
    Ok((stored, notes))
}

/// Where in `dir` PEFT's files are, if there are any: there, or in the sub-directory of an adapter with a name.
///
/// # Errors
/// [`Error::Format`] where there are several such sub-directories.
pub fn peft_dir(dir: &Path) -> Result<Option<PathBuf>> {
    let has_config = |dir: &Path| dir.join("adapter_config.json").exists();
    if has_config(dir) || dir.join("adapter.json").exists() {
        return Ok(Some(dir.to_owned()).filter(|dir| has_config(dir)));
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok);
    let mut named: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| has_config(path)).collect();
    named.sort();
    match named.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => {
            let problem = format!(
                "holds several adapters; give one of them: {}, {}",
                first.display(),
                second.display()
            );
            Err(Error::format(dir, problem))
        }
    }
}

impl<B: LayerOps + SvdOps> Adapted<B> {
    /// Opens the checkpoint in `model`, and the adapter in `adapter` if one is given, beside the base that it was trained
    /// on.
    ///
    /// # Errors
    /// As [`Self::open_beside`].
    pub fn open(model: &Path, adapter: Option<&Path>, device: &B::Device) -> Result<Self> {
        Self::open_beside(model, adapter, Base::TrainedOn, device)
    }

    /// The same, with a word on which base will do.
    ///
    /// # Errors
    /// [`Error::NoHead`] if neither has a head for the task, or what reading said.
    pub fn open_beside(model: &Path, adapter: Option<&Path>, base: Base, device: &B::Device) -> Result<Self> {
        let checkpoint = EncoderCheckpoint::open(model)?;
        let (stored, mut notes) = match adapter {
            Some(dir) => read_adapter(dir, &checkpoint, base).map(|(stored, notes)| (Some(stored), notes))?,
            None => (None, Vec::new()),
        };
        let of_adapter = stored.as_ref().filter(|stored| !stored.head.is_empty());
        let of_checkpoint = checkpoint.config.labels.as_deref();
        let of_checkpoint = of_checkpoint.map(|labels| Answer::of_labels(labels, checkpoint.config.task));
        let answer = match of_adapter {
            Some(stored) => {
                match &stored.manifest.task {
                    // PEFT's files do not name the classes: the checkpoint may, else they are numbered.
                    Value::Null => {
                        let (who, answer) = match of_checkpoint {
                            Some(answer) => ("they are the model's", answer),
                            None => ("they are numbered", numbered(stored, checkpoint.config.family)?),
                        };
                        notes.push(format!("the adapter's files name no classes; {who}"));
                        answer
                    }
                    task => Answer::deserialize(task).map_err(|problem| Error::UnknownTask {
                        task: task.to_string(),
                        problem: problem.to_string(),
                    })?,
                }
            }
            None => of_checkpoint.ok_or_else(|| Error::NoHead { path: model.to_owned() })?,
        };
        let (n_labels, seed) = (answer.n_labels(), Seed(0));
        let Loaded { model, mut head, notes: of_head } = match of_adapter {
            Some(_) => checkpoint.load_with_new_head(n_labels, seed, device)?,
            None => checkpoint.load(n_labels, seed, device)?,
        };
        // What is new in the head is in the adapter's, where it has one.
        if of_adapter.is_none() {
            notes.extend(of_head);
        }
        let mut built = None;
        if let Some(stored) = &stored {
            built = Some(stored.build(&mut checkpoint.weight_source::<B>(device), device)?);
            if !stored.head.is_empty() {
                head = head.with_tensors(&stored.head, "the adapter's head")?;
            }
        }
        let trained = Trained::new(built, head);
        Ok(Self { checkpoint, model, trained, answer, stored, notes })
    }
}

impl<B: LayerOps> Adapted<B> {
    /// The examples of a file, with the answers that this model can give.
    ///
    /// # Errors
    /// What reading said, or where a label is none of the classes.
    pub fn labelled(&self, rows: &Rows, columns: &Columns, max_tokens: Option<usize>) -> Result<Dataset> {
        let tokenizer = Tokenizer::load(&self.checkpoint.dir)?;
        let classes = self.answer.classes();
        let max_tokens = self.checkpoint.config.max_tokens(max_tokens)?;
        let examples = rows.examples(columns, Some(self.answer.task))?;
        let data =
            Dataset::prepare(&examples, &tokenizer, max_tokens, Labels::of(self.answer.task, &classes))?;
        check_tokens(&self.checkpoint.config, &data, &tokenizer)?;
        Ok(data)
    }

    /// Makes constant what depends on the input, at the mean over the tokens of `data`; returns the metrics on it before
    /// and after.
    ///
    /// # Errors
    /// [`Error::NothingToCollapse`] where nothing depends on the input, or what evaluating said.
    pub fn collapse(self, data: &Dataset) -> Result<(Self, Metrics, Metrics)> {
        let (before, seen) = observe(&self.model, &self.trained, data, BATCH)?;
        let Trained { adapter, head, .. } = self.trained;
        let adapter = adapter.and_then(|adapter| adapter.collapse(&seen)).ok_or(Error::NothingToCollapse)?;
        let trained = Trained::new(Some(adapter), head);
        let after = evaluate(&self.model, &trained, data, BATCH)?;
        Ok((Self { trained, ..self }, before, after))
    }

    /// Folds the adapter into the backbone's weights; returns the Frobenius norm of each site's change.
    ///
    /// # Errors
    /// Where the method cannot be merged, or would change nothing.
    pub fn merge(self) -> Result<(Self, Vec<(sara_core::Site, f64)>)> {
        let (model, norms) = self.model.merge(&self.trained.adapter)?;
        let trained = Trained::new(None, self.trained.head);
        Ok((Self { model, trained, ..self }, norms))
    }
}

/// The answer of a head whose classes nobody named: as many as its last layer has outputs.
fn numbered(stored: &StoredAdapter, family: EncoderFamily) -> Result<Answer> {
    let name = format!("{}.weight", head::paths(family)[1]);
    let labels = stored.head.get(&name).and_then(|weight| weight.shape.first().copied());
    match labels {
        Some(1) => Ok(Answer { task: Task::Regress, classes: Vec::new() }),
        Some(n) => {
            Ok(Answer { task: Task::Classify, classes: (0..n).map(|class| class.to_string()).collect() })
        }
        None => {
            let mismatches = vec![format!("{name}: missing, expected [labels, width]")];
            Err(Error::Mismatch { what: "the adapter's head".to_owned(), mismatches })
        }
    }
}
