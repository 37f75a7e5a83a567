//! A model opened for use: the checkpoint, and beside it the adapter and head of a directory.

mod classifier;
pub mod handover;
mod writer;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use sara_core::store::StoredAdapter;
use sara_core::{Adapter, AnyAdapter, Backbone, LayerOps, Seen};
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::architecture::{Family, PeftHead};
use crate::checkpoint::{Checkpoint, WeightType};
use crate::classify::Classes;
use crate::data::{Columns, Rows, Task};
use crate::encoder::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::run::Trains;
use crate::run::dir::RunDir;
use crate::train::Trained;
use crate::train::metrics::Metrics;

pub use writer::Writer;

/// Examples that are evaluated at a time where nobody says how many.
pub(crate) const BATCH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

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

/// How a model is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Beside which base the adapter may be.
    pub base: Base,
    /// How the frozen weights lie in memory; encoders have f32 alone.
    pub weight_type: WeightType,
}

impl Default for Opening {
    fn default() -> Self {
        Self { base: Base::TrainedOn, weight_type: WeightType::F32 }
    }
}

impl From<Base> for Opening {
    fn from(base: Base) -> Self {
        Self { base, ..Self::default() }
    }
}

/// A model with its adapter and head.
#[derive(Debug)]
pub struct Adapted<B: LayerOps, F: Family = EncoderConfig> {
    /// The files of the backbone.
    pub checkpoint: Checkpoint<F>,
    /// The frozen backbone.
    pub model: F::Model<B>,
    /// The adapter, where there is one, and the head.
    pub trained: Trained<B, Option<AnyAdapter<B>>, F::Head<B>>,
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

    /// The classes, for looking up labels.
    pub fn classes(&self) -> Classes {
        Classes::of_checkpoint(self.classes.clone())
    }
}

/// A family whose models are opened for use.
pub trait Opens: Trains {
    /// A model, and the adapter of a directory beside it; see [`Adapted::open_beside`].
    ///
    /// # Errors
    /// As there.
    fn open_beside<B: LayerOps + SvdOps>(
        model: &Path,
        adapter: Option<&Path>,
        opening: Opening,
        device: &B::Device,
    ) -> Result<Adapted<B, Self>>;

    /// See [`Adapted::examples`].
    ///
    /// # Errors
    /// As there.
    fn examples<B: LayerOps>(
        adapted: &Adapted<B, Self>,
        rows: &Rows,
        columns: &Columns,
        max_tokens: Option<usize>,
    ) -> Result<Self::Data>;

    /// The metrics on these examples, and what the adapter recorded on the way, where it
    /// [observes](sara_core::Adapter::observes).
    ///
    /// # Errors
    /// Where the examples are not this model's.
    fn observe<B: LayerOps>(
        adapted: &Adapted<B, Self>,
        data: &Self::Data,
        batch_size: NonZeroUsize,
    ) -> Result<(Metrics, Seen<B>)>;
}

/// An adapter directory, native or PEFT's, and what its reader should know. Of a run's directory, its best adapter.
///
/// # Errors
/// What reading it said, or where it does not fit the model; [`Error::OtherBase`] where it was trained beside another.
pub fn read_adapter<F: Family>(
    given: &Path,
    checkpoint: &Checkpoint<F>,
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
        if let Some(task) = imported.task_type.filter(|task| !F::TASK_TYPES.contains(&task.as_str())) {
            return Err(Error::OtherTaskType { path: dir, task, expected: F::TASK_TYPES });
        }
        let has_embeddings = !imported.embeddings.is_empty();
        let files = PeftHead {
            tensors: imported.head.into_iter().collect(),
            changes: imported.head_changes,
            embeddings: imported.embeddings,
        };
        let head = F::head_of_peft(checkpoint, files, &dir)?;
        if has_embeddings {
            notes.push("the embeddings saved along are those of the model, and left out".to_owned());
        }
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

impl<B: LayerOps + SvdOps, F: Opens> Adapted<B, F> {
    /// Opens the checkpoint in `model`, and the adapter in `adapter` if one is given, beside the base that it was trained
    /// on.
    ///
    /// # Errors
    /// As [`Self::open_beside`].
    pub fn open(model: &Path, adapter: Option<&Path>, device: &B::Device) -> Result<Self> {
        Self::open_beside(model, adapter, Opening::default(), device)
    }

    /// The same, with a word on which base will do and how the weights are held.
    ///
    /// # Errors
    /// [`Error::NoHead`] if neither has a head for the task, or what reading said.
    pub fn open_beside(
        model: &Path,
        adapter: Option<&Path>,
        opening: impl Into<Opening>,
        device: &B::Device,
    ) -> Result<Self> {
        F::open_beside(model, adapter, opening.into(), device)
    }
}

impl<B: LayerOps, F: Opens> Adapted<B, F> {
    /// The examples of a file, with the answers that this model can give.
    ///
    /// # Errors
    /// What reading said, or where a label is none of the classes, or nothing can be learned from a text.
    pub fn examples(&self, rows: &Rows, columns: &Columns, max_tokens: Option<usize>) -> Result<F::Data> {
        F::examples(self, rows, columns, max_tokens)
    }

    /// The metrics on these examples.
    ///
    /// # Errors
    /// Where they are not this model's.
    pub fn evaluate(&self, data: &F::Data, batch_size: NonZeroUsize) -> Result<Metrics> {
        Ok(F::observe(self, data, batch_size)?.0)
    }

    /// Makes constant what depends on the input, at the mean over the tokens of `data`; returns the metrics on it before
    /// and after.
    ///
    /// # Errors
    /// [`Error::NothingToCollapse`] where nothing depends on the input, or what evaluating said.
    pub fn collapse(self, data: &F::Data) -> Result<(Self, Metrics, Metrics)> {
        let (before, seen) = F::observe(&self, data, BATCH)?;
        let Trained { adapter, head, .. } = self.trained;
        let adapter = adapter.and_then(|adapter| adapter.collapse(&seen)).ok_or(Error::NothingToCollapse)?;
        let collapsed = Self { trained: Trained::new(Some(adapter), head), ..self };
        let after = collapsed.evaluate(data, BATCH)?;
        Ok((collapsed, before, after))
    }
}

impl<B: LayerOps, F: Family> Adapted<B, F> {
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
