//! A Hugging Face checkpoint of RoBERTa or BERT: opened, looked into, loaded, and written again with other weights.

use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use sara_core::{Seed, Target, WeightSource};

use crate::checkpoint::weights::{Weights, to_f32_transposed};
use crate::encoder::Encoder;
use crate::encoder::config::EncoderConfig;
use crate::encoder::head::Head;
use crate::error::Error;

mod save;
pub mod weights;

/// The directory of a checkpoint, with its weights mapped and not yet read.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub config: EncoderConfig,
    pub(crate) weights: Weights,
    /// What stands before the encoder's names: `roberta.`, `bert.`, or nothing in the checkpoint of a bare encoder.
    pub(crate) prefix: String,
}

/// A model with its head, in f32.
#[derive(Debug)]
pub struct Loaded<B: Backend> {
    /// The backbone, frozen.
    pub model: Encoder<B>,
    /// The head, trained.
    pub head: Head<B>,
    /// What was not in the checkpoint and had to be drawn, one line each.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Opens a directory with `config.json` and safetensors files.
    ///
    /// # Errors
    /// [`Error::Core`] where a file is missing, damaged, or of another architecture.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config = EncoderConfig::read(dir)?;
        let weights = Weights::open(dir)?;
        let prefix = format!("{}.", config.family.name());
        let prefixed = weights.names().any(|name| name.starts_with(&prefix));
        let prefix = if prefixed { prefix } else { String::new() };
        Ok(Self { dir: dir.to_owned(), config, weights, prefix })
    }

    /// The path of a linear layer in this checkpoint's own files, without `.weight`.
    pub fn path_of(&self, target: &Target) -> String {
        self.in_file(&target.name)
    }

    /// The pretrained weights of linear layers, one at a time, for methods whose ranks come from them.
    pub fn weight_source<B: Backend>(&self, device: &B::Device) -> impl WeightSource<B> {
        WeightReader::<B> { checkpoint: self, device: device.clone() }
    }

    /// True if the checkpoint has a classification head.
    pub fn has_head(&self) -> bool {
        self.weights.names().any(|name| name.starts_with(HEAD))
    }

    /// Loads the backbone, and the checkpoint's head; a checkpoint without one gets a new one.
    ///
    /// What is new is a function of the seed.
    ///
    /// # Errors
    /// [`Error::Core`] that lists everything missing, unknown, misshapen or not finite; so is a head for another number
    /// of labels, which [`Self::load_with_new_head`] replaces.
    pub fn load<B: Backend>(
        &self,
        n_labels: usize,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Loaded<B>, Error> {
        self.load_parts(n_labels, self.has_head(), seed, device)
    }

    /// Loads the backbone alone and draws a new head, whatever head the checkpoint has.
    ///
    /// # Errors
    /// As [`Self::load`], except for what concerns the checkpoint's head.
    pub fn load_with_new_head<B: Backend>(
        &self,
        n_labels: usize,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Loaded<B>, Error> {
        self.load_parts(n_labels, false, seed, device)
    }

    /// A name of the model with a head, as this checkpoint's files have it.
    pub(crate) fn in_file(&self, name: &str) -> String {
        match name.strip_prefix(self.config.family.name()).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) => format!("{}{rest}", self.prefix),
            None => name.to_owned(),
        }
    }
}

/// What the names of a head's tensors begin with.
pub(crate) const HEAD: &str = "classifier.";

/// Reads the weights of one checkpoint.
struct WeightReader<'a, B: Backend> {
    checkpoint: &'a Checkpoint,
    device: B::Device,
}

impl<B: Backend> WeightSource<B> for WeightReader<'_, B> {
    fn weight(&mut self, target: &Target) -> sara_core::Result<Tensor<B, 2>> {
        let name = format!("{}.weight", self.checkpoint.path_of(target));
        let (in_file, shape) = ([target.d_out, target.d_in], [target.d_in, target.d_out]);
        let mismatch = |found: &str| sara_core::Error::Mismatch {
            what: self.checkpoint.weights.path().display().to_string(),
            mismatches: vec![format!("{name}: expected {in_file:?}, {found}")],
        };
        let view = self.checkpoint.weights.tensor(&name).ok_or_else(|| mismatch("missing"))?;
        let found = format!("found {:?} {}", view.shape(), view.dtype());
        let values =
            to_f32_transposed(&view).filter(|_| view.shape() == in_file).ok_or_else(|| mismatch(&found))?;
        self.checkpoint.weights.release(&name);
        Ok(Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32)))
    }
}
