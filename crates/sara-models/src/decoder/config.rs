//! The `config.json` of LLaMA, Mistral and Qwen checkpoints: everything about a model but its weights.

use std::path::Path;

use burn::tensor::backend::Backend;
use sara_core::parameters::Tensors;
use sara_core::{ModelShape, Role, Site, Target, Targets};
use sara_ops::LayerOps;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::rope::Rope;
use super::{Decoder, DecoderCheckpoint};
use crate::architecture::{Architecture, Family, PeftHead};
use crate::checkpoint::loader::Loader;
use crate::error::Error;
use crate::python_json;
use crate::train::NoHead;

/// More values than any decoder has, and than can be asked for by mistake.
const MOST_VALUES: f64 = 1e13;

/// Which of the four a checkpoint is; all else is a field of [`DecoderConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderFamily {
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `Qwen2ForCausalLM`.
    Qwen2,
    /// `Qwen3ForCausalLM`.
    Qwen3,
}

/// What `config.json` says of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Whose names and defaults the file has.
    pub family: DecoderFamily,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Number of heads of queries.
    pub n_heads: usize,
    /// Number of heads of keys and values, each shared by as many of queries.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width in the middle of the feed-forward network.
    pub intermediate: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// The longest text that positions were made for, without scaling.
    pub max_positions: usize,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether queries, keys and values have biases, and whether the attention's output has one.
    pub attention_bias: [bool; 2],
    /// Whether the feed-forward network has biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normed, head by head.
    pub head_norms: bool,
    /// How many tokens, its own included, a token of each block sees; all where there is none.
    pub windows: Vec<Option<usize>>,
    /// Whether the table of the embeddings is that of the output too.
    pub tied: bool,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
}

/// The names of a block's linear layers, in the order of all lists.
const LINEARS: [(Role, &str); 7] = [
    (Role::Query, "self_attn.q_proj"),
    (Role::Key, "self_attn.k_proj"),
    (Role::Value, "self_attn.v_proj"),
    (Role::Output, "self_attn.o_proj"),
    (Role::Gate, "mlp.gate_proj"),
    (Role::Up, "mlp.up_proj"),
    (Role::Down, "mlp.down_proj"),
];

impl DecoderFamily {
    /// Every family, in the order in which messages name them.
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class of transformers that predicts the next token.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

impl DecoderConfig {
    /// Width of all heads of queries.
    pub fn d_query(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all heads of keys, or of values.
    pub fn d_key(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Whether the linear layer of this role has a bias.
    pub(super) fn has_bias(&self, role: Role) -> bool {
        match role {
            Role::Query | Role::Key | Role::Value => self.attention_bias[0],
            Role::Output => self.attention_bias[1],
            Role::Gate | Role::Up | Role::Down => self.mlp_bias,
        }
    }

    /// Refuses what would panic or divide by zero later.
    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.n_layers),
            ("num_attention_heads", self.n_heads),
            ("num_key_value_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate),
            ("max_position_embeddings", self.max_positions),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} is 0; it must be 1 or more"));
        }
        let wide = self.hidden as f64 * (2.0 * self.d_query() as f64 + 3.0 * self.intermediate as f64);
        let values = self.vocab_size as f64 * self.hidden as f64 + self.n_layers as f64 * wide;
        if values > MOST_VALUES {
            return Err(format!("its sizes make a model of {values:.0e} values; one of them is wrong"));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(format!(
                "{} heads of keys do not divide {} attention heads",
                self.n_kv_heads, self.n_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim < 4 {
            return Err(format!(
                "head_dim {} does not make pairs; it must be even and above 2",
                self.head_dim
            ));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return Err(format!("rms_norm_eps {} is not a small positive number", self.rms_norm_eps));
        }
        if self.windows.contains(&Some(0)) {
            return Err("sliding_window is 0; it must be 1 or more, or null".to_owned());
        }
        Ok(())
    }
}

impl Architecture for DecoderConfig {
    fn name(&self) -> &'static str {
        self.family.name()
    }

    fn root(&self) -> &'static str {
        "model"
    }

    fn embeddings(&self) -> &'static str {
        "embed_tokens.weight"
    }

    fn shape(&self) -> ModelShape {
        ModelShape {
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
        }
    }

    fn linears(&self) -> Vec<Target> {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let sizes = |role: Role| match role {
            Role::Query => (hidden, self.d_query()),
            Role::Key | Role::Value => (hidden, self.d_key()),
            Role::Output => (self.d_query(), hidden),
            Role::Gate | Role::Up => (hidden, wide),
            Role::Down => (wide, hidden),
        };
        let target = |layer: usize, (role, name): (Role, &str)| {
            let (d_in, d_out) = sizes(role);
            Target { site: Site { layer, role }, name: format!("model.layers.{layer}.{name}"), d_in, d_out }
        };
        (0..self.n_layers).flat_map(|layer| LINEARS.map(|entry| target(layer, entry))).collect()
    }

    fn parts(&self) -> &'static [&'static str] {
        &["embed_tokens", "layers", "norm"]
    }

    fn usable_length(&self) -> usize {
        self.rope.context(self.max_positions)
    }

    fn parameter_count(&self) -> usize {
        let table = self.vocab_size * self.hidden;
        let linears = self.linears();
        let biases = linears.iter().filter(|linear| self.has_bias(linear.site.role));
        let linear: usize = linears.iter().map(|linear| linear.d_in * linear.d_out).sum();
        let norms = 2 * self.hidden + if self.head_norms { 2 * self.head_dim } else { 0 };
        let tables = if self.tied { table } else { 2 * table };
        let bias: usize = biases.map(|linear| linear.d_out).sum();
        tables + linear + bias + self.n_layers * norms + self.hidden
    }

    /// Frequencies are computed, and were saved along once.
    fn leaves_out(&self, _name: &str, inside: Option<&str>) -> bool {
        inside.is_some_and(|name| name.ends_with("rotary_emb.inv_freq"))
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let heads = if self.n_kv_heads == self.n_heads {
            self.n_heads.to_string()
        } else {
            format!("{}, {} of keys and values", self.n_heads, self.n_kv_heads)
        };
        vec![
            ("width", self.hidden.to_string()),
            ("heads", heads),
            ("vocabulary", self.vocab_size.to_string()),
            ("context", self.usable_length().to_string()),
        ]
    }

    fn default_targets(&self) -> Targets {
        Targets::Named(vec!["q_proj".to_owned(), "v_proj".to_owned()])
    }
}

impl Family for DecoderConfig {
    type Model<B: Backend> = Decoder<B>;
    type Head<B: Backend> = NoHead<B>;

    const TASK_TYPES: &'static [&'static str] = &["CAUSAL_LM"];

    /// With the defaults that transformers has for what the file leaves out, or has as `null`.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut object, _): (Map<String, Value>, _) =
            python_json::parse(text).map_err(|error| error.to_string())?;
        let is_null = |key: &str, object: &Map<String, Value>| object.get(key) == Some(&Value::Null);
        // Where no word means something else than `null`.
        let no_window = is_null("sliding_window", &object);
        let own_keys = is_null("num_key_value_heads", &object);
        object.retain(|_, value| !value.is_null());
        let family = family(&object)?;
        let file: File =
            serde_json::from_value(Value::Object(object.clone())).map_err(|error| error.to_string())?;
        let is_qwen = matches!(family, DecoderFamily::Qwen2 | DecoderFamily::Qwen3);
        let max_positions = file.max_position_embeddings.unwrap_or(match family {
            DecoderFamily::Llama => 2048,
            DecoderFamily::Mistral => 131_072,
            DecoderFamily::Qwen2 | DecoderFamily::Qwen3 => 32_768,
        });
        let n_heads = file.num_attention_heads;
        let config = Self {
            family,
            vocab_size: file.vocab_size.unwrap_or(if is_qwen { 151_936 } else { 32_000 }),
            hidden: file.hidden_size,
            n_layers: file.num_hidden_layers,
            n_heads,
            n_kv_heads: file.num_key_value_heads.unwrap_or(match family {
                _ if own_keys => n_heads,
                DecoderFamily::Llama => n_heads,
                DecoderFamily::Mistral => 8,
                DecoderFamily::Qwen2 | DecoderFamily::Qwen3 => 32,
            }),
            head_dim: match (file.head_dim, family) {
                (Some(width), _) => width,
                (None, DecoderFamily::Qwen3) => 128,
                (None, _) => file.hidden_size.checked_div(n_heads).unwrap_or(0),
            },
            intermediate: file.intermediate_size.unwrap_or(match family {
                DecoderFamily::Llama => 11_008,
                DecoderFamily::Mistral => 14_336,
                DecoderFamily::Qwen2 | DecoderFamily::Qwen3 => 22_016,
            }),
            rms_norm_eps: file.rms_norm_eps,
            max_positions,
            rope: Rope::parse(&object, max_positions)?,
            attention_bias: match family {
                DecoderFamily::Llama | DecoderFamily::Qwen3 => [file.attention_bias; 2],
                DecoderFamily::Mistral => [false; 2],
                DecoderFamily::Qwen2 => [true, false],
            },
            mlp_bias: family == DecoderFamily::Llama && file.mlp_bias,
            head_norms: family == DecoderFamily::Qwen3,
            windows: file.windows(family, if no_window { None } else { Some(4096) })?,
            tied: file.tie_word_embeddings,
            initializer_range: file.initializer_range,
        };
        file.check()?;
        config.check()?;
        Ok(config)
    }

    fn load<B: LayerOps>(&self, loader: &mut Loader<'_, B>) -> Decoder<B> {
        super::load::decoder(self, loader)
    }

    fn head_of_peft(
        checkpoint: &DecoderCheckpoint,
        files: PeftHead,
        adapter: &Path,
    ) -> Result<Tensors, Error> {
        checkpoint.check_embeddings(&files.embeddings, adapter)?;
        let changed = files.tensors.keys().chain(files.changes.iter().map(|(path, _)| path)).next();
        match changed {
            None => Ok(Tensors::new()),
            Some(path) => Err(Error::format(
                adapter,
                format!(
                    "changes {path}, which is not supported: only the linear layers of the blocks are adapted; merge the \
                     adapter with PEFT and give the merged model"
                ),
            )),
        }
    }
}

/// Whose file it is, asked first: another model's may well lack the rest.
fn family(object: &Map<String, Value>) -> Result<DecoderFamily, String> {
    let model_type = object.get("model_type").and_then(Value::as_str);
    DecoderFamily::ALL.into_iter().find(|family| model_type == Some(family.name())).ok_or_else(|| {
        format!(
            "model_type is {}; supported are llama, mistral, qwen2 and qwen3",
            model_type.unwrap_or("missing")
        )
    })
}

/// The file as it is. Defaults are those of transformers' configuration classes where these agree.
#[derive(Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are those of the file")]
struct File {
    architectures: Vec<String>,
    vocab_size: Option<usize>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: f64,
    initializer_range: f64,
    hidden_act: String,
    attention_bias: bool,
    mlp_bias: bool,
    tie_word_embeddings: bool,
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            architectures: Vec::new(),
            vocab_size: None,
            hidden_size: 4096,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            intermediate_size: None,
            max_position_embeddings: None,
            rms_norm_eps: 1e-6,
            initializer_range: 0.02,
            hidden_act: "silu".to_owned(),
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: false,
            use_sliding_window: false,
            sliding_window: None,
            max_window_layers: 28,
            layer_types: None,
            quantization_config: None,
        }
    }
}

impl File {
    /// Refuses options that change the result and are not computed here.
    fn check(&self) -> Result<(), String> {
        let is_ours = |name: &String| name.ends_with("ForCausalLM") || name.ends_with("Model");
        if let Some(name) = self.architectures.first().filter(|_| !self.architectures.iter().any(is_ours)) {
            return Err(format!(
                "the architecture {name} does not predict text; only those for causal language models do"
            ));
        }
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act {} is not supported; only silu is", self.hidden_act));
        }
        if self.quantization_config.is_some() {
            return Err(
                "the weights are quantised on disk, which is not supported; give the checkpoint that they \
                        were made from"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// How far each block sees; `default` where the file does not say.
    fn windows(&self, family: DecoderFamily, default: Option<usize>) -> Result<Vec<Option<usize>>, String> {
        let window = self.sliding_window.or(default);
        let n_layers = self.num_hidden_layers.min(1 << 16);
        match family {
            DecoderFamily::Llama => Ok(vec![None; n_layers]),
            DecoderFamily::Mistral => Ok(vec![window; n_layers]),
            DecoderFamily::Qwen2 | DecoderFamily::Qwen3 => {
                let window = window.filter(|_| self.use_sliding_window);
                let Some(types) = &self.layer_types else {
                    return Ok((0..n_layers)
                        .map(|layer| window.filter(|_| layer >= self.max_window_layers))
                        .collect());
                };
                if types.len() != self.num_hidden_layers {
                    return Err(format!(
                        "layer_types has {} entries for {} layers",
                        types.len(),
                        self.num_hidden_layers
                    ));
                }
                let of_type = |kind: &String| match kind.as_str() {
                    "full_attention" => Ok(None),
                    "sliding_attention" => Ok(window),
                    other => Err(format!(
                        "layer_types names {other}, which is not supported; only full_attention and sliding_attention are"
                    )),
                };
                types.iter().map(of_type).collect()
            }
        }
    }
}
