//! The encoder that RoBERTa and BERT share: embeddings, then blocks of attention and feed-forward network, each half
//! followed by a layer norm.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::module::embedding;
use sara_core::parameters::Tensors;
use sara_core::{Adapter, Backbone, LayerAdapter, Pass, Role, Site};
use sara_ops::add;
use sara_ops::{LayerOps, attention, gelu, layer_norm};

use crate::architecture::Architecture;
use crate::checkpoint::weights::in_file_order;
use crate::encoder::config::{Dropouts, EncoderConfig};

pub mod config;
pub mod head;
mod inputs;
mod load;

pub use inputs::{Inputs, check_tokens};
pub use load::{EncoderCheckpoint, Loaded};

/// The linear layers of a block, in the order of all lists.
const ROLES: [Role; 6] = [Role::Query, Role::Key, Role::Value, Role::Output, Role::Up, Role::Down];

/// The frozen encoder.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    pub(crate) embeddings: Embeddings<B>,
    pub(crate) layers: Vec<Layer<B>>,
    #[module(skip)]
    pub(crate) config: EncoderConfig,
    #[module(skip)]
    pub(crate) dropouts: Dropouts,
}

/// Tables by token id, position and token type.
#[derive(Module, Debug)]
pub(crate) struct Embeddings<B: Backend> {
    /// `[vocab_size, d]`.
    pub(crate) word: Param<Tensor<B, 2>>,
    /// `[max_positions, d]`.
    pub(crate) position: Param<Tensor<B, 2>>,
    /// `[type_vocab, d]`.
    pub(crate) token_type: Param<Tensor<B, 2>>,
    pub(crate) norm: Norm<B>,
}

/// One block.
#[derive(Module, Debug)]
pub(crate) struct Layer<B: Backend> {
    pub(crate) query: Linear<B>,
    pub(crate) key: Linear<B>,
    pub(crate) value: Linear<B>,
    pub(crate) output: Linear<B>,
    pub(crate) output_norm: Norm<B>,
    pub(crate) up: Linear<B>,
    pub(crate) down: Linear<B>,
    pub(crate) down_norm: Norm<B>,
    pub(crate) n_heads: usize,
}

/// A layer norm.
#[derive(Module, Debug)]
pub(crate) struct Norm<B: Backend> {
    /// `[d]`.
    pub(crate) gamma: Param<Tensor<B, 1>>,
    /// `[d]`.
    pub(crate) beta: Param<Tensor<B, 1>>,
    pub(crate) epsilon: f64,
}

impl<B: Backend> Encoder<B> {
    /// The same encoder with these probabilities of dropout.
    ///
    /// # Panics
    /// If one is not in `0..1`, as `config.json` and the run file are asked before.
    pub fn with_dropout(self, dropouts: Dropouts) -> Self {
        let Dropouts { hidden, attention, classifier } = dropouts;
        let fit = [hidden, attention, classifier].iter().all(|p| (0.0..1.0).contains(p));
        assert!(fit, "a probability of dropout is not in 0..1: {dropouts:?}");
        Self { dropouts, ..self }
    }

    /// What `config.json` says of this encoder.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The id of padding.
    pub fn pad_id(&self) -> u32 {
        self.config.pad_id as u32
    }

    /// Vectors of the token ids, `[vocab_size, d]`.
    pub fn word_embeddings(&self) -> Tensor<B, 2> {
        self.embeddings.word.val()
    }

    /// Every parameter by its name in the checkpoint of a bare encoder, weights as `[d_out, d_in]`.
    pub fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        let Embeddings { word, position, token_type, norm } = &self.embeddings;
        for (name, table) in [("word", word), ("position", position), ("token_type", token_type)] {
            tensors.insert(format!("embeddings.{name}_embeddings.weight"), table.val().into_data());
        }
        let mut add_norm = |path: String, norm: &Norm<B>| {
            tensors.insert(format!("{path}.LayerNorm.weight"), norm.gamma.val().into_data());
            tensors.insert(format!("{path}.LayerNorm.bias"), norm.beta.val().into_data());
        };
        add_norm("embeddings".to_owned(), norm);
        for (layer, block) in self.layers.iter().enumerate() {
            add_norm(format!("encoder.layer.{layer}.attention.output"), &block.output_norm);
            add_norm(format!("encoder.layer.{layer}.output"), &block.down_norm);
        }
        for (target, (_, linear)) in self.config.linears().iter().zip(self.linears()) {
            let path = target.name.split_once('.').map_or(target.name.as_str(), |(_, path)| path);
            tensors.insert(format!("{path}.weight"), in_file_order(&linear.weight.val().into_data()));
            if let Some(bias) = &linear.bias {
                tensors.insert(format!("{path}.bias"), bias.val().into_data());
            }
        }
        tensors
    }

    /// Where its weights are.
    pub fn device(&self) -> B::Device {
        self.embeddings.word.val().device()
    }
}

impl<B: LayerOps> Encoder<B> {
    /// Hidden states after the last block.
    ///
    /// # Shapes
    /// - returns `[batch, seq, d]`
    pub fn forward<A: Adapter<B>>(&self, inputs: &Inputs<B>, adapter: &A, pass: &Pass<B>) -> Tensor<B, 3> {
        self.blocks(inputs, adapter, pass, Queries::All)
    }

    /// Hidden state of the first token after the last block: all that a classifier reads.
    ///
    /// The last block then needs the other tokens as keys and values alone. In a pass that records inputs it computes
    /// them in full, so that every layer sees every token.
    ///
    /// # Shapes
    /// - returns `[batch, 1, d]`
    pub fn first_token<A: Adapter<B>>(
        &self,
        inputs: &Inputs<B>,
        adapter: &A,
        pass: &Pass<B>,
    ) -> Tensor<B, 3> {
        let of_last = if pass.is_recording() { Queries::All } else { Queries::First };
        self.blocks(inputs, adapter, pass, of_last).narrow(1, 0, 1)
    }

    fn blocks<A: Adapter<B>>(
        &self,
        inputs: &Inputs<B>,
        adapter: &A,
        pass: &Pass<B>,
        of_last: Queries,
    ) -> Tensor<B, 3> {
        let dropouts = if pass.is_training() { self.dropouts } else { Dropouts::default() };
        let embedded = pass.dropout(self.embeddings.forward(inputs), dropouts.hidden, "embeddings");
        self.layers.iter().enumerate().fold(embedded, |hidden, (layer, block)| {
            let queries = if layer + 1 == self.layers.len() { of_last } else { Queries::All };
            block.forward(hidden, queries, inputs, &LayerAdapter { adapter, pass, layer }, dropouts)
        })
    }
}

impl<B: LayerOps> Embeddings<B> {
    fn forward(&self, inputs: &Inputs<B>) -> Tensor<B, 3> {
        let sum = embedding(self.word.val(), inputs.ids.clone())
            + embedding(self.token_type.val(), inputs.types.clone())
            + embedding(self.position.val(), inputs.positions.clone());
        self.norm.forward(sum)
    }
}

/// The tokens whose output of a block is wanted.
#[derive(Debug, Clone, Copy)]
enum Queries {
    All,
    First,
}

impl<B: LayerOps> Layer<B> {
    fn forward<A: Adapter<B>>(
        &self,
        x: Tensor<B, 3>,
        queries: Queries,
        inputs: &Inputs<B>,
        adapter: &LayerAdapter<'_, B, A>,
        dropouts: Dropouts,
    ) -> Tensor<B, 3> {
        let key = adapter.project(Role::Key, &self.key, x.clone());
        let value = adapter.project(Role::Value, &self.value, x.clone());
        let x = match queries {
            Queries::All => x,
            Queries::First => x.narrow(1, 0, 1),
        };
        let query = adapter.project(Role::Query, &self.query, x.clone());
        let (pass, layer) = (adapter.pass, adapter.layer);
        if dropouts.attention > 0.0 {
            pass.seed_device(&query.device(), format_args!("{layer}.attention"));
        }
        let attended = attention(query, key, value, self.n_heads, inputs.mask.clone(), dropouts.attention);
        let attended = adapter.project(Role::Output, &self.output, attended);
        let x = self
            .output_norm
            .forward(add(pass.dropout(attended, dropouts.hidden, format_args!("{layer}.attended")), x));

        let wide = gelu(adapter.project(Role::Up, &self.up, x.clone()));
        let narrow = adapter.project(Role::Down, &self.down, wide);
        self.down_norm.forward(add(pass.dropout(narrow, dropouts.hidden, format_args!("{layer}.narrow")), x))
    }
}

impl<B: LayerOps> Norm<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}

/// Both lists have the order of [`EncoderConfig::linears`](crate::encoder::config::EncoderConfig::linears).
impl<B: Backend> Backbone<B> for Encoder<B> {
    fn linears(&self) -> Vec<(Site, &Linear<B>)> {
        let linears =
            self.layers.iter().flat_map(|b| [&b.query, &b.key, &b.value, &b.output, &b.up, &b.down]);
        sites().zip(linears).collect()
    }

    fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)> {
        let linears = self
            .layers
            .iter_mut()
            .flat_map(|b| [&mut b.query, &mut b.key, &mut b.value, &mut b.output, &mut b.up, &mut b.down]);
        sites().zip(linears).collect()
    }
}

/// The sites of one block after the other, without end.
fn sites() -> impl Iterator<Item = Site> {
    (0..).flat_map(|layer| ROLES.map(|role| Site { layer, role }))
}
