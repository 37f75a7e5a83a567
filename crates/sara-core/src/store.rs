//! The native format: a directory with `adapter.safetensors` and `adapter.json`.
//!
//! The JSON holds the method, the resolved rank plan and what the model looked like, so that loading repeats no
//! decision and no decomposition. The tensors are the adapter's whole state under `adapter.`, what is never trained
//! included, and the task head under `head.`. The same adapter always gives the same bytes.
//!
//! What a method froze out of the base's weights stands in `frozen.safetensors`, which may be left away: it is computed
//! again then, beside the base that `adapter.json` describes.

use std::fs;
use std::path::Path;

use sara_ops::LayerOps;
use sara_svd::SvdOps;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Apart};
use crate::error::{Error, Result};
use crate::methods::{AnyAdapter, MethodConfig};
use crate::parameters::{Tensors, check_complete, collect_where, restore_where};
use crate::rank_plan::{RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::ModelShape;

mod frozen;
mod replace;
mod tensors;

pub use frozen::Frozen;
pub use replace::{replace_dir, write_file};
pub use tensors::{TensorFile, read_safetensors, write_safetensors, write_views};

/// The version of the native format that this crate writes and reads.
pub const FORMAT: u32 = 1;

const MANIFEST: &str = "adapter.json";
const TENSORS: &str = "adapter.safetensors";
const FROZEN: &str = "frozen.safetensors";

/// What `adapter.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format, [`FORMAT`].
    pub format: u32,
    /// The backbone, for human readers.
    pub base: String,
    /// A hash of the backbone's names, shapes and some of its values, made by whoever knows its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_fingerprint: Option<String>,
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
    /// What the adapter has from the base's weights alone, where it has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
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
    /// What comes from the base's weights alone; empty where there is no such, or where it is to be computed again.
    pub frozen: Tensors,
}

impl StoredAdapter {
    /// An adapter and a head as they are to be stored; where the manifest describes already what is frozen, that stands.
    pub fn new<B: LayerOps>(manifest: Manifest, adapter: &impl Adapter<B>, head: Tensors) -> Self {
        let Apart { from_base, unused } = adapter.apart();
        let frozen = collect_where(adapter, |id| from_base.contains(&id));
        let adapter = collect_where(adapter, |id| !from_base.contains(&id) && !unused.contains(&id));
        let description = manifest.frozen.or_else(|| (!frozen.is_empty()).then(|| Frozen::of(&frozen)));
        let head_paths = head.keys().cloned().collect();
        Self {
            manifest: Manifest { head: head_paths, frozen: description, ..manifest },
            adapter,
            head,
            frozen,
        }
    }

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
        if !unknown.is_empty() {
            return Err(Error::Mismatch { what: path.display().to_string(), mismatches: unknown });
        }
        let path = dir.join(FROZEN);
        let frozen = match &manifest.frozen {
            Some(described) if path.exists() => {
                let frozen = read_safetensors(&path)?;
                if Frozen::hash(&frozen) != described.hash {
                    let problem =
                        format!("is not the file that {MANIFEST} describes; copy it again, or remove it");
                    return Err(Error::format(&path, problem));
                }
                frozen
            }
            _ => Tensors::new(),
        };
        Ok(Self { manifest, adapter, head, frozen })
    }

    /// Writes the directory, whole or not at all; one that exists is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.write_beside(dir, None)
    }

    /// The same. What is frozen is linked to the file of `sibling`, a directory with the same adapter at another step,
    /// where that is the same and the system has links.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write_beside(&self, dir: &Path, sibling: Option<&Path>) -> Result<()> {
        let prefixed = |prefix: &'static str, tensors: &Tensors| {
            tensors.clone().into_iter().map(move |(name, data)| (format!("{prefix}.{name}"), data))
        };
        let all: Tensors = prefixed("adapter", &self.adapter).chain(prefixed("head", &self.head)).collect();
        replace_dir(dir, |made| {
            write_safetensors(&made.join(TENSORS), &all, &[])?;
            if !self.frozen.is_empty() {
                let is_same = |dir: &Path| {
                    read_manifest(&dir.join(MANIFEST)).is_ok_and(|other| other.frozen == self.manifest.frozen)
                };
                let linked = sibling
                    .filter(|dir| is_same(dir))
                    .is_some_and(|dir| fs::hard_link(dir.join(FROZEN), made.join(FROZEN)).is_ok());
                if !linked {
                    write_safetensors(&made.join(FROZEN), &self.frozen, &[])?;
                }
            }
            write_json(&made.join(MANIFEST), &self.manifest)
        })
    }

    /// The adapter, on `device`. The weights are asked only where what is frozen out of them is not stored beside it.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Rank`] where the description is impossible, [`Error::Mismatch`] where the tensors
    /// are not those that it describes, [`Error::OtherBase`] where the weights are not those it was trained beside, and
    /// what reading or decomposing them said.
    pub fn build<B: LayerOps + SvdOps>(
        &self,
        weights: &mut dyn WeightSource<B>,
        device: &B::Device,
    ) -> Result<AnyAdapter<B>> {
        let Manifest { method, shape, plan, frozen: described, .. } = &self.manifest;
        let Some(described) = described.as_ref().filter(|_| self.frozen.is_empty()) else {
            return self.build_without_base(device);
        };
        plan.check()?;
        let adapter = method.start(*shape, plan, Seed(0), weights, device)?;
        let from_base = adapter.apart().from_base;
        described.check(&collect_where(&adapter, |id| from_base.contains(&id)))?;
        self.fill(adapter)
    }

    /// The same without the weights: what is frozen out of them is zero where it is not stored.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_without_base<B: LayerOps>(&self, device: &B::Device) -> Result<AnyAdapter<B>> {
        let Manifest { method, shape, plan, .. } = &self.manifest;
        plan.check()?;
        // The seed does not matter: every value drawn from it is replaced.
        self.fill(method.init(*shape, plan, Seed(0), device)?)
    }

    /// Puts the stored values in place. What has no effect may be missing, and whether it has is itself stored.
    fn fill<B: LayerOps>(&self, adapter: AnyAdapter<B>) -> Result<AnyAdapter<B>> {
        const WHAT: &str = "stored adapter";
        let mut tensors = self.adapter.clone();
        tensors.extend(self.frozen.clone());
        let adapter = restore_where(adapter, &tensors, |_| false, WHAT)?;
        let Apart { from_base, unused } = adapter.apart();
        let needed = |id| !from_base.contains(&id) && !unused.contains(&id);
        check_complete(&adapter, &tensors, needed, WHAT)?;
        Ok(adapter)
    }
}

/// Bytes of the adapter's own file in `dir`, and of what is frozen, where it is stored.
///
/// # Errors
/// [`Error::Io`].
pub fn stored_bytes(dir: &Path) -> Result<(u64, u64)> {
    let size = |path: &Path| fs::metadata(path).map(|found| found.len());
    let (own, frozen) = (dir.join(TENSORS), dir.join(FROZEN));
    let own_bytes = size(&own).map_err(|source| Error::io(&own, source))?;
    Ok((own_bytes, size(&frozen).unwrap_or(0)))
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
