//! The `config.json` of RoBERTa and BERT checkpoints: everything about a model but its weights.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::backend::Backend;
use sara_core::parameters::Tensors;
use sara_core::{ModelShape, Role, Site, Target, Targets};
use sara_ops::LayerOps;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::head::{Head, paths};
use super::{Encoder, EncoderCheckpoint};
use crate::architecture::{Architecture, Family, PeftHead};
use crate::checkpoint::loader::Loader;
use crate::data::Task;
use crate::error::Error;
use crate::python_json;

/// Buffers and other heads that checkpoints bring along, and that a classifier has no use for.
const LEFT_OUT: [&str; 3] = ["lm_head.", "cls.predictions.", "cls.seq_relationship."];
/// The same, inside the encoder.
const LEFT_OUT_INSIDE: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

/// More values than any encoder has, and than can be asked for by mistake.
const MOST_VALUES: f64 = 1e11;

/// Which of the two encoders a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderFamily {
    /// Positions count from the padding id on and skip padding; the head has two layers.
    Roberta,
    /// Positions count from 0; a pooler stands before the head.
    Bert,
}

/// Probabilities of dropout, which acts in training alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Dropouts {
    /// On the embeddings and on what each half of a block adds.
    pub hidden: f64,
    /// On the attention's probabilities.
    pub attention: f64,
    /// In the classification head.
    pub classifier: f64,
}

/// What `config.json` says of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// RoBERTa or BERT.
    pub family: EncoderFamily,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Number of attention heads.
    pub n_heads: usize,
    /// Width in the middle of the feed-forward network.
    pub intermediate: usize,
    /// Number of position embeddings; see [`Self::usable_length`].
    pub max_positions: usize,
    /// Number of token types.
    pub type_vocab: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
    /// The id of padding.
    pub pad_id: usize,
    /// As the checkpoint was trained. A loaded model has none until it is asked to.
    pub dropouts: Dropouts,
    /// Names of the classes in the order of the logits; `None` if the checkpoint has no classification head.
    ///
    /// One name alone is a regression, unless `task` says that it applies or not.
    pub labels: Option<Vec<String>>,
    /// What the head was trained for, as far as the file says; one of its labels by default.
    pub task: Task,
    /// Whether the checkpoint's files have a classification head.
    pub(crate) own_head: bool,
    /// What the file says of the head.
    head: HeadSaid,
}

/// What `config.json` says of a classification head, before anyone looks at the weights.
#[derive(Debug, Clone, PartialEq, Default)]
struct HeadSaid {
    /// Whether an architecture with one is named; `None` where no architecture is.
    is_there: Option<bool>,
    /// Names of classes by index, gaps left out.
    names: BTreeMap<usize, String>,
    /// How many labels there are said to be, if anything is said.
    n: Option<usize>,
}

impl HeadSaid {
    /// Whether a head of so many rows may be meant. Names with gaps are fewer than the labels.
    fn fits(&self, rows: usize) -> bool {
        let last = self.names.keys().next_back().map_or(0, |last| last + 1);
        self.n.is_none_or(|n| rows == n || rows == last)
    }

    /// So many names; what has none is numbered.
    fn labels(&self, n: usize) -> Vec<String> {
        (0..n).map(|i| self.names.get(&i).cloned().unwrap_or_else(|| format!("LABEL_{i}"))).collect()
    }
}

impl EncoderFamily {
    /// Every family, in the order in which messages name them.
    const ALL: [Self; 2] = [Self::Roberta, Self::Bert];

    /// `model_type` in the file, and the first component of every path in the model.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roberta => "roberta",
            Self::Bert => "bert",
        }
    }

    /// The class of transformers that adds a classification head.
    pub const fn classifier_architecture(self) -> &'static str {
        match self {
            Self::Roberta => "RobertaForSequenceClassification",
            Self::Bert => "BertForSequenceClassification",
        }
    }
}

impl EncoderConfig {
    /// Refuses what would panic or divide by zero later.
    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.n_layers),
            ("num_attention_heads", self.n_heads),
            ("intermediate_size", self.intermediate),
            ("type_vocab_size", self.type_vocab),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} is 0; it must be 1 or more"));
        }
        let tables = [self.vocab_size, self.max_positions, self.type_vocab].map(|rows| rows as f64);
        let block = 4.0 * (self.hidden as f64).powi(2) + 2.0 * self.hidden as f64 * self.intermediate as f64;
        let values = tables.iter().sum::<f64>() * self.hidden as f64 + self.n_layers as f64 * block;
        if values > MOST_VALUES {
            return Err(format!("its sizes make a model of {values:.0e} values; one of them is wrong"));
        }
        if !self.hidden.is_multiple_of(self.n_heads) {
            return Err(format!(
                "{} attention heads do not divide hidden_size {}",
                self.n_heads, self.hidden
            ));
        }
        if self.pad_id >= self.vocab_size {
            return Err(format!("pad_token_id {} is not below vocab_size {}", self.pad_id, self.vocab_size));
        }
        if self.usable_length() == 0 {
            return Err(format!("max_position_embeddings {} leaves no room for a token", self.max_positions));
        }
        if !(self.layer_norm_eps >= 0.0 && self.layer_norm_eps.is_finite()) {
            return Err(format!("layer_norm_eps {} is not a small positive number", self.layer_norm_eps));
        }
        let Dropouts { hidden, attention, classifier } = self.dropouts;
        match [hidden, attention, classifier].iter().find(|p| !(0.0..1.0).contains(*p)) {
            Some(p) => Err(format!("a dropout probability of {p} is not in 0..1")),
            None => Ok(()),
        }
    }
}

impl Architecture for EncoderConfig {
    fn name(&self) -> &'static str {
        self.family.name()
    }

    fn root(&self) -> &'static str {
        self.family.name()
    }

    fn embeddings(&self) -> &'static str {
        "embeddings.word_embeddings.weight"
    }

    fn shape(&self) -> ModelShape {
        ModelShape {
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            head_dim: self.hidden / self.n_heads,
        }
    }

    fn linears(&self) -> Vec<Target> {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let block = [
            (Role::Query, "attention.self.query", hidden, hidden),
            (Role::Key, "attention.self.key", hidden, hidden),
            (Role::Value, "attention.self.value", hidden, hidden),
            (Role::Output, "attention.output.dense", hidden, hidden),
            (Role::Up, "intermediate.dense", hidden, wide),
            (Role::Down, "output.dense", wide, hidden),
        ];
        let target = |layer: usize, (role, name, d_in, d_out): (Role, &str, usize, usize)| Target {
            site: Site { layer, role },
            name: format!("{}.encoder.layer.{layer}.{name}", self.family.name()),
            d_in,
            d_out,
        };
        (0..self.n_layers).flat_map(|layer| block.map(|entry| target(layer, entry))).collect()
    }

    fn parts(&self) -> &'static [&'static str] {
        &["embeddings", "encoder", "pooler"]
    }

    fn usable_length(&self) -> usize {
        match self.family {
            EncoderFamily::Roberta => self.max_positions.saturating_sub(self.pad_id + 1),
            EncoderFamily::Bert => self.max_positions,
        }
    }

    fn parameter_count(&self) -> usize {
        let dense = |d_in: usize, d_out: usize| (d_in + 1) * d_out;
        let norm = 2 * self.hidden;
        let embeddings = (self.vocab_size + self.max_positions + self.type_vocab) * self.hidden + norm;
        let block: usize = self.linears().iter().map(|linear| dense(linear.d_in, linear.d_out)).sum();
        let pooler = match self.family {
            EncoderFamily::Roberta => 0,
            EncoderFamily::Bert => dense(self.hidden, self.hidden),
        };
        embeddings + block + 2 * norm * self.n_layers + pooler
    }

    fn n_labels(&self) -> Option<usize> {
        self.labels.as_ref().map(Vec::len)
    }

    fn head_count(&self, n_labels: usize) -> usize {
        let dense = match self.family {
            EncoderFamily::Roberta => (self.hidden + 1) * self.hidden,
            EncoderFamily::Bert => 0,
        };
        dense + (self.hidden + 1) * n_labels
    }

    /// RoBERTa has no use for a pooler, BERT's stands before its head.
    fn leaves_out(&self, name: &str, inside: Option<&str>) -> bool {
        let pooler =
            self.family == EncoderFamily::Roberta && inside.is_some_and(|name| name.starts_with("pooler."));
        pooler
            || LEFT_OUT.iter().any(|start| name.starts_with(start))
            || inside.is_some_and(|name| LEFT_OUT_INSIDE.contains(&name))
    }

    /// The files decide whether there is a head and for how many labels, wherever `config.json` leaves that open.
    fn fit(&mut self, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<(), String> {
        let [dense, out] = paths(self.family).map(|path| shape_of(&format!("{path}.weight")));
        let has_dense = dense.is_some() || self.family == EncoderFamily::Bert;
        let has_part = out.is_some() || dense.is_some() && self.family == EncoderFamily::Roberta;
        let rows = out.and_then(|shape| match shape[..] {
            [rows, width] if width == self.hidden && has_dense => Some(rows),
            _ => None,
        });
        // What is called so in another task's model, a classifier of tokens, is no head of this kind.
        self.own_head = self.head.is_there.map_or(rows.is_some(), |is_there| is_there && has_part);
        match (rows, self.head.is_there) {
            (_, Some(false)) | (None, None) => self.labels = None,
            (Some(rows), _) => {
                if let Some(n) = self.head.n.filter(|_| !self.head.fits(rows)) {
                    return Err(format!(
                        "id2label or num_labels say {n} labels, and the head has {rows}; correct the one or the other"
                    ));
                }
                self.labels = Some(self.head.labels(rows));
            }
            (None, Some(true)) => {}
        }
        Ok(())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let head = self.labels.as_ref().map_or_else(|| "none".to_owned(), |labels| labels.join(", "));
        vec![("width", self.hidden.to_string()), ("vocabulary", self.vocab_size.to_string()), ("head", head)]
    }

    fn default_targets(&self) -> Targets {
        Targets::Named(vec!["query".to_owned(), "value".to_owned()])
    }
}

impl Family for EncoderConfig {
    type Model<B: Backend> = Encoder<B>;
    type Head<B: Backend> = Head<B>;

    const TASK_TYPES: &'static [&'static str] = &["SEQ_CLS", "FEATURE_EXTRACTION"];

    /// With the defaults that transformers has for what the file leaves out, or has as `null`.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut object, _): (Map<String, Value>, _) =
            python_json::parse(text).map_err(|error| error.to_string())?;
        object.retain(|_, value| !value.is_null());
        let family = family(&object)?;
        let is_there = has_classifier(object.get("architectures"));
        let file: File = serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())?;
        let head = HeadSaid { is_there, names: file.names()?, n: file.said_labels().filter(|&n| n > 0) };
        let labels = match is_there {
            Some(true) => Some(head.labels(file.n_labels()?)),
            _ => None,
        };
        let config = Self {
            family,
            // The library derives one configuration class from the other: but for these two, defaults are BERT's.
            vocab_size: file.vocab_size.unwrap_or(match family {
                EncoderFamily::Roberta => 50_265,
                EncoderFamily::Bert => 30_522,
            }),
            pad_id: file.pad_token_id.unwrap_or(match family {
                EncoderFamily::Roberta => 1,
                EncoderFamily::Bert => 0,
            }),
            hidden: file.hidden_size,
            n_layers: file.num_hidden_layers,
            n_heads: file.num_attention_heads,
            intermediate: file.intermediate_size,
            max_positions: file.max_position_embeddings,
            type_vocab: file.type_vocab_size,
            layer_norm_eps: file.layer_norm_eps,
            initializer_range: file.initializer_range,
            dropouts: Dropouts {
                hidden: file.hidden_dropout_prob,
                attention: file.attention_probs_dropout_prob,
                classifier: file.classifier_dropout.unwrap_or(file.hidden_dropout_prob),
            },
            labels,
            task: if is_there == Some(false) { Task::default() } else { file.task()? },
            own_head: is_there == Some(true),
            head,
        };
        file.check()?;
        config.check()?;
        Ok(config)
    }

    fn load<B: LayerOps>(&self, loader: &mut Loader<'_, B>) -> Encoder<B> {
        super::load::encoder(self, loader)
    }

    fn head_of_peft(
        checkpoint: &EncoderCheckpoint,
        files: PeftHead,
        adapter: &Path,
    ) -> Result<Tensors, Error> {
        checkpoint.check_embeddings(&files.embeddings, adapter)?;
        checkpoint.whole_head(files.tensors, &files.changes, adapter)
    }
}

/// Whose file it is, asked first: another model's may well lack the rest.
fn family(object: &Map<String, Value>) -> Result<EncoderFamily, String> {
    let model_type = object.get("model_type").and_then(Value::as_str);
    EncoderFamily::ALL.into_iter().find(|family| model_type == Some(family.name())).ok_or_else(|| {
        format!("model_type is {}; supported are roberta and bert", model_type.unwrap_or("missing"))
    })
}

/// Whether one of the architectures, subclasses of the library's own too, has a head that classifies whole texts.
fn has_classifier(architectures: Option<&Value>) -> Option<bool> {
    let names: Vec<&str> = match architectures? {
        Value::String(name) => vec![name],
        names => names.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    };
    (!names.is_empty()).then(|| names.iter().any(|name| name.ends_with("ForSequenceClassification")))
}

/// The file as it is. Defaults are those of transformers' configuration classes, not those of released checkpoints.
#[derive(Deserialize)]
#[serde(default)]
struct File {
    vocab_size: Option<usize>,
    pad_token_id: Option<usize>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    initializer_range: f64,
    hidden_act: String,
    position_embedding_type: Option<String>,
    is_decoder: bool,
    add_cross_attention: bool,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    num_labels: Option<usize>,
    id2label: Option<Map<String, Value>>,
    problem_type: Option<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            vocab_size: None,
            pad_token_id: None,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            hidden_act: "gelu".to_owned(),
            position_embedding_type: None,
            is_decoder: false,
            add_cross_attention: false,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            num_labels: None,
            id2label: None,
            problem_type: None,
        }
    }
}

impl File {
    /// Refuses options that change the result and are not computed here.
    fn check(&self) -> Result<(), String> {
        if self.hidden_act != "gelu" {
            return Err(format!("hidden_act {} is not supported; only gelu is", self.hidden_act));
        }
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(format!("position_embedding_type {kind} is not supported; only absolute is"));
        }
        if self.is_decoder || self.add_cross_attention {
            return Err("is_decoder and add_cross_attention are not supported; only encoders are".to_owned());
        }
        Ok(())
    }

    /// Names of labels by index. A number is a name as it is written; of `null` there is none.
    fn names(&self) -> Result<BTreeMap<usize, String>, String> {
        let named = self.id2label.iter().flatten();
        // transformers leaves the names out where a number of labels contradicts them.
        let fits =
            self.num_labels.is_none_or(|n| self.id2label.as_ref().is_some_and(|names| names.len() == n));
        let entry = |(key, value): (&String, &Value)| {
            let index = key.trim().parse::<usize>().map_err(|_| {
                format!("the key `{key}` of id2label is no index; write \"0\", \"1\" and so on")
            })?;
            match value {
                Value::Null => Ok(None),
                Value::String(name) => Ok(Some((index, name.clone()))),
                Value::Number(_) | Value::Bool(_) => Ok(Some((index, value.to_string()))),
                other => Err(format!("id2label names {other}; write a string")),
            }
        };
        if fits { named.map(entry).filter_map(Result::transpose).collect() } else { Ok(BTreeMap::new()) }
    }

    /// How many labels the file says that there are.
    fn said_labels(&self) -> Option<usize> {
        self.num_labels.or(self.id2label.as_ref().map(Map::len))
    }

    /// How many labels there are. Their number is never written where it follows from the names, and two need no names.
    fn n_labels(&self) -> Result<usize, String> {
        match self.said_labels().unwrap_or(2) {
            0 => Err("the model has a head for no labels; id2label needs one or more".to_owned()),
            1 if self.problem_type.as_deref() == Some("single_label_classification") => {
                Err("problem_type single_label_classification needs two labels or more".to_owned())
            }
            n => Ok(n),
        }
    }

    /// What the head was trained for, where the number of labels does not tell.
    fn task(&self) -> Result<Task, String> {
        match self.problem_type.as_deref() {
            None | Some("single_label_classification") => Ok(Task::Classify),
            Some("multi_label_classification") => Ok(Task::MultiLabel),
            Some("regression") => Ok(Task::Regress),
            Some(other) => Err(format!(
                "problem_type {other} is not known; write single_label_classification, multi_label_classification or \
                 regression"
            )),
        }
    }
}
