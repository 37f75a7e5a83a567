//! `adapter_config.json`: what counts, what is refused, what has no effect.

use std::path::Path;

use fancy_regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::within;
use crate::error::{Error, Result};
use crate::export::peft::{CONFIG, PREFIX, TASK};
use crate::low_rank::{BranchConfig, Scaling};
use crate::methods::lora::LoraConfig;
use crate::store::read_json;

/// Options that change what an adapter computes and that this reader does not follow; harmless where they are off.
const UNSUPPORTED: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "bias",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Options about training, about making the adapter or about which layers were chosen: the tensors tell the result.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "beta1",
    "beta2",
    "corda_config",
    "deltaT",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "orth_reg_weight",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "target_r",
    "tfinal",
    "tinit",
    "total_step",
];

/// First values that leave the backbone as it is. The others (pissa, olora, loftq ...) change its weights as well.
const HARMLESS_INITS: &[&str] = &["eva", "gaussian", "orthogonal"];

/// Modules that are a task head. PEFT saves the first two for a classifier whatever the file says.
const HEADS: &[&str] = &["classifier", "score", "pooler"];

/// Parts of a head that may be saved by themselves; the rest is then the base's.
const PARTS: &[&str] = &["dense", "out_proj"];

/// PEFT's defaults.
const RANK: usize = 8;
const ALPHA: f64 = 8.0;
const INITIAL_RANK: usize = 12;
/// Added to the rank in AdaLoRA's scaling.
const GUARD: f64 = 1e-5;

/// The file as it stands; `null` is the same as no key.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    r: Option<usize>,
    #[serde(default, deserialize_with = "whole")]
    init_r: Option<usize>,
    lora_alpha: Option<f64>,
    lora_dropout: Option<f64>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    use_rslora: Option<bool>,
    init_lora_weights: Option<Value>,
    modules_to_save: Option<Vec<String>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// A whole number, which some programs write as `4.0`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<usize>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match whole_number(&value) {
        None if !value.is_null() => Err(serde::de::Error::custom(format!("{value} is not a whole number"))),
        number => Ok(number),
    }
}

fn whole_number(value: &Value) -> Option<usize> {
    let fractionless = || value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
    let number = value.as_u64().map(|number| number as usize).or_else(|| Some(fractionless()? as usize));
    number.filter(|&number| u32::try_from(number).is_ok())
}

/// Which of PEFT's two methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lora,
    Adalora,
}

impl Kind {
    /// The module and the letter of `<module>.lora_A.weight` (AdaLoRA: `<module>.lora_A`).
    pub(super) fn factor(self, path: &str) -> Option<(&str, char)> {
        let (path, letters) = match self {
            Self::Lora => (path.strip_suffix(".weight")?, "AB"),
            Self::Adalora => (path, "ABE"),
        };
        let (module, letter) = path.rsplit_once(".lora_")?;
        let mut chars = letter.chars();
        let letter = chars.next().filter(|&letter| letters.contains(letter))?;
        chars.next().is_none().then_some((module, letter))
    }
}

/// The configuration, checked.
pub(super) struct Config {
    pub(super) kind: Kind,
    /// Rank and alpha where no pattern says otherwise.
    pub(super) lora: LoraConfig,
    pub(super) base: String,
    pub(super) task_type: Option<String>,
    /// What the head answers, where [our export](crate::export::peft) wrote it.
    pub(super) task: Value,
    /// Modules of the task head, whether the model has them or not.
    pub(super) head: Vec<String>,
    pub(super) notes: Vec<String>,
    /// In the order of the file: the first match wins.
    ranks: Vec<Pattern<usize>>,
    alphas: Vec<Pattern<f64>>,
}

struct Pattern<T> {
    key: String,
    regex: Regex,
    value: T,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let raw: Raw = read_json(path)?;
        let invalid = |problem: String| Error::format(path, problem);
        let kind = match raw.peft_type.as_str() {
            "LORA" => Kind::Lora,
            "ADALORA" => Kind::Adalora,
            other => {
                return Err(invalid(format!(
                    "peft_type {other} is not supported, only LORA and ADALORA are"
                )));
            }
        };
        raw.refuse().map_or(Ok(()), |problem| Err(invalid(problem)))?;
        let rank = match kind {
            Kind::Lora => raw.r.unwrap_or(RANK),
            Kind::Adalora => raw.init_r.unwrap_or(INITIAL_RANK),
        };
        let mut alpha = raw.lora_alpha.unwrap_or(ALPHA);
        if kind == Kind::Adalora && alpha <= 0.0 {
            alpha = rank as f64;
        }
        let (ranks, alphas) = match kind {
            Kind::Lora => (
                patterns(path, raw.rank_pattern.as_ref(), whole_number)?,
                patterns(path, raw.alpha_pattern.as_ref(), Value::as_f64)?,
            ),
            Kind::Adalora => (masks(path, raw.rank_pattern.as_ref(), rank)?, Vec::new()),
        };
        let scaling = match (kind, raw.use_rslora) {
            (Kind::Lora, Some(true)) => Scaling::RootRank,
            _ => Scaling::Rank,
        };
        Ok(Self {
            kind,
            lora: LoraConfig {
                rank,
                branch: BranchConfig {
                    alpha,
                    dropout: raw.lora_dropout.unwrap_or(0.0),
                    scaling,
                    ..BranchConfig::default()
                },
            },
            head: raw.head(),
            notes: raw.notes(),
            task: raw.others.get("auto_mapping").map(|mapping| mapping[TASK].clone()).unwrap_or_default(),
            base: raw.base_model_name_or_path.unwrap_or_default(),
            task_type: raw.task_type,
            ranks,
            alphas,
        })
    }

    /// Rank and alpha of the layer at `path`.
    pub(super) fn rank_of(&self, path: &str) -> (usize, f64) {
        (
            first(&self.ranks, path).copied().unwrap_or(self.lora.rank),
            first(&self.alphas, path).copied().unwrap_or(self.lora.branch.alpha),
        )
    }

    /// Constant factor of an AdaLoRA branch: of the initial rank, also after pruning.
    pub(super) fn adalora_scale(&self) -> f64 {
        self.lora.branch.alpha / (self.lora.rank as f64 + GUARD)
    }

    /// True if the tensor at `path` belongs to the task head.
    pub(super) fn is_head(&self, path: &str) -> bool {
        self.head.iter().any(|module| within(path, module)) && !path.contains("lora_")
    }

    /// A note for each pattern that none of the adapted layers at these paths matches.
    pub(super) fn unmatched<'a>(&self, adapted: impl Iterator<Item = &'a str>) -> Vec<String> {
        let paths: Vec<&str> = adapted.collect();
        let keys = self.ranks.iter().map(|p| ("rank_pattern", &p.key, &p.regex));
        keys.chain(self.alphas.iter().map(|p| ("alpha_pattern", &p.key, &p.regex)))
            .filter(|(_, _, regex)| !paths.iter().any(|path| regex.is_match(path).unwrap_or(false)))
            .map(|(field, key, _)| format!("{field} `{key}` matches no adapted layer"))
            .collect()
    }
}

impl Raw {
    /// Why the adapter cannot be read, if so.
    fn refuse(&self) -> Option<String> {
        for &option in UNSUPPORTED {
            if let Some(value) = self.others.get(option).filter(|value| !is_off(value)) {
                return Some(format!("{option} = {value} is not supported"));
            }
        }
        match &self.init_lora_weights {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(init)) if HARMLESS_INITS.contains(&init.as_str()) => {}
            Some(init) => {
                return Some(format!(
                    "init_lora_weights = {init} changed the weights of the backbone; convert the adapter to plain LoRA with PEFT"
                ));
            }
        }
        let saved = self.modules_to_save.iter().flatten();
        let other = saved.into_iter().find(|module| {
            let last = module.rsplit('.').next().unwrap_or(module);
            let is_part = PARTS.contains(&last);
            // A classifier is saved as a whole as well, and what stands in the file of a part is then an untrained copy.
            !HEADS.contains(&last) && !is_part || is_part && self.task_type.as_deref() == Some("SEQ_CLS")
        })?;
        Some(format!(
            "modules_to_save holds `{other}`, which is not a task head ({}), or a part of one that is saved as a whole too",
            HEADS.join(", ")
        ))
    }

    fn head(&self) -> Vec<String> {
        let saved = self.modules_to_save.iter().flatten();
        let mut head: Vec<String> =
            saved.map(|module| module.strip_prefix(PREFIX).unwrap_or(module).to_owned()).collect();
        if self.task_type.as_deref() == Some("SEQ_CLS") {
            head.extend(["classifier", "score"].map(str::to_owned));
        }
        head.sort();
        head.dedup();
        head
    }

    fn notes(&self) -> Vec<String> {
        let known = |key: &str| UNSUPPORTED.contains(&key) || WITHOUT_EFFECT.contains(&key);
        self.others
            .iter()
            .filter(|(key, value)| !known(key) && !is_off(value))
            .map(|(key, value)| format!("{CONFIG} has the unknown option {key} = {value}, which is ignored"))
            .collect()
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text == "none",
        Value::Array(values) => values.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// The value of the first pattern that matches.
fn first<'a, T>(patterns: &'a [Pattern<T>], path: &str) -> Option<&'a T> {
    patterns
        .iter()
        .find(|pattern| pattern.regex.is_match(path).unwrap_or(false))
        .map(|pattern| &pattern.value)
}

/// Patterns of LoRA: keys are regular expressions for the end of a path, from a dot on.
fn patterns<T>(
    path: &Path,
    entries: Option<&Map<String, Value>>,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<Pattern<T>>> {
    let pattern = |(key, value): (&String, &Value)| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|_| Error::format(path, format!("pattern `{key}` is not a regular expression")))?;
        let value = read(value)
            .ok_or_else(|| Error::format(path, format!("pattern `{key}`: {value} is not a number")))?;
        Ok(Pattern { key: key.clone(), regex, value })
    };
    entries.into_iter().flatten().map(pattern).collect()
}

/// Masks of AdaLoRA: `<path>.lora_E` and one boolean for each component of the initial rank.
fn masks(path: &Path, entries: Option<&Map<String, Value>>, rank: usize) -> Result<Vec<Pattern<usize>>> {
    let mask = |(key, value): (&String, &Value)| {
        let kept: Option<Vec<bool>> =
            value.as_array().and_then(|mask| mask.iter().map(Value::as_bool).collect());
        let kept = kept.filter(|mask| mask.len() == rank).ok_or_else(|| {
            Error::format(path, format!("rank_pattern `{key}` does not hold {rank} booleans (init_r)"))
        })?;
        let module = key.strip_suffix(".lora_E").unwrap_or(key);
        let regex = Regex::new(&format!("^{}$", fancy_regex::escape(module)))
            .map_err(|error| Error::format(path, format!("rank_pattern `{key}`: {error}")))?;
        Ok(Pattern { key: key.clone(), regex, value: kept.iter().filter(|&&kept| kept).count() })
    };
    entries.into_iter().flatten().map(mask).collect()
}
