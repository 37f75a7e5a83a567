//! The decoder of LLaMA, Mistral and Qwen: an embedding, then blocks of causal attention and a gated feed-forward network,
//! each half behind an RMS norm and added to what came in.
//!
//! The four architectures are one module: a difference is a field of [`DecoderConfig`].

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sara_core::parameters::Tensors;
use sara_core::{Adapter, Backbone, LayerAdapter, Pass, Role, Site};
use sara_ops::linear::linear_of_rows;
use sara_ops::packed::is_packed;
use sara_ops::{LayerOps, add, causal_attention, rms_norm, rotary, swiglu, table_rows, widened};

use crate::architecture::Architecture;
use crate::checkpoint::weights::in_file_order;
use crate::decoder::config::DecoderConfig;

mod cache;
pub mod config;
mod inputs;
mod load;
pub mod rope;

pub use cache::Cache;
pub use inputs::{Inputs, Place, check_tokens};
pub use load::{DecoderCheckpoint, LoadedDecoder};

/// The linear layers of a block, in the order of all lists.
const ROLES: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::Output, Role::Gate, Role::Up, Role::Down];

/// The frozen decoder.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    /// Vectors of the tokens, `[vocab_size, d]`.
    pub(crate) embeddings: Param<Tensor<B, 2>>,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) norm: Norm<B>,
    /// What tells a token from a hidden state, `[vocab_size, d]`; the embeddings where there is none.
    pub(crate) output: Option<Param<Tensor<B, 2>>>,
    #[module(skip)]
    pub(crate) config: DecoderConfig,
}

/// One block.
#[derive(Module, Debug)]
pub(crate) struct Layer<B: Backend> {
    pub(crate) attention_norm: Norm<B>,
    pub(crate) query: Linear<B>,
    pub(crate) key: Linear<B>,
    pub(crate) value: Linear<B>,
    pub(crate) output: Linear<B>,
    /// Norms of each head's queries and keys, where the family has them.
    pub(crate) head_norms: Option<[Norm<B>; 2]>,
    pub(crate) mlp_norm: Norm<B>,
    pub(crate) gate: Linear<B>,
    pub(crate) up: Linear<B>,
    pub(crate) down: Linear<B>,
}

/// An RMS norm.
#[derive(Module, Debug)]
pub(crate) struct Norm<B: Backend> {
    /// `[d]`.
    pub(crate) gamma: Param<Tensor<B, 1>>,
    pub(crate) epsilon: f64,
}

impl<B: Backend> Decoder<B> {
    /// What `config.json` says of this decoder.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> B::Device {
        self.embeddings.val().device()
    }

    /// What tells a token from a hidden state, `[vocab_size, d]`.
    pub fn output_rows(&self) -> Tensor<B, 2> {
        self.output.as_ref().unwrap_or(&self.embeddings).val()
    }
}

impl<B: LayerOps> Decoder<B> {
    /// Every parameter by its name in the checkpoint, in f32 where weights are in 8 or 4 bits; these as `[d_out, d_in]`.
    pub fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        let mut add = |name: String, data: TensorData| _ = tensors.insert(name, data);
        let whole = |param: &Param<Tensor<B, 2>>| match param.val() {
            packed if is_packed(packed.dtype()) => widened(packed).into_data(),
            other => other.into_data(),
        };
        add("model.embed_tokens.weight".to_owned(), whole(&self.embeddings));
        add("model.norm.weight".to_owned(), self.norm.gamma.val().into_data());
        if let Some(output) = &self.output {
            add("lm_head.weight".to_owned(), whole(output));
        }
        for (layer, block) in self.layers.iter().enumerate() {
            let mut norms = vec![
                ("input_layernorm", &block.attention_norm),
                ("post_attention_layernorm", &block.mlp_norm),
            ];
            if let Some([query, key]) = &block.head_norms {
                norms.extend([("self_attn.q_norm", query), ("self_attn.k_norm", key)]);
            }
            for (name, norm) in norms {
                add(format!("model.layers.{layer}.{name}.weight"), norm.gamma.val().into_data());
            }
        }
        for (target, (_, linear)) in self.config.linears().iter().zip(self.linears()) {
            add(format!("{}.weight", target.name), in_file_order(&whole(&linear.weight)));
            if let Some(bias) = &linear.bias {
                add(format!("{}.bias", target.name), bias.val().into_data());
            }
        }
        tensors
    }

    /// Hidden states after the last norm; with a `cache`, of tokens that follow those it holds, which it takes in.
    ///
    /// # Shapes
    /// - returns `[batch, seq, d]`
    pub fn forward<A: Adapter<B>>(
        &self,
        inputs: &Inputs<B>,
        adapter: &A,
        pass: &Pass<B>,
        mut cache: Option<&mut Cache<B>>,
    ) -> Tensor<B, 3> {
        let mut hidden = self.embed(inputs);
        for (layer, block) in self.layers.iter().enumerate() {
            let adapter = LayerAdapter { adapter, pass, layer };
            hidden = block.forward(hidden, &self.config, inputs, &adapter, cache.as_deref_mut());
        }
        self.norm(hidden)
    }

    /// What goes into the first block.
    pub(crate) fn embed(&self, inputs: &Inputs<B>) -> Tensor<B, 3> {
        table_rows(self.embeddings.val(), inputs.ids.clone())
    }

    /// One block by itself, without a cache.
    pub(crate) fn block<A: Adapter<B>>(
        &self,
        hidden: Tensor<B, 3>,
        inputs: &Inputs<B>,
        adapter: &LayerAdapter<'_, B, A>,
    ) -> Tensor<B, 3> {
        self.layers[adapter.layer].forward(hidden, &self.config, inputs, adapter, None)
    }

    /// What comes behind the last block.
    pub(crate) fn norm(&self, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        self.norm.forward(hidden)
    }

    /// A logit for each token of the vocabulary.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d]`
    /// - returns `[batch, seq, vocab_size]`
    pub fn logits(&self, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        linear_of_rows(hidden, self.output_rows())
    }
}

impl<B: LayerOps> Layer<B> {
    fn forward<A: Adapter<B>>(
        &self,
        x: Tensor<B, 3>,
        config: &DecoderConfig,
        inputs: &Inputs<B>,
        adapter: &LayerAdapter<'_, B, A>,
        cache: Option<&mut Cache<B>>,
    ) -> Tensor<B, 3> {
        let normed = self.attention_norm.forward(x.clone());
        let query = adapter.project(Role::Query, &self.query, normed.clone());
        let key = adapter.project(Role::Key, &self.key, normed.clone());
        let value = adapter.project(Role::Value, &self.value, normed);
        let [query, key] = match &self.head_norms {
            Some([of_query, of_key]) => [of_query.of_heads(query), of_key.of_heads(key)],
            None => [query, key],
        };
        let [query, key] = [query, key].map(|x| rotary(x, inputs.cos.clone(), inputs.sin.clone()));
        let [key, value] = match cache {
            Some(cache) => cache.join(adapter.layer, [key, value]),
            None => [key, value],
        };
        let first = match (config.windows[adapter.layer], &inputs.first_in_window) {
            (Some(_), Some(first)) => first.clone(),
            _ => inputs.first.clone(),
        };
        let attended = causal_attention(query, key, value, first, [config.n_heads, config.n_kv_heads]);
        let x = add(adapter.project(Role::Output, &self.output, attended), x);

        let normed = self.mlp_norm.forward(x.clone());
        let gate = adapter.project(Role::Gate, &self.gate, normed.clone());
        let wide = swiglu(gate, adapter.project(Role::Up, &self.up, normed));
        add(adapter.project(Role::Down, &self.down, wide), x)
    }
}

impl<B: LayerOps> Norm<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        rms_norm(x, self.gamma.val(), self.epsilon)
    }

    /// Of each head by itself, `[batch, seq, heads * d]`.
    fn of_heads(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, seq, width] = x.dims();
        let d = self.gamma.dims()[0];
        self.forward(x.reshape([batch, seq * width / d, d])).reshape([batch, seq, width])
    }
}

/// Both lists have the order of [`DecoderConfig::linears`](crate::architecture::Architecture::linears).
impl<B: Backend> Backbone<B> for Decoder<B> {
    fn linears(&self) -> Vec<(Site, &Linear<B>)> {
        let linears =
            self.layers.iter().flat_map(|b| [&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down]);
        sites().zip(linears).collect()
    }

    fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)> {
        let linears = self.layers.iter_mut().flat_map(|b| {
            [&mut b.query, &mut b.key, &mut b.value, &mut b.output, &mut b.gate, &mut b.up, &mut b.down]
        });
        sites().zip(linears).collect()
    }
}

/// The sites of one block after the other, without end.
fn sites() -> impl Iterator<Item = Site> {
    (0..).flat_map(|layer| ROLES.map(|role| Site { layer, role }))
}
