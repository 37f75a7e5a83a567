//! Loading a checkpoint strictly: every tensor is used, every parameter found, or one error lists all that does not fit.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::TensorView;
use sara_core::Seed;
use sara_core::parameters::state;

use crate::checkpoint::weights::{to_f32, to_f32_transposed};
use crate::checkpoint::{Checkpoint, HEAD, Loaded};
use crate::encoder::config::{Dropouts, Family};
use crate::encoder::head::{self, Head};
use crate::encoder::{Embeddings, Encoder, Layer, Norm};
use crate::error::Error;

/// Buffers and other heads that checkpoints bring along, and that a classifier has no use for.
const IGNORED: [&str; 3] = ["lm_head.", "cls.predictions.", "cls.seq_relationship."];
/// The same, inside the encoder.
const IGNORED_INSIDE: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

impl Checkpoint {
    pub(crate) fn load_parts<B: Backend>(
        &self,
        n_labels: usize,
        own_head: bool,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Loaded<B>, Error> {
        if n_labels == 0 {
            let (field, found, expected) = ("labels".to_owned(), "0".to_owned(), "1 or more".to_owned());
            return Err(sara_core::Error::Config { field, found, expected }.into());
        }
        let mut loader = Loader { checkpoint: self, device, used: BTreeSet::new(), problems: Vec::new() };
        let model = self.encoder(&mut loader);
        let (head, notes) = self.head(&mut loader, n_labels, own_head, seed);
        let used = std::mem::take(&mut loader.used);
        let unused = self.weights.names().filter(|&name| {
            !used.contains(name) && !self.ignores(name) && (own_head || !name.starts_with(HEAD))
        });
        loader.problems.extend(unused.map(|name| format!("{name}: unknown")));
        if loader.problems.is_empty() {
            return Ok(Loaded { model, head, notes });
        }
        let what = self.weights.path().display().to_string();
        Err(sara_core::Error::Mismatch { what, mismatches: loader.problems }.into())
    }

    /// True for a tensor that is dropped without a word.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        let inside = name.strip_prefix(&self.prefix);
        let pooler =
            self.config.family == Family::Roberta && inside.is_some_and(|name| name.starts_with("pooler."));
        pooler
            || IGNORED.iter().any(|start| name.starts_with(start))
            || inside.is_some_and(|name| IGNORED_INSIDE.contains(&name))
    }

    fn encoder<B: Backend>(&self, loader: &mut Loader<'_, B>) -> Encoder<B> {
        let config = &self.config;
        let (family, hidden) = (config.family.name(), config.hidden);
        let mut table = |name: &str, rows: usize| {
            loader.tensor(&format!("{family}.embeddings.{name}.weight"), [rows, hidden])
        };
        let embeddings = Embeddings {
            word: table("word_embeddings", config.vocab_size),
            position: table("position_embeddings", config.max_positions),
            token_type: table("token_type_embeddings", config.type_vocab),
            norm: loader.norm(&format!("{family}.embeddings.LayerNorm")),
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
                output_norm: loader.norm(&format!("{path}.attention.output.LayerNorm")),
                down_norm: loader.norm(&format!("{path}.output.LayerNorm")),
                n_heads: config.n_heads,
            }
        };
        let layers = linears.chunks(linears.len() / config.n_layers).enumerate().map(block).collect();
        Encoder { embeddings, layers, config: config.clone(), dropouts: Dropouts::default() }
    }

    /// The head, and a line for each part of it that is new.
    fn head<B: Backend>(
        &self,
        loader: &mut Loader<'_, B>,
        n_labels: usize,
        own_head: bool,
        seed: Seed,
    ) -> (Head<B>, Vec<String>) {
        let (family, hidden) = (self.config.family, self.config.hidden);
        let [dense_path, out_path] = head::paths(family);
        let mut notes = Vec::new();
        let own_dense = match family {
            Family::Roberta => own_head,
            Family::Bert => loader.has(dense_path),
        };
        let mut layer = |path: &str, d_out: usize, own: bool| {
            if own {
                return loader.linear(path, hidden, d_out);
            }
            notes.push(format!("{path} is new, drawn from seed {}, and trained", seed.0));
            let weight = seed.normal(
                &format!("{path}.weight"),
                [hidden, d_out],
                self.config.initializer_range,
                loader.device,
            );
            let bias = Param::from_tensor(Tensor::zeros([d_out], (loader.device, DType::F32)));
            Linear { weight, bias: Some(bias) }
        };
        let mut dense = layer(dense_path, hidden, own_dense);
        let out_proj = trained(layer(out_path, n_labels, own_head));
        let trains_dense = family == Family::Roberta || !own_dense;
        if trains_dense {
            dense = trained(dense);
        }
        (Head { dense, out_proj, family, trains_dense, dropout: 0.0 }, notes)
    }
}

fn trained<B: Backend>(linear: Linear<B>) -> Linear<B> {
    let Linear { weight, bias } = linear;
    Linear { weight: weight.set_require_grad(true), bias: bias.map(|bias| bias.set_require_grad(true)) }
}

/// Reads tensors, and notes what does not fit instead of stopping at it.
struct Loader<'a, B: Backend> {
    checkpoint: &'a Checkpoint,
    device: &'a B::Device,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl<B: Backend> Loader<'_, B> {
    fn has(&self, path: &str) -> bool {
        self.checkpoint.weights.tensor(&self.checkpoint.in_file(&format!("{path}.weight"))).is_some()
    }

    fn linear(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear<B> {
        let weight = self.read(&format!("{path}.weight"), &[d_out, d_in], to_f32_transposed);
        let weight =
            state(Tensor::from_data(TensorData::new(weight, [d_in, d_out]), (self.device, DType::F32)));
        Linear { weight, bias: Some(self.tensor(&format!("{path}.bias"), [d_out])) }
    }

    fn norm(&mut self, path: &str) -> Norm<B> {
        let shape = [self.checkpoint.config.hidden];
        // Files of the first BERT call the two gamma and beta.
        let [gamma, beta] = if self.has(path) { ["weight", "bias"] } else { ["gamma", "beta"] };
        Norm {
            gamma: self.tensor(&format!("{path}.{gamma}"), shape),
            beta: self.tensor(&format!("{path}.{beta}"), shape),
            epsilon: self.checkpoint.config.layer_norm_eps,
        }
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<B, D>> {
        let values = self.read(name, &shape, to_f32);
        state(Tensor::from_data(TensorData::new(values, shape), (self.device, DType::F32)))
    }

    /// The values of a tensor; zeros where it does not fit, which then is among the problems.
    fn read(
        &mut self,
        name: &str,
        shape: &[usize],
        convert: impl Fn(&TensorView<'_>) -> Option<Vec<f32>>,
    ) -> Vec<f32> {
        let name = self.checkpoint.in_file(name);
        let weights = &self.checkpoint.weights;
        let problem = match weights.tensor(&name) {
            None => format!("{name}: missing, expected {shape:?}"),
            Some(view) if view.shape() != shape => {
                format!("{name}: expected {shape:?}, found {:?}", view.shape())
            }
            Some(view) => match convert(&view) {
                None => format!("{name}: expected F32, F16 or BF16, found {}", view.dtype()),
                Some(values) => match values.iter().filter(|value| !value.is_finite()).count() {
                    0 => {
                        weights.release(&name);
                        self.used.insert(name);
                        return values;
                    }
                    n => format!("{name}: {n} of {} values are not finite", values.len()),
                },
            },
        };
        self.problems.push(problem);
        self.used.insert(name);
        vec![0.0; shape.iter().product()]
    }
}
