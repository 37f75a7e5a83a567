//! The native format: a directory with `adapter.safetensors` and `adapter.json`.
//!
//! The JSON holds the method, the resolved rank plan and what the model looked like, so that loading repeats no
//! decision and no decomposition. The tensors are the adapter's whole state under `adapter.`, what is never trained
//! included, and the task head under `head.`. The same adapter always gives the same bytes.

use std::fs;
use std::path::Path;

use sara_ops::LayerOps;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::methods::{AnyAdapter, MethodConfig};
use crate::parameters::{Tensors, restore};
use crate::rank_plan::RankPlan;
use crate::seed::Seed;
use crate::site::ModelShape;

mod replace;
mod tensors;

pub use replace::{replace_dir, write_file};
pub use tensors::{TensorFile, read_safetensors, write_safetensors, write_views};

/// The version of the native format that this crate writes and reads.
pub const FORMAT: u32 = 1;

const MANIFEST: &str = "adapter.json";
const TENSORS: &str = "adapter.safetensors";

/// What `adapter.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format, [`FORMAT`].
    pub format: u32,
    /// The backbone, for human readers.
    pub base: String,
    /// What the adapter was trained for; this crate does not look inside.
    #[serde(default)]
    pub task: serde_json::Value,
    /// The backbone's modules that were trained as a whole, by path.
    #[serde(default)]
    pub head: Vec<String>,
    /// The shape of the model that the adapter belongs to.
    pub shape: ModelShape,
    /// The method.
    pub method: MethodConfig,
    /// The rank of every site, as it was decided before training.
    pub plan: RankPlan,
}

/// An adapter as it is stored: its description, its state and the task head.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAdapter {
    /// The description.
    pub manifest: Manifest,
    /// The adapter's state, by the paths of [`collect`](crate::parameters::collect).
    pub adapter: Tensors,
    /// The task head, by paths that its model chose.
    pub head: Tensors,
}

impl StoredAdapter {
    /// Reads a directory in the native format.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] with the file's name, [`Error::Mismatch`] where a tensor is neither the
    /// adapter's nor the head's.
    pub fn read(dir: &Path) -> Result<Self> {
        let manifest = read_manifest(&dir.join(MANIFEST))?;
        let path = dir.join(TENSORS);
        let (mut adapter, mut head, mut unknown) = (Tensors::new(), Tensors::new(), Vec::new());
        for (name, data) in read_safetensors(&path)? {
            if let Some(name) = name.strip_prefix("adapter.") {
                adapter.insert(name.to_owned(), data);
            } else if let Some(name) = name.strip_prefix("head.") {
                head.insert(name.to_owned(), data);
            } else {
                unknown.push(format!("{name}: expected a name in `adapter.` or `head.`"));
            }
        }
        if unknown.is_empty() {
            return Ok(Self { manifest, adapter, head });
        }
        Err(Error::Mismatch { what: path.display().to_string(), mismatches: unknown })
    }

    /// Writes the directory, whole or not at all; one that exists is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let prefixed = |prefix: &'static str, tensors: &Tensors| {
            tensors.clone().into_iter().map(move |(name, data)| (format!("{prefix}.{name}"), data))
        };
        let all: Tensors = prefixed("adapter", &self.adapter).chain(prefixed("head", &self.head)).collect();
        replace_dir(dir, |dir| {
            write_safetensors(&dir.join(TENSORS), &all, &[])?;
            write_json(&dir.join(MANIFEST), &self.manifest)
        })
    }

    /// The adapter, on `device`.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Rank`] where the description is impossible, [`Error::Mismatch`] where the tensors
    /// are not those that it describes.
    pub fn build<B: LayerOps>(&self, device: &B::Device) -> Result<AnyAdapter<B>> {
        let Manifest { method, shape, plan, .. } = &self.manifest;
        plan.check()?;
        // The seed does not matter: every value drawn from it is replaced.
        let adapter = method.init(*shape, plan, Seed(0), device)?;
        restore(adapter, &self.adapter, "stored adapter")
    }
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let invalid = |error: serde_json::Error| Error::format(path, error);
    let value: serde_json::Value = read_json(path)?;
    // The version first: a newer format would otherwise be called an unknown field.
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => serde_json::from_value(value).map_err(invalid),
        Some(format) => {
            let problem = format!(
                "format {format} is not {FORMAT}, the one this version reads; use the version that wrote it"
            );
            Err(Error::format(path, problem))
        }
        None => Err(Error::format(path, "no `format`: this is not the description of an adapter")),
    }
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::format(path, error))
}

/// Writes a JSON file for human readers.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::format(path, error))?;
    text.push(b'\n');
    write_file(path, &text)
}
