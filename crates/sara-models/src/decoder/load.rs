//! A decoder out of the files of a checkpoint.

use burn::tensor::backend::Backend;
use safetensors::Dtype;
use sara_ops::LayerOps;

use super::config::DecoderConfig;
use super::{Decoder, Layer, Norm};
use crate::architecture::{Architecture, Family};
use crate::checkpoint::loader::Loader;
use crate::checkpoint::{Checkpoint, WeightType};
use crate::error::Error;

/// A model.
#[derive(Debug)]
pub struct LoadedDecoder<B: Backend> {
    /// The model, frozen.
    pub model: Decoder<B>,
    /// What was left out, one line each.
    pub notes: Vec<String>,
}

/// A checkpoint of LLaMA, Mistral or Qwen.
pub type DecoderCheckpoint = Checkpoint<DecoderConfig>;

/// What tells a token from a hidden state, where that is not the table of the embeddings.
const OUTPUT: &str = "lm_head.weight";

impl DecoderCheckpoint {
    /// Loads the model.
    ///
    /// # Errors
    /// [`Error::Config`] for a type that this device or these layers cannot have, [`Error::Mismatch`] that lists everything
    /// missing, unknown, misshapen or not finite.
    pub fn load<B: LayerOps>(
        &self,
        weight_type: WeightType,
        device: &B::Device,
    ) -> Result<LoadedDecoder<B>, Error> {
        let dtype = self.dtype("model.embed_tokens.weight");
        let are_narrow = dtype.is_some_and(|dtype| dtype != Dtype::F32 && dtype != Dtype::F64);
        let wider = weight_type.check::<B>(&self.config.linears(), are_narrow)?;
        let held = if B::NARROW_WEIGHTS || weight_type.is_packed() { weight_type } else { WeightType::F32 };
        let mut loader = self.loader(device).with_weights(held);
        let model = self.config.load(&mut loader);
        let left_out = loader.finish(
            // A copy of the embeddings.
            |name| self.leaves_out(name) || self.config.tied && self.name_in_model(name) == OUTPUT,
            |name| self.name_inside(name).is_some() || self.name_in_model(name) == OUTPUT,
        )?;
        Ok(LoadedDecoder { model, notes: wider.into_iter().chain(left_out).collect() })
    }
}

/// The frozen decoder.
pub(super) fn decoder<B: LayerOps>(config: &DecoderConfig, loader: &mut Loader<'_, B>) -> Decoder<B> {
    let table = [config.vocab_size, config.hidden];
    let embeddings = loader.table("model.embed_tokens.weight", table);
    let linears = config.linears();
    let block = |(layer, linears): (usize, &[sara_core::Target])| {
        let path = format!("model.layers.{layer}");
        let mut linear = |place: usize| {
            let target = &linears[place];
            if config.has_bias(target.site.role) {
                loader.linear(&target.name, target.d_in, target.d_out)
            } else {
                loader.linear_without_bias(&target.name, target.d_in, target.d_out)
            }
        };
        let [query, key, value, output, gate, up, down] = [0, 1, 2, 3, 4, 5, 6].map(&mut linear);
        let mut norm = |name: &str, width: usize| norm(config, loader, &format!("{path}.{name}"), width);
        Layer {
            attention_norm: norm("input_layernorm", config.hidden),
            query,
            key,
            value,
            output,
            head_norms: config
                .head_norms
                .then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(|name| norm(name, config.head_dim))),
            mlp_norm: norm("post_attention_layernorm", config.hidden),
            gate,
            up,
            down,
        }
    };
    let layers = linears.chunks(linears.len() / config.n_layers).enumerate().map(block).collect();
    Decoder {
        embeddings,
        layers,
        norm: norm(config, loader, "model.norm", config.hidden),
        output: (!config.tied).then(|| loader.table(OUTPUT, table)),
        config: config.clone(),
    }
}

fn norm<B: LayerOps>(
    config: &DecoderConfig,
    loader: &mut Loader<'_, B>,
    path: &str,
    width: usize,
) -> Norm<B> {
    Norm { gamma: loader.tensor(&format!("{path}.weight"), [width]), epsilon: config.rms_norm_eps }
}
