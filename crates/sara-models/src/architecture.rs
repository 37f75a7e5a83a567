//! What a family of models is to everything around it: a description from `config.json`, and weights that become a
//! model.
//!
//! A family is a folder whose configuration implements [`Family`]; [`describe`] has a line for each.

use std::fmt::Debug;
use std::path::Path;
use std::{fs, io};

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use sara_core::parameters::Tensors;
use sara_core::{Backbone, ModelShape, Target, Targets};
use sara_ops::LayerOps;
use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::loader::Loader;
use crate::decoder::config::DecoderConfig;
use crate::encoder::config::EncoderConfig;
use crate::error::Error;
use crate::python_json;
use crate::train::TaskHead;

/// The name of the file in a checkpoint's directory.
pub const CONFIG: &str = "config.json";

/// A model as its `config.json` describes it.
pub trait Architecture: Debug + Send + Sync {
    /// `model_type` in the file.
    fn name(&self) -> &'static str;

    /// The first component of every path of the backbone in a model with a head.
    fn root(&self) -> &'static str;

    /// The table of the tokens' vectors, inside the backbone: a tensor that every model has, and once.
    fn embeddings(&self) -> &'static str;

    /// What methods that share parameters across layers or heads need to know.
    fn shape(&self) -> ModelShape;

    /// Every linear layer of the blocks, under the name that transformers gives it in a model with a head.
    fn linears(&self) -> Vec<Target>;

    /// The first components of the names of the backbone's tensors, inside it.
    fn parts(&self) -> &'static [&'static str];

    /// The most tokens one sequence may have, special tokens included.
    fn usable_length(&self) -> usize;

    /// Number of parameters of the backbone.
    fn parameter_count(&self) -> usize;

    /// Number of parameters of a trained head for so many labels; none where the task has no head.
    fn head_count(&self, n_labels: usize) -> usize {
        let _ = n_labels;
        0
    }

    /// For how many labels the checkpoint has a head of its own, if it has one.
    fn n_labels(&self) -> Option<usize> {
        None
    }

    /// Whether a tensor of a checkpoint is left out without a word: `name` in the file, `inside` without the prefix,
    /// where it has that.
    fn leaves_out(&self, name: &str, inside: Option<&str>) -> bool;

    /// Settles what `config.json` leaves open and the files decide; `shape_of` gives the shape of a tensor by its name in
    /// a model with a head.
    ///
    /// # Errors
    /// Where the two contradict each other.
    fn fit(&mut self, _shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<(), String> {
        Ok(())
    }

    /// What a reader wants to know, in order.
    fn facts(&self) -> Vec<(&'static str, String)>;

    /// Names of the linear layers that are adapted where nothing is said: queries and values, as in the LoRA paper.
    fn default_targets(&self) -> Targets;

    /// The length at which texts are cut: as asked, else 128 or the usable length, whichever is smaller.
    ///
    /// # Errors
    /// [`Error::Config`] where more is asked for than the model takes.
    fn max_tokens(&self, asked: Option<usize>) -> Result<usize, Error> {
        const DEFAULT: usize = 128;
        let usable = self.usable_length();
        match asked {
            Some(asked) if asked > usable => Err(Error::Config {
                field: "max_tokens".to_owned(),
                found: asked.to_string(),
                expected: format!("at most {usable}, the positions of this model"),
            }),
            Some(asked) => Ok(asked),
            None => Ok(DEFAULT.min(usable)),
        }
    }
}

/// A family of models that can be loaded.
pub trait Family: Architecture + Clone + Sized {
    /// The frozen model.
    type Model<B: Backend>: Backbone<B>;

    /// What is trained beside the adapter.
    type Head<B: Backend>: TaskHead<B>;

    /// PEFT's names of the tasks whose adapters are read; the first is written.
    const TASK_TYPES: &'static [&'static str];

    /// Reads the text of `config.json`.
    ///
    /// # Errors
    /// What is wrong with it, or that it is of another family.
    fn parse(text: &str) -> Result<Self, String>;

    /// The model, with what the loader finds under the names of [`Architecture::linears`] and of its other parts.
    fn load<B: LayerOps>(&self, loader: &mut Loader<'_, B>) -> Self::Model<B>;

    /// The trained head out of PEFT's files, by the names of [`TaskHead::tensors`].
    ///
    /// # Errors
    /// Where they hold something that is not supported, or does not fit the checkpoint.
    fn head_of_peft(checkpoint: &Checkpoint<Self>, files: PeftHead, adapter: &Path)
    -> Result<Tensors, Error>;

    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] where the file cannot be read, is of another family, or asks for something
    /// that is not computed here.
    fn read(dir: &Path) -> Result<Self, Error> {
        Self::parse(&text(dir)?).map_err(|problem| Error::format(&dir.join(CONFIG), problem))
    }
}

/// What PEFT's files hold beside the adapter.
#[derive(Debug, Default)]
pub struct PeftHead {
    /// Tensors that were trained in full.
    pub tensors: Tensors,
    /// Changes of weights that are adapted outside the blocks.
    pub changes: Vec<(String, TensorData)>,
    /// Embeddings that were saved along.
    pub embeddings: Vec<(String, TensorData)>,
}

/// The description of the model in `dir`, of whichever family it is.
///
/// # Errors
/// As [`Family::read`].
pub fn describe(dir: &Path) -> Result<Box<dyn Architecture>, Error> {
    match Kind::of(dir)? {
        Kind::Encoder => Ok(Box::new(EncoderConfig::read(dir)?)),
        Kind::Decoder => Ok(Box::new(DecoderConfig::read(dir)?)),
    }
}

/// What a model is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads a text as a whole: RoBERTa, BERT.
    Encoder,
    /// Predicts the next token: LLaMA, Mistral, Qwen.
    Decoder,
}

impl Kind {
    /// That of the model in `dir`, by the `model_type` of its `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] where the file cannot be read, or names none that is known.
    pub fn of(dir: &Path) -> Result<Self, Error> {
        let problem = |problem: String| Error::format(&dir.join(CONFIG), problem);
        let (config, _): (Map<String, Value>, _) =
            python_json::parse(&text(dir)?).map_err(|error| problem(error.to_string()))?;
        match config.get("model_type").and_then(Value::as_str) {
            Some("roberta" | "bert") => Ok(Self::Encoder),
            Some("llama" | "mistral" | "qwen2" | "qwen3") => Ok(Self::Decoder),
            other => Err(problem(format!(
                "model_type is {}; supported are roberta, bert, llama, mistral, qwen2 and qwen3",
                other.unwrap_or("missing")
            ))),
        }
    }
}

/// The text of `config.json` in `dir`.
fn text(dir: &Path) -> Result<String, Error> {
    let path = dir.join(CONFIG);
    fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            let problem = "does not exist; the model must be the directory of a Hugging Face checkpoint";
            Error::format(&path, problem)
        }
        _ => Error::io(&path)(source),
    })
}

impl Architecture for Box<dyn Architecture> {
    fn name(&self) -> &'static str {
        self.as_ref().name()
    }

    fn root(&self) -> &'static str {
        self.as_ref().root()
    }

    fn embeddings(&self) -> &'static str {
        self.as_ref().embeddings()
    }

    fn shape(&self) -> ModelShape {
        self.as_ref().shape()
    }

    fn linears(&self) -> Vec<Target> {
        self.as_ref().linears()
    }

    fn parts(&self) -> &'static [&'static str] {
        self.as_ref().parts()
    }

    fn usable_length(&self) -> usize {
        self.as_ref().usable_length()
    }

    fn parameter_count(&self) -> usize {
        self.as_ref().parameter_count()
    }

    fn leaves_out(&self, name: &str, inside: Option<&str>) -> bool {
        self.as_ref().leaves_out(name, inside)
    }

    fn fit(&mut self, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<(), String> {
        self.as_mut().fit(shape_of)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.as_ref().facts()
    }

    fn head_count(&self, n_labels: usize) -> usize {
        self.as_ref().head_count(n_labels)
    }

    fn n_labels(&self) -> Option<usize> {
        self.as_ref().n_labels()
    }

    fn default_targets(&self) -> Targets {
        self.as_ref().default_targets()
    }
}
