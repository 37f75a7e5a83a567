//! The run file: everything that a training run is told, with defaults, overrides and one-line errors.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use sara_core::Targets;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::causal_lm::TrainOn;
use crate::checkpoint::WeightType;
use crate::data::{Columns, Format, Task};
use crate::error::Error;
use crate::hub::expanded;
use crate::train::optimizer::AdamWConfig;
use crate::train::schedule::{self, Schedule};

use super::text::{apply, explain, one_line, parts};

/// A run file. Relative paths are relative to the current directory, `~` is the home directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Directory of the backbone, as Hugging Face writes it. Required.
    pub model: PathBuf,
    /// Directory that the run writes. Required.
    pub output: PathBuf,
    /// What is learned. Default `classify`.
    pub task: Task,
    /// Where it is computed. Default `auto`.
    pub device: Device,
    /// Threads of the CPU backends; default all that the machine has.
    pub threads: Option<usize>,
    /// Seed of initial values, order and noise. Default 0, as in the LoRA paper's scripts.
    pub seed: u64,
    /// Dropout inside the frozen backbone. Default 0: it is not trained, so there is nothing to regularise.
    pub backbone_dropout: BackboneDropout,
    /// How the frozen weights lie in memory; for causal-lm. Default as the checkpoint has them.
    #[serde(skip_serializing_if = "is_default")]
    pub dtype: WeightType,
    /// Whether each block is computed again on the way back, in place of what it would keep; for causal-lm. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
    /// Optimizer steps between checkpoints; there is one at the end of each epoch too. Default 200.
    pub save_every: usize,
    /// Optimizer steps between evaluations; default once an epoch.
    pub eval_every: Option<usize>,
    /// Adapter to start from, native or PEFT; method and targets may be left out then.
    pub init_adapter: Option<PathBuf>,
    /// The linear layers to adapt. Default query and value, as in the LoRA paper, or those of `init_adapter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// What is learned from.
    pub data: Data,
    /// The method's name and its configuration, `[method.NAME]`; read by [`Run::method`].
    pub method: Map<String, Value>,
    /// How it is learned.
    pub optimizer: OptimizerConfig,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            output: PathBuf::new(),
            task: Task::default(),
            device: Device::default(),
            threads: None,
            seed: 0,
            backbone_dropout: BackboneDropout::Rate(0.0),
            gradient_checkpointing: false,
            dtype: WeightType::default(),
            save_every: 200,
            eval_every: None,
            init_adapter: None,
            targets: None,
            data: Data::default(),
            method: Map::new(),
            optimizer: OptimizerConfig::default(),
        }
    }
}

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The best that is compiled in and found.
    #[default]
    Auto,
    /// burn-flex on the CPU.
    Cpu,
    /// burn-ndarray on the CPU.
    Ndarray,
    /// Vulkan, Metal, DX12 or WebGPU.
    Wgpu,
    /// CUDA.
    Cuda,
}

/// Dropout inside the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "expected a number from 0 to less than 1 or \"checkpoint\"")]
pub enum BackboneDropout {
    /// As the checkpoint's config.json says.
    Checkpoint,
    /// The probability of dropping.
    #[serde(untagged)]
    Rate(f64),
}

/// What is learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Examples to learn from. Required.
    pub train: PathBuf,
    /// Examples to choose the best model by; default a share of those to learn from, which is kept apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// The share that is kept apart where `valid` is left out. Default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_share: Option<f64>,
    /// How both files are written; default by the ending of their names, else by their content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Name of the column with the text. Default `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Name of the column with the second text of a pair. Default `text_pair`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// Name of the column with the label. Default `label`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Names of columns of 0 and 1, one for each class of a multi-label task, or of numbers, one for each output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// What stands between the names of several labels in one field. Default `|`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_separator: Option<String>,
    /// Whether texts stand one behind the other in rows of up to `max_tokens`; for causal-lm. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub packing: bool,
    /// Which tokens are learned; for causal-lm. Default those of completions and of the assistant.
    #[serde(skip_serializing_if = "is_default")]
    pub train_on: TrainOn,
    /// Length at which texts are cut, in tokens; default 128 or the checkpoint's usable length, if that is smaller.
    pub max_tokens: Option<usize>,
    /// Whether each epoch has an order of its own, drawn from seed and epoch. Default true, as in transformers.
    pub shuffle: bool,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            valid: None,
            valid_share: None,
            format: None,
            text: None,
            text_pair: None,
            label: None,
            labels: None,
            label_separator: None,
            packing: false,
            train_on: TrainOn::default(),
            max_tokens: None,
            shuffle: true,
        }
    }
}

impl Data {
    /// The names of the columns.
    pub fn columns(&self) -> Columns {
        let Self { text, text_pair, label, labels, label_separator, .. } = self.clone();
        Columns { text, text_pair, label, labels, label_separator }
    }
}

/// How it is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Rate after the warm-up. Default the method's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Rate of the task head after the warm-up. Default that of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_learning_rate: Option<f64>,
    /// Decoupled weight decay of everything trained but the head's biases. Default 0, as in transformers.
    pub weight_decay: f64,
    /// Shares of the old moments that a step keeps. Default 0.9 and 0.999, as in torch.
    pub betas: [f64; 2],
    /// Added to the root of the second moment. Default 1e-8, as in torch.
    pub epsilon: f64,
    /// Share of the steps in which the rate rises from 0. Default 0.06, as in the LoRA paper's scripts.
    pub warmup_ratio: f64,
    /// How the rate goes on. Default linear, as in transformers.
    pub schedule: Schedule,
    /// Largest norm of all gradients together; `inf` never clips. Default 1, as in transformers.
    pub clip_norm: f64,
    /// Examples of a micro-batch. Default 16, as in the LoRA paper's scripts.
    pub batch_size: usize,
    /// Micro-batches of a step. Default 1, as in transformers.
    pub accumulate: usize,
    /// Passes over the training examples. Default 3, as in transformers, unless `max_steps` is given.
    pub epochs: Option<usize>,
    /// Optimizer steps, in place of `epochs`.
    pub max_steps: Option<usize>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = AdamWConfig::default();
        Self {
            learning_rate: None,
            head_learning_rate: None,
            weight_decay,
            betas: [beta1, beta2],
            epsilon,
            warmup_ratio: 0.06,
            schedule: Schedule::default(),
            clip_norm: 1.0,
            batch_size: 16,
            accumulate: 1,
            epochs: None,
            max_steps: None,
        }
    }
}

impl OptimizerConfig {
    const EPOCHS: usize = 3;

    /// The constants of the optimizer's rule.
    pub fn adamw(&self) -> AdamWConfig {
        let [beta1, beta2] = self.betas;
        AdamWConfig { beta1, beta2, epsilon: self.epsilon, weight_decay: self.weight_decay }
    }

    /// Optimizer steps in one pass over so many examples; the last step of a pass may see fewer.
    ///
    /// # Panics
    /// If `batch_size` or `accumulate` is 0, which [`Run::validate`] refuses.
    pub fn steps_per_epoch(&self, examples: usize) -> usize {
        examples.div_ceil(self.batch_size).div_ceil(self.accumulate)
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self, examples: usize) -> usize {
        let epochs = self.epochs.unwrap_or(Self::EPOCHS);
        self.max_steps.unwrap_or_else(|| epochs.saturating_mul(self.steps_per_epoch(examples)))
    }

    /// The rate after the warm-up; that of LoRA's scripts for RoBERTa-base where neither a user nor a method has said one.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(5e-4)
    }

    /// The head's learning rate, as a multiple of the adapter's at every step.
    pub fn head_rate(&self) -> f64 {
        self.head_learning_rate.map_or(1.0, |rate| rate / self.learning_rate())
    }

    /// The learning rate of a step, counted from 0, out of `total`.
    pub fn rate(&self, step: usize, total: usize) -> f64 {
        let warmup = schedule::warmup_steps(self.warmup_ratio, total);
        self.schedule.learning_rate(step, total, warmup, self.learning_rate())
    }
}

impl Run {
    /// Reads a run file, applies overrides `key.sub=value` in their order, and validates the outcome.
    ///
    /// A value is read as TOML where its key takes that, else as text, as texts between commas, or as the whole number
    /// that it is. Of `epochs` and `max_steps`, an override of one
    /// takes the other of the file away.
    ///
    /// # Errors
    /// One line that names the file, the line where it is known, and the nearest known key where a key is unknown.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// [`Run::load`] of a text; `name` stands in the errors.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Self, Error> {
        let in_file = |error: toml::de::Error| {
            let place = match error.span() {
                Some(span) => format!(
                    "{name}, line {}",
                    1 + text.get(..span.start).unwrap_or(text).matches('\n').count()
                ),
                None => name.to_owned(),
            };
            Error::Run { place, problem: explain(error.message()) }
        };
        let mut run: Self = toml::from_str(text).map_err(in_file)?;
        let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;
        for entry in overrides {
            // One after the other, so that the error names the override that is wrong.
            let wrong = |problem| Error::Run { place: format!("override `{entry}`"), problem };
            let (key, values) = parts(entry).map_err(wrong)?;
            let mut first = None;
            let mut fits = None;
            for value in values {
                let mut changed = table.clone();
                apply(&mut changed, key, value).map_err(wrong)?;
                match changed.clone().try_into() {
                    Ok(read) => {
                        fits = Some((changed, read));
                        break;
                    }
                    Err(error) => _ = first.get_or_insert(error),
                }
            }
            (table, run) = match (fits, first) {
                (Some(fits), _) => fits,
                (None, Some(error)) => return Err(wrong(explain(error.message()))),
                (None, None) => continue,
            };
        }
        let Data { train, valid, .. } = &mut run.data;
        let paths = [
            Some(&mut run.model),
            Some(&mut run.output),
            run.init_adapter.as_mut(),
            Some(train),
            valid.as_mut(),
        ];
        paths.into_iter().flatten().for_each(|path| *path = expanded(path));
        if run.optimizer.epochs.is_none() && run.optimizer.max_steps.is_none() {
            run.optimizer.epochs = Some(OptimizerConfig::EPOCHS);
        }
        run.validate()?;
        Ok(run)
    }

    /// Checks every range; touches no file.
    ///
    /// # Errors
    /// [`Error::Config`] with the first key whose value cannot be used, and what could.
    pub fn validate(&self) -> Result<(), Error> {
        let Self { data, optimizer, .. } = self;
        for (field, path, expected) in [
            ("model", &self.model, "the directory of a Hugging Face checkpoint"),
            ("output", &self.output, "a directory for the run to write"),
            ("data.train", &data.train, "a file of training examples"),
        ] {
            check(!path.as_os_str().is_empty(), field, &"\"\"", expected)?;
        }
        if let Some(valid) = &data.valid {
            let expected = "a file of validation examples; leave it out to keep a share of the others apart";
            check(!valid.as_os_str().is_empty(), "data.valid", &"\"\"", expected)?;
        }
        for (field, path) in [("data.train", Some(&data.train)), ("data.valid", data.valid.as_ref())] {
            let expected = "a file, since a run reads it again to go on";
            check(path.is_none_or(|path| path != Path::new("-")), field, &"\"-\"", expected)?;
        }
        if self.task == Task::CausalLm {
            let columns =
                [("data.text", &data.text), ("data.text_pair", &data.text_pair), ("data.label", &data.label)];
            for (field, name) in columns {
                let expected =
                    "nothing for causal-lm, whose columns are text, prompt, completion and messages";
                let found = format!("{:?}", name.as_deref().unwrap_or_default());
                check(name.is_none(), field, &found, expected)?;
            }
        } else {
            let is_kept = matches!(self.dtype, WeightType::Checkpoint | WeightType::F32);
            let found = format!("{:?}", self.dtype).to_lowercase();
            check(is_kept, "dtype", &found, "f32 or checkpoint, except for task = \"causal-lm\"")?;
            let found = self.gradient_checkpointing;
            check(!found, "gradient_checkpointing", &found, "false, except for task = \"causal-lm\"")?;
            check(!data.packing, "data.packing", &data.packing, "false, except for task = \"causal-lm\"")?;
            let expected = "\"completion\", except for task = \"causal-lm\"";
            check(data.train_on == TrainOn::Completion, "data.train_on", &"\"all\"", expected)?;
        }
        if let Some(labels) = &data.labels {
            let found = format!("{labels:?}");
            let expected = "names of columns, for task = \"multi-label\" or \"regress\", without data.label";
            let has_several = matches!(self.task, Task::MultiLabel | Task::Regress);
            let fits = !labels.is_empty() && has_several && data.label.is_none();
            check(fits, "data.labels", &found, expected)?;
        }
        if let Some(separator) = &data.label_separator {
            let expected = "what no label contains, for task = \"multi-label\", without data.labels";
            let fits = !separator.is_empty() && self.task == Task::MultiLabel && data.labels.is_none();
            check(fits, "data.label_separator", &format!("{separator:?}"), expected)?;
        }
        if let Some(share) = data.valid_share {
            let expected = "a share above 0 and below 1, where data.valid is left out";
            let fits = share > 0.0 && share < 1.0 && data.valid.is_none();
            check(fits, "data.valid_share", &share, expected)?;
        }
        if let Some(Targets::Named(names)) = &self.targets {
            let expected = "names such as [\"query\", \"value\"], or \"all-linear\"";
            check(
                names.iter().all(|name| !name.is_empty()) && !names.is_empty(),
                "targets",
                &format!("{names:?}"),
                expected,
            )?;
        }
        if let BackboneDropout::Rate(rate) = self.backbone_dropout {
            let expected = "a number from 0 to less than 1, or \"checkpoint\"";
            check((0.0..1.0).contains(&rate), "backbone_dropout", &rate, expected)?;
        }
        for (field, count) in [
            ("save_every", Some(self.save_every)),
            ("eval_every", self.eval_every),
            ("threads", self.threads),
            ("data.max_tokens", data.max_tokens),
            ("optimizer.batch_size", Some(optimizer.batch_size)),
            ("optimizer.accumulate", Some(optimizer.accumulate)),
            ("optimizer.epochs", optimizer.epochs),
            ("optimizer.max_steps", optimizer.max_steps),
        ] {
            check(count != Some(0), field, &0, "1 or more")?;
        }
        if let (Some(epochs), Some(steps)) = (optimizer.epochs, optimizer.max_steps) {
            let found = format!("{steps} beside optimizer.epochs = {epochs}");
            check(false, "optimizer.max_steps", &found, "one of the two; leave the other out")?;
        }
        optimizer.validate()?;
        match self.method.iter().collect::<Vec<_>>()[..] {
            [(_, Value::Object(_))] => Ok(()),
            [] if self.init_adapter.is_some() => Ok(()),
            [(name, value)] => check(false, &format!("method.{name}"), value, "a table [method.NAME]"),
            _ => {
                let found = format!("{:?}", self.method.keys().collect::<Vec<_>>());
                check(false, "method", &found, "exactly one method, as a table [method.NAME]")
            }
        }
    }

    /// Whether the files that are read are there.
    ///
    /// # Errors
    /// [`Error::MissingPath`] names the key and from where relative paths count.
    pub fn check_paths(&self) -> Result<(), Error> {
        let Data { train, valid, .. } = &self.data;
        let adapter = ("init_adapter", self.init_adapter.as_ref());
        for (field, path) in [("data.train", Some(train)), ("data.valid", valid.as_ref()), adapter] {
            if let Some(path) = path.filter(|path| !path.exists()) {
                let from = std::env::current_dir().unwrap_or_default();
                return Err(Error::MissingPath { field, path: path.clone(), from });
            }
        }
        Ok(())
    }

    /// The configuration of the method; `T` reads `{"NAME": {...}}`, as an enum of serde does.
    ///
    /// # Errors
    /// [`Error::Run`] names the unknown method or field, and the nearest known one.
    pub fn method<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let name = self.method.keys().next().map_or("NAME", String::as_str);
        serde_json::from_value(Value::Object(self.method.clone())).map_err(|error| Error::Run {
            place: format!("[method.{name}]"),
            problem: explain(&error.to_string()),
        })
    }

    /// Puts the method in with all its defaults, for the resolved run file.
    ///
    /// # Errors
    /// [`Error::Run`] if `method` does not serialise to `{"NAME": {...}}`.
    pub fn set_method<T: Serialize>(&mut self, method: &T) -> Result<(), Error> {
        let wrong = |problem: String| Error::Run { place: "[method]".into(), problem };
        let Value::Object(mut map) =
            serde_json::to_value(method).map_err(|error| wrong(error.to_string()))?
        else {
            return Err(wrong("a method is written as {\"NAME\": {...}}".into()));
        };
        // TOML has no null: a field without a value is left out, and so is an empty table.
        map.values_mut().filter_map(Value::as_object_mut).for_each(|fields| {
            fields.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
        });
        self.method = map;
        Ok(())
    }

    /// The run as a run file that loads to an equal run.
    ///
    /// # Errors
    /// [`Error::Run`] if a value has no form in TOML.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self)
            .map_err(|error| Error::Run { place: "run".into(), problem: one_line(&error.to_string()) })
    }
}

impl OptimizerConfig {
    fn validate(&self) -> Result<(), Error> {
        let number = |field: &str, value: f64, range: RangeInclusive<f64>, expected: &str| {
            check(range.contains(&value), field, &value, expected)
        };
        let above_zero = f64::MIN_POSITIVE..=f64::MAX;
        let below_one = 0.0..=1.0 - f64::EPSILON;
        let [beta1, beta2] = self.betas;
        if let Some(rate) = self.learning_rate {
            number("optimizer.learning_rate", rate, above_zero.clone(), "a finite number above 0")?;
        }
        if let Some(rate) = self.head_learning_rate {
            number("optimizer.head_learning_rate", rate, 0.0..=f64::MAX, "a finite number, 0 or more")?;
        }
        number("optimizer.weight_decay", self.weight_decay, 0.0..=f64::MAX, "a finite number, 0 or more")?;
        number("optimizer.betas[0]", beta1, below_one.clone(), "a number from 0 to less than 1")?;
        number("optimizer.betas[1]", beta2, below_one, "a number from 0 to less than 1")?;
        number("optimizer.epsilon", self.epsilon, above_zero, "a finite number above 0")?;
        number("optimizer.warmup_ratio", self.warmup_ratio, 0.0..=1.0, "a share of the steps, from 0 to 1")?;
        number(
            "optimizer.clip_norm",
            self.clip_norm,
            f64::MIN_POSITIVE..=f64::INFINITY,
            "a number above 0, or inf",
        )
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn check(holds: bool, field: &str, found: &dyn Display, expected: &str) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Config { field: field.into(), found: found.to_string(), expected: expected.into() })
}
