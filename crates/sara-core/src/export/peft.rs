//! A LoRA directory for PEFT and every program that reads its files.
//!
//! Whatever the method, a site's change is written as one pair `lora_A`, `lora_B` with every scale already in
//! `lora_B`, so that the loader's own scale is 1. Loaders differ in what they make of ranks that differ by site:
//! see [`Profile`].

use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sara_ops::LayerOps;
use serde_json::{Map, Value, json};

use crate::adapter::Adapter;
use crate::backbone::Backbone;
use crate::delta::{Change, Delta};
use crate::error::{Error, Result};
use crate::parameters::Tensors;
use crate::site::{Target, short_names};
use crate::store::{replace_dir, write_json, write_safetensors};

/// Name of the file with the configuration.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// Name of the file with the tensors.
pub(crate) const TENSORS: &str = "adapter_model.safetensors";
/// What PEFT puts before the path of a module.
pub(crate) const PREFIX: &str = "base_model.model.";
/// The key in `auto_mapping` under which our export keeps what the head answers; PEFT leaves it alone.
pub(crate) const TASK: &str = "sara";
/// The version of PEFT whose format this is.
const PEFT_VERSION: &str = "0.21.2";

/// How ranks that differ by site are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Every pair padded with zeros to the largest rank: right in every loader, of any version.
    #[default]
    Portable,
    /// Every pair at its own rank, with patterns: smaller, for PEFT, transformers, mistral.rs and recent vLLM.
    /// llama.cpp's converter ignores the patterns and scales the change wrongly.
    Compact,
}

/// The task head in PEFT's words.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeftHead {
    /// Path in the Hugging Face model, for example `classifier.dense.weight`, and values in torch's orientation.
    pub tensors: Vec<(String, TensorData)>,
    /// The modules that the tensors belong to, for example `classifier`.
    pub modules_to_save: Vec<String>,
}

/// What a PEFT directory says beside the pairs.
#[derive(Debug, Clone, Copy)]
pub struct PeftExport<'a> {
    /// Every linear layer of the backbone that may be adapted, adapted or not.
    pub linears: &'a [Target],
    /// The task head.
    pub head: &'a PeftHead,
    /// Name or path of the backbone's checkpoint.
    pub base: &'a str,
    /// PEFT's name of the task, for example `SEQ_CLS`.
    pub task_type: Option<&'a str>,
    /// What the head answers, for our own import; PEFT has no place for the names of classes.
    pub task: &'a Value,
    /// How ranks are written.
    pub profile: Profile,
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `dest` and returns the rank that a server has to
/// allow for. A directory that exists is replaced.
///
/// # Errors
/// [`Error::NotExportable`] where a change is not low-rank, trains a bias or is not finite, or where no site changes
/// anything; [`Error::NotMergeable`] where it depends on the input; [`Error::Mismatch`] where `linears` lacks a layer of
/// the backbone; [`Error::Io`] where the system refuses.
pub fn export<B: LayerOps>(
    backbone: &impl Backbone<B>,
    adapter: &impl Adapter<B>,
    about: &PeftExport<'_>,
    dest: &Path,
) -> Result<usize> {
    let pairs = pairs(backbone, adapter, about.linears)?;
    let Some(rank) = pairs.iter().map(|pair| pair.rank).max() else {
        return Err(not_exportable("no site changes anything"));
    };
    let mut tensors = Tensors::new();
    for pair in &pairs {
        let rank = match about.profile {
            Profile::Portable => rank,
            Profile::Compact => pair.rank,
        };
        let Target { name, d_in, d_out, .. } = pair.target;
        tensors.insert(
            format!("{PREFIX}{name}.lora_A.weight"),
            padded(&pair.a, [pair.rank, *d_in], [rank, *d_in]),
        );
        tensors.insert(
            format!("{PREFIX}{name}.lora_B.weight"),
            padded(&pair.b, [*d_out, pair.rank], [*d_out, rank]),
        );
    }
    tensors.extend(about.head.tensors.iter().map(|(path, data)| (format!("{PREFIX}{path}"), data.clone())));
    let config = config(about, &pairs, rank);
    replace_dir(dest, |dir| {
        write_safetensors(&dir.join(TENSORS), &tensors, &[("format", "pt")])?;
        write_json(&dir.join(CONFIG), &config)
    })?;
    Ok(rank)
}

/// The change of one site in torch's orientation.
struct Pair<'a> {
    target: &'a Target,
    rank: usize,
    /// `[rank, d_in]`.
    a: Vec<f32>,
    /// `[d_out, rank]`, scaled.
    b: Vec<f32>,
}

/// The pairs of all sites that change anything.
fn pairs<'a, B: LayerOps>(
    backbone: &impl Backbone<B>,
    adapter: &impl Adapter<B>,
    linears: &'a [Target],
) -> Result<Vec<Pair<'a>>> {
    let mut pairs = Vec::new();
    for (site, linear) in backbone.linears() {
        let target = linears.iter().find(|target| target.site == site).ok_or_else(|| Error::Mismatch {
            what: "export to PEFT".to_owned(),
            mismatches: vec![format!("{site}: a layer of the backbone without a name")],
        })?;
        let Some(Delta { weight, bias }) = adapter.delta(site, linear)? else { continue };
        let name = &target.name;
        if bias.is_some() {
            return Err(not_exportable(format!("it trains the bias of {name}")));
        }
        let Change::LowRank { down, up } = weight else {
            return Err(not_exportable(format!("its change of {name} is not low-rank")));
        };
        let rank = up.dims()[0];
        if rank == 0 {
            continue;
        }
        let (a, b) = (transposed(down), transposed(up));
        if !a.iter().chain(&b).all(|value| value.is_finite()) {
            return Err(not_exportable(format!("its change of {name} is not finite")));
        }
        pairs.push(Pair { target, rank, a, b });
    }
    Ok(pairs)
}

fn transposed<B: Backend>(factor: Tensor<B, 2>) -> Vec<f32> {
    factor.transpose().into_data().convert::<f32>().iter::<f32>().collect()
}

/// `values` of shape `from` in the first rows and columns of zeros of shape `to`.
fn padded(values: &[f32], [_, columns]: [usize; 2], to: [usize; 2]) -> TensorData {
    let mut all: Vec<f32> = values
        .chunks_exact(columns)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, to[1] - columns)))
        .collect();
    all.resize(to[0] * to[1], 0.0);
    TensorData::new(all, to)
}

fn config(about: &PeftExport<'_>, pairs: &[Pair<'_>], rank: usize) -> Value {
    // Keys of a pattern are regular expressions, matched against the end of a path.
    let ranks: Map<String, Value> = match about.profile {
        Profile::Portable => Map::new(),
        Profile::Compact => {
            pairs.iter().map(|pair| (regex::escape(&pair.target.name), pair.rank.into())).collect()
        }
    };
    let modules_to_save = match about.head.modules_to_save.as_slice() {
        [] => Value::Null,
        modules => modules.into(),
    };
    let mapping = if about.task.is_null() { Value::Null } else { json!({TASK: about.task}) };
    json!({
        "alpha_pattern": ranks,
        "auto_mapping": mapping,
        "base_model_name_or_path": about.base,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": modules_to_save,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "r": rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": target_modules(about.linears, pairs),
        "task_type": about.task_type,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// Names that match the adapted layers and no other: short ones if there are such, else every path.
fn target_modules(linears: &[Target], pairs: &[Pair<'_>]) -> Vec<String> {
    let adapted = |target: &Target| pairs.iter().any(|pair| pair.target.site == target.site);
    let short: Vec<String> = short_names(linears)
        .into_iter()
        .filter(|name| pairs.iter().any(|pair| pair.target.is_named(name)))
        .collect();
    if linears.iter().all(|target| adapted(target) == short.iter().any(|name| target.is_named(name))) {
        return short;
    }
    pairs.iter().map(|pair| pair.target.name.clone()).collect()
}

fn not_exportable(reason: impl Into<String>) -> Error {
    Error::NotExportable { format: "PEFT", reason: reason.into() }
}
