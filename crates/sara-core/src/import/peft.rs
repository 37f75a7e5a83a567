//! LoRA and AdaLoRA directories as PEFT writes them.
//!
//! Reading is strict where PEFT is not: every tensor is used, every adapted layer has its whole pair, and an option that
//! changes what the adapter computes is either followed or refused.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};

use self::config::{Config, Kind};
use crate::error::{Error, Result};
use crate::export::peft::{CONFIG, PREFIX, TENSORS};
use crate::low_rank::Scaling;
use crate::methods::MethodConfig;
use crate::methods::lora;
use crate::parameters::Tensors;
use crate::rank_plan::{Planned, RankPlan};
use crate::site::{ModelShape, Site, Target};
use crate::store::{FORMAT, Manifest, StoredAdapter, read_safetensors};

mod config;

/// The tensors as torch saves them.
const PICKLED: &str = "adapter_model.bin";
/// How the path of the embeddings ends.
const EMBEDDINGS: &str = "embeddings.word_embeddings.weight";
/// What may stand before a path where the model that was adapted stood inside another.
const WRAPPERS: [&str; 3] = ["0.auto_model.", "model.", ""];
/// Layers outside the blocks that a pair may stand beside.
const HEAD_LAYERS: [&str; 3] = ["classifier", "score", "pooler"];

/// What a PEFT directory holds.
#[derive(Debug, Clone)]
pub struct ImportedPeft {
    /// The pairs as LoRA, without a head.
    pub stored: StoredAdapter,
    /// The task head: path in the Hugging Face model, and values in torch's orientation.
    pub head: Vec<(String, TensorData)>,
    /// PEFT's name of the task, for example `SEQ_CLS`.
    pub task_type: Option<String>,
    /// Pairs beside layers of the head: the path of the weight, and the change, `[d_out, d_in]`.
    pub head_changes: Vec<(String, TensorData)>,
    /// Embeddings that were saved along, by their path.
    pub embeddings: Vec<(String, TensorData)>,
    /// What the user should know: sites without rank, options without effect.
    pub notes: Vec<String>,
}

/// Reads a PEFT directory for a model with these `linears` of this `shape`. All tensors become f32.
///
/// # Errors
/// [`Error::Format`] for an option that is not supported, one [`Error::Mismatch`] that lists every tensor that is
/// missing, unused or of the wrong shape, [`Error::Rank`], [`Error::Io`].
pub fn import(dir: &Path, linears: &[Target], shape: ModelShape) -> Result<ImportedPeft> {
    let config = Config::read(&dir.join(CONFIG))?;
    let path = dir.join(TENSORS);
    if !path.exists() && dir.join(PICKLED).exists() {
        let problem = format!(
            "holds {PICKLED} alone, which runs code when it is read; convert it with PEFT: \
             PeftModel.from_pretrained(base, \"{0}\").save_pretrained(\"{0}\")",
            dir.display()
        );
        return Err(Error::format(dir, problem));
    }
    let Sorted { sites, head, head_pairs, embeddings, mut mismatches } =
        sort(read_safetensors(&path)?, linears, &config);
    let mut head_changes = Vec::new();
    for (module, factors) in &head_pairs {
        match factors.change(&config) {
            Ok(change) => head_changes.push((format!("{module}.weight"), change)),
            Err(problem) => mismatches.push(problem),
        }
    }
    let mut empty = Vec::new();
    let mut notes = config.notes.clone();
    let (mut plan, mut adapter) = (RankPlan::default(), Tensors::new());
    for target in linears {
        let Some(factors) = sites.get(&target.site) else { continue };
        match site(target, factors, &config) {
            Ok(Some((planned, [down, up]))) => {
                if planned.rank < config.rank_of(&factors.path).0 {
                    notes.push(format!("{}: rank {} after leaving out zeros", target.name, planned.rank));
                }
                adapter.insert(lora::path(target.site, "down"), down);
                adapter.insert(lora::path(target.site, "up"), up);
                plan.sites.push(planned);
            }
            Ok(None) => empty.push(target.name.as_str()),
            Err(mut problems) => mismatches.append(&mut problems),
        }
    }
    match empty[..] {
        [] => {}
        [name] => notes.push(format!("{name}: rank 0, not adapted")),
        [first, ..] => {
            notes.push(format!("{} layers: rank 0, not adapted; the first is {first}", empty.len()));
        }
    }
    if sites.is_empty() {
        mismatches.push("no pair lora_A, lora_B".to_owned());
    }
    if head.is_empty() && head_changes.is_empty() && !config.head.is_empty() {
        mismatches.push(format!("no tensor of a head, though {} is to be saved", config.head.join(" or ")));
    }
    if !mismatches.is_empty() {
        return Err(Error::Mismatch { what: path.display().to_string(), mismatches });
    }
    plan.check()?;
    let adapted = sites.values().chain(head_pairs.values()).map(|factors| factors.path.as_str());
    notes.extend(config.unmatched(adapted));
    let mut modules: Vec<String> = config.head.clone();
    modules.retain(|module| head.iter().any(|(path, _)| within(path, module)));
    let manifest = Manifest {
        format: FORMAT,
        base: config.base.clone(),
        base_fingerprint: None,
        task: config.task,
        head: modules,
        shape,
        method: MethodConfig::Lora(config.lora.clone()),
        plan,
        frozen: None,
    };
    let stored = StoredAdapter { manifest, adapter, head: Tensors::new(), frozen: Tensors::new() };
    Ok(ImportedPeft { stored, head, task_type: config.task_type, head_changes, embeddings, notes })
}

/// The tensors of one layer.
struct Factors {
    /// Its path in the model that was adapted, which patterns are matched with.
    path: String,
    /// By the letter in their names.
    of: BTreeMap<char, TensorData>,
}

/// The tensors of a file by what they belong to.
#[derive(Default)]
struct Sorted {
    sites: BTreeMap<Site, Factors>,
    head: Vec<(String, TensorData)>,
    /// By their module in a model with a head.
    head_pairs: BTreeMap<String, Factors>,
    embeddings: Vec<(String, TensorData)>,
    mismatches: Vec<String>,
}

fn sort(tensors: Tensors, linears: &[Target], config: &Config) -> Sorted {
    let mut sorted = Sorted::default();
    for (key, data) in tensors {
        let path = key.strip_prefix(PREFIX);
        if !data.dtype.is_float() {
            sorted.mismatches.push(format!("{key}: expected floats, found {:?}", data.dtype));
        } else if let Some((module, letter)) = path.and_then(|path| config.kind.factor(path)) {
            let place = in_model(module, linears);
            let new = || Factors { path: module.to_owned(), of: BTreeMap::new() };
            let factors = match linears.iter().find(|target| target.name == place) {
                Some(target) => sorted.sites.entry(target.site).or_insert_with(new),
                None if HEAD_LAYERS.iter().any(|layer| within(&format!("{place}.weight"), layer)) => {
                    sorted.head_pairs.entry(place).or_insert_with(new)
                }
                None => {
                    sorted.mismatches.push(format!("{key}: not a layer of this model that can be adapted"));
                    continue;
                }
            };
            if factors.path == module {
                factors.of.insert(letter, data);
            } else {
                sorted.mismatches.push(format!("{key}: a second pair for the layer of {}", factors.path));
            }
        } else if let Some(path) = path.filter(|path| config.is_head(path)) {
            sorted.head.push((in_model(path, linears), data.convert_dtype(DType::F32)));
        } else if let Some(path) = path.filter(|path| path.ends_with(EMBEDDINGS)) {
            sorted.embeddings.push((in_model(path, linears), data.convert_dtype(DType::F32)));
        } else {
            sorted.mismatches.push(format!("{key}: {}", unused(&key)));
        }
    }
    sorted
}

/// A path in the model that was adapted as a model with a head has it: that may have been a bare one, or wrapped.
fn in_model(path: &str, linears: &[Target]) -> String {
    let Some((family, inside)) = linears.first().and_then(|target| target.name.split_once('.')) else {
        return path.to_owned();
    };
    let block = inside.split('.').next().unwrap_or(inside);
    for wrapper in WRAPPERS {
        let Some(rest) = path.strip_prefix(wrapper) else { continue };
        let first = rest.split('.').next().unwrap_or(rest);
        if [block, "embeddings", "pooler"].contains(&first) {
            return format!("{family}.{rest}");
        }
        if first == family || ["classifier", "score"].contains(&first) {
            return rest.to_owned();
        }
    }
    path.to_owned()
}

/// Why a tensor has no use.
fn unused(key: &str) -> &'static str {
    if key.contains(".lora_A.") || key.contains(".lora_B.") {
        "the adapter's name stands in the key, which PEFT never writes; remove it (`lora_A.weight`)"
    } else if key.contains("lora_magnitude_vector") {
        "DoRA is not supported"
    } else if key.contains("lora_embedding_") {
        "adapted embeddings are not supported"
    } else {
        "neither part of a pair nor of the task head"
    }
}

/// A site's rank and alpha and its `down` and `up`; `None` if nothing of its rank is left.
fn site(
    target: &Target,
    factors: &Factors,
    config: &Config,
) -> std::result::Result<Option<(Planned, [TensorData; 2])>, Vec<String>> {
    let Target { name, d_in, d_out, .. } = target;
    let (rank, alpha) = config.rank_of(&factors.path);
    let mut problems = Vec::new();
    let mut factor = |letter: char, shape: [usize; 2]| match factors.of.get(&letter) {
        Some(data) if data.shape.as_slice() == shape => data.clone().convert::<f32>().iter::<f32>().collect(),
        found => {
            let found = found.map_or("nothing".to_owned(), |data| format!("{:?}", data.shape.as_slice()));
            problems.push(format!("{name}.lora_{letter}: expected {shape:?}, found {found}"));
            Vec::new()
        }
    };
    let (a, b) = (factor('A', [rank, *d_in]), factor('B', [*d_out, rank]));
    let e = match config.kind {
        Kind::Lora => Vec::new(),
        Kind::Adalora => factor('E', [rank, 1]),
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let e = if e.is_empty() { vec![1.0; rank] } else { e };
    // A component of zeros on both sides is padding: it has no effect, gets no gradient and never will.
    let row = |component: usize| &a[component * d_in..][..*d_in];
    let column = |component: usize| (0..*d_out).map(move |out| out * rank + component);
    let used: Vec<usize> = (0..rank)
        .filter(|&component| {
            row(component).iter().any(|&value| value != 0.0) || column(component).any(|index| b[index] != 0.0)
        })
        .collect();
    if used.is_empty() {
        return Ok(None);
    }
    let down: Vec<f32> = (0..*d_in)
        .flat_map(|input| used.iter().map(move |&component| (component, input)))
        .map(|(component, input)| row(component)[input] * e[component])
        .collect();
    let up: Vec<f32> = used.iter().flat_map(|&component| column(component)).map(|index| b[index]).collect();
    let kept = used.len();
    let alpha = config.alpha_at(alpha, rank, kept);
    let planned = Planned { target: target.clone(), rank: kept, alpha: Some(alpha) };
    let tensors = [TensorData::new(down, [*d_in, kept]), TensorData::new(up, [kept, *d_out])];
    Ok(Some((planned, tensors)))
}

impl Factors {
    /// The change of the layer's weight, `[d_out, d_in]`.
    fn change(&self, config: &Config) -> std::result::Result<TensorData, String> {
        let (rank, alpha) = config.rank_of(&self.path);
        let matrix = |letter: char| match self.of.get(&letter).map(|data| (data, data.shape.as_slice())) {
            Some((data, &[rows, columns])) => Ok((data.iter::<f64>().collect::<Vec<_>>(), rows, columns)),
            _ => Err(format!("{}.lora_{letter}: missing, or not a matrix", self.path)),
        };
        let ((a, rows, d_in), (b, d_out, columns)) = (matrix('A')?, matrix('B')?);
        if (rows, columns) != (rank, rank) {
            return Err(format!("{}: expected rank {rank}, found {rows} and {columns}", self.path));
        }
        let e = match config.kind {
            Kind::Lora => vec![1.0; rank],
            Kind::Adalora => matrix('E')?.0,
        };
        if e.len() != rank {
            return Err(format!("{}.lora_E: expected {rank} values, found {}", self.path, e.len()));
        }
        let scale = match (config.kind, config.lora.branch.scaling) {
            (Kind::Adalora, _) => config.adalora_scale(),
            (_, Scaling::Rank) => alpha / rank as f64,
            (_, Scaling::RootRank) => alpha / (rank as f64).sqrt(),
        };
        let value = |out: usize, input: usize| -> f32 {
            let sum: f64 = (0..rank).map(|r| b[out * rank + r] * e[r] * a[r * d_in + input]).sum();
            (scale * sum) as f32
        };
        let values = (0..d_out).flat_map(|out| (0..d_in).map(move |input| (out, input)));
        let values: Vec<f32> = values.map(|(out, input)| value(out, input)).collect();
        Ok(TensorData::new(values, [d_out, d_in]))
    }
}

/// True if `path` is below `module`, which may be given by the end of its path.
fn within(path: &str, module: &str) -> bool {
    format!(".{path}").contains(&format!(".{module}."))
}

impl Config {
    /// The alpha that gives a site of rank `rank` the same scale when only `kept` of its components are.
    fn alpha_at(&self, alpha: f64, rank: usize, kept: usize) -> f64 {
        match (self.kind, self.lora.branch.scaling) {
            (Kind::Adalora, _) => self.adalora_scale() * kept as f64,
            _ if kept == rank => alpha,
            (_, Scaling::Rank) => alpha / rank as f64 * kept as f64,
            (_, Scaling::RootRank) => alpha / (rank as f64).sqrt() * (kept as f64).sqrt(),
        }
    }
}
