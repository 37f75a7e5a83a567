//! An encoder and its head out of the files of a checkpoint.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use sara_core::Seed;
use sara_ops::LayerOps;

use super::config::{Dropouts, EncoderConfig, EncoderFamily};
use super::head::{self, HEAD, Head};
use super::{Embeddings, Encoder, Layer, Norm};
use crate::architecture::{Architecture, Family};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::loader::Loader;
use crate::error::Error;

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

/// A checkpoint of RoBERTa or BERT.
pub type EncoderCheckpoint = Checkpoint<EncoderConfig>;

impl EncoderCheckpoint {
    /// True if the checkpoint has a classification head.
    pub fn has_head(&self) -> bool {
        self.config.own_head
    }

    /// Loads the backbone, and the checkpoint's head; a checkpoint without one gets a new one.
    ///
    /// What is new is a function of the seed.
    ///
    /// # Errors
    /// [`Error::Mismatch`] that lists everything missing, unknown, misshapen or not finite; so is a head for another
    /// number of labels, which [`Self::load_with_new_head`] replaces.
    pub fn load<B: LayerOps>(
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
    pub fn load_with_new_head<B: LayerOps>(
        &self,
        n_labels: usize,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Loaded<B>, Error> {
        self.load_parts(n_labels, false, seed, device)
    }

    fn load_parts<B: LayerOps>(
        &self,
        n_labels: usize,
        own_head: bool,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Loaded<B>, Error> {
        if n_labels == 0 {
            let (field, found, expected) = ("labels".to_owned(), "0".to_owned(), "1 or more".to_owned());
            return Err(Error::Config { field, found, expected });
        }
        let mut loader = self.loader(device);
        let model = self.config.load(&mut loader);
        let (head, mut notes) = head(&self.config, &mut loader, n_labels, own_head, seed);
        let is_head = |name: &str| self.name_in_model(name).starts_with(HEAD);
        let is_block = |name: &str| {
            let inside = self.name_inside(name).unwrap_or_default();
            inside.starts_with("encoder.") || inside.starts_with("embeddings.")
        };
        // A head that is replaced is the model's own, and no news.
        let replaced = !own_head && self.config.own_head;
        let left_out = loader.finish(
            |name| self.leaves_out(name) || replaced && is_head(name),
            |name| is_block(name) || own_head && is_head(name),
        )?;
        notes.extend(left_out);
        Ok(Loaded { model, head, notes })
    }
}

/// The frozen encoder.
pub(super) fn encoder<B: LayerOps>(config: &EncoderConfig, loader: &mut Loader<'_, B>) -> Encoder<B> {
    let (family, hidden) = (config.family.name(), config.hidden);
    let mut table = |name: &str, rows: usize| {
        loader.tensor(&format!("{family}.embeddings.{name}.weight"), [rows, hidden])
    };
    let embeddings = Embeddings {
        word: table("word_embeddings", config.vocab_size),
        position: table("position_embeddings", config.max_positions),
        token_type: table("token_type_embeddings", config.type_vocab),
        norm: norm(config, loader, &format!("{family}.embeddings.LayerNorm")),
    };
    let linears = config.linears();
    let block = |(layer, linears): (usize, &[sara_core::Target])| {
        let path = format!("{family}.encoder.layer.{layer}");
        let mut linear = |role: usize| {
            let target = &linears[role];
            loader.linear(&target.name, target.d_in, target.d_out)
        };
        Layer {
            query: linear(0),
            key: linear(1),
            value: linear(2),
            output: linear(3),
            up: linear(4),
            down: linear(5),
            output_norm: norm(config, loader, &format!("{path}.attention.output.LayerNorm")),
            down_norm: norm(config, loader, &format!("{path}.output.LayerNorm")),
            n_heads: config.n_heads,
        }
    };
    let layers = linears.chunks(linears.len() / config.n_layers).enumerate().map(block).collect();
    Encoder { embeddings, layers, config: config.clone(), dropouts: Dropouts::default() }
}

fn norm<B: LayerOps>(config: &EncoderConfig, loader: &mut Loader<'_, B>, path: &str) -> Norm<B> {
    let shape = [config.hidden];
    // Files of the first BERT call the two gamma and beta.
    let [gamma, beta] = if loader.has(path) { ["weight", "bias"] } else { ["gamma", "beta"] };
    Norm {
        gamma: loader.tensor(&format!("{path}.{gamma}"), shape),
        beta: loader.tensor(&format!("{path}.{beta}"), shape),
        epsilon: config.layer_norm_eps,
    }
}

/// The head, and a line for each part of it that is new.
fn head<B: LayerOps>(
    config: &EncoderConfig,
    loader: &mut Loader<'_, B>,
    n_labels: usize,
    own_head: bool,
    seed: Seed,
) -> (Head<B>, Vec<String>) {
    let (family, hidden) = (config.family, config.hidden);
    let [dense_path, out_path] = head::paths(family);
    let mut notes = Vec::new();
    let own_dense = match family {
        EncoderFamily::Roberta => own_head,
        EncoderFamily::Bert => loader.has(dense_path),
    };
    let mut layer = |path: &str, d_out: usize, own: bool| {
        if own {
            return loader.linear(path, hidden, d_out);
        }
        notes.push(format!("{path} is new, drawn from seed {}, and trained", seed.0));
        let weight = seed.normal(
            &format!("{path}.weight"),
            [hidden, d_out],
            config.initializer_range,
            loader.device(),
        );
        let bias = Param::from_tensor(Tensor::zeros([d_out], (loader.device(), DType::F32)));
        Linear { weight, bias: Some(bias) }
    };
    let mut dense = layer(dense_path, hidden, own_dense);
    let out_proj = trained(layer(out_path, n_labels, own_head));
    let trains_dense = family == EncoderFamily::Roberta || !own_dense;
    if trains_dense {
        dense = trained(dense);
    }
    (Head { dense, out_proj, family, trains_dense, dropout: 0.0 }, notes)
}

/// The same layer, trained.
pub(super) fn trained<B: Backend>(linear: Linear<B>) -> Linear<B> {
    let Linear { weight, bias } = linear;
    Linear { weight: weight.set_require_grad(true), bias: bias.map(|bias| bias.set_require_grad(true)) }
}
