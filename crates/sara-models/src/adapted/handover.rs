//! Handing an adapted model over: the native description, PEFT's files, a merged checkpoint.

use std::path::Path;

use sara_core::export::peft::{PeftExport, PeftHead, export};
use sara_core::store::{FORMAT, Manifest};
use sara_core::{LayerOps, MethodConfig, RankPlan};

pub use sara_core::export::peft::Profile as PeftProfile;

use crate::adapted::{Adapted, Answer};
use crate::architecture::Family;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::hub::name_in_cache;
use crate::train::TaskHead;

/// The description of an adapter of this model.
///
/// # Errors
/// None in practice: the answer is plain data.
pub fn manifest<F: Family>(
    checkpoint: &Checkpoint<F>,
    method: &MethodConfig,
    plan: &RankPlan,
    answer: &Answer,
) -> Result<Manifest> {
    let task = serde_json::to_value(answer).map_err(|error| Error::format(&checkpoint.dir, error))?;
    Ok(Manifest {
        format: FORMAT,
        base: name_of(checkpoint),
        base_fingerprint: Some(checkpoint.fingerprint()),
        task,
        head: Vec::new(),
        shape: checkpoint.config.shape(),
        method: method.clone(),
        plan: plan.clone(),
        frozen: None,
    })
}

/// Writes the adapter and head as PEFT would have saved them.
///
/// # Errors
/// Where the method has no low-rank form, or what writing said.
pub fn export_peft<B: LayerOps, F: Family>(
    adapted: &Adapted<B, F>,
    profile: PeftProfile,
    dest: &Path,
) -> Result<()> {
    let Adapted { checkpoint, model, trained, .. } = adapted;
    let head = PeftHead {
        tensors: trained.head.tensors().into_iter().collect(),
        modules_to_save: trained.head.modules_to_save().iter().map(ToString::to_string).collect(),
    };
    let task = serde_json::to_value(&adapted.answer).map_err(|error| Error::format(dest, error))?;
    let about = PeftExport {
        linears: &checkpoint.config.linears(),
        head: &head,
        base: &name_of(checkpoint),
        task_type: F::TASK_TYPES.first().copied(),
        task: &task,
        profile,
    };
    export(model, &trained.adapter, &about, dest)?;
    Ok(())
}

impl<B: LayerOps, F: Family> Adapted<B, F> {
    /// Writes the checkpoint with this backbone and head in place of its own.
    ///
    /// # Errors
    /// If `dest` is the base's own directory, or what writing said; a directory that is there already is replaced.
    pub fn save(&self, dest: &Path) -> Result<()> {
        let head = self.trained.head.saved(&self.answer)?;
        self.checkpoint.save_merged(dest, &self.model, head.as_ref())
    }
}

/// The name of a model: on the hub for a snapshot in its cache, else as it was given.
fn name_of<F>(checkpoint: &Checkpoint<F>) -> String {
    name_in_cache(&checkpoint.dir).unwrap_or_else(|| checkpoint.given.display().to_string())
}
