//! Makes what `sara demo` has built in: two small models, pre-trained on generated text, their tokenizers, and a generated
//! task for each.
#![expect(clippy::print_stdout, reason = "a long job tells how far it is")]

mod masked;
mod next_token;
mod problems;
mod text;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use burn::module::{AutodiffModule, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use clap::{Parser, ValueEnum};
use sara_core::parameters::Tensors;
use sara_core::store::{write_file, write_safetensors};
use sara_models::data::{Order, batches};
use sara_models::train::optimizer::{AdamWConfig, Optimizer, loss_and_norm, scale};
use sara_models::train::schedule::Schedule;
use serde_json::Value;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::Whitespace;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type B = Autodiff<Flex>;

/// What a model is made of.
#[derive(Parser)]
struct Material {
    /// What the model is for.
    #[arg(long)]
    task: Task,
    /// Directory for the model and the data; by default where the demo has them.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Sentences of the corpus; 60,000 for classify and 120,000 for causal-lm by default.
    #[arg(long)]
    sentences: Option<usize>,
    /// Optimizer steps; 6,000 for classify and 8,000 for causal-lm by default.
    #[arg(long)]
    steps: Option<usize>,
    /// Sentences of a step.
    #[arg(long, default_value = "64")]
    batch_size: NonZeroUsize,
    /// Largest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Seed of everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Examples to train on.
    #[arg(long, default_value_t = 2_000)]
    train: usize,
    /// Examples to validate with.
    #[arg(long, default_value_t = 600)]
    valid: usize,
}

/// What a model is for.
#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// The RoBERTa, which tells classes apart.
    Classify,
    /// The LLaMA, which writes.
    CausalLm,
}

fn main() -> Result<()> {
    let material = Material::parse();
    match material.task {
        Task::CausalLm => next_token::make(&material),
        Task::Classify => masked::make(&material),
    }
}

impl Material {
    fn out(&self) -> PathBuf {
        let assets = Path::new("crates/sara-models/assets");
        self.out.clone().unwrap_or_else(|| match self.task {
            Task::CausalLm => assets.join("writer"),
            Task::Classify => assets.to_owned(),
        })
    }

    fn sentences(&self) -> usize {
        self.sentences.unwrap_or(match self.task {
            Task::Classify => 60_000,
            Task::CausalLm => 120_000,
        })
    }

    fn steps(&self) -> usize {
        self.steps.unwrap_or(match self.task {
            Task::Classify => 6_000,
            Task::CausalLm => 8_000,
        })
    }

    /// The model's directory, which is there afterwards.
    fn model_dir(&self) -> Result<PathBuf> {
        let dir = self.out().join("model");
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// The examples of a task, as the data files of a run: first those to train on.
fn write_lines(material: &Material, examples: impl Iterator<Item = Value>) -> Result<()> {
    let lines: Vec<String> = examples.map(|example| format!("{example}\n")).collect();
    let (train, valid) = lines.split_at(material.train);
    write_file(&material.out().join("train.jsonl"), train.concat().as_bytes())?;
    write_file(&material.out().join("valid.jsonl"), valid.concat().as_bytes())?;
    Ok(())
}

/// A tokenizer with a token for each word of the corpus behind the `special` ones, the fourth of which stands for unknown
/// words; returns the number of tokens.
fn write_tokenizer(
    corpus: &[String],
    special: &[&str],
    ends: impl Into<tokenizers::PostProcessorWrapper>,
    dir: &Path,
) -> Result<usize> {
    let pieces = words_of(corpus);
    let tokens: Vec<String> = special.iter().map(ToString::to_string).chain(pieces).collect();
    let ids = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let model = WordLevel::builder()
        .vocab(ids)
        .unk_token("<unk>".to_owned())
        .build()
        .map_err(|error| anyhow!("tokenizer: {error}"))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Whitespace {}));
    tokenizer.with_post_processor(Some(ends));
    let special: Vec<_> = special.iter().map(|token| tokenizers::AddedToken::from(*token, true)).collect();
    tokenizer.add_special_tokens(&special);
    let text = tokenizer.to_string(true).map_err(|error| anyhow!("tokenizer: {error}"))?;
    write_file(&dir.join("tokenizer.json"), text.as_bytes())?;
    Ok(tokens.len())
}

/// Words and punctuation as the tokenizer splits them, sorted.
fn words_of(corpus: &[String]) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for sentence in corpus {
        for part in sentence.split_whitespace() {
            let word = part.trim_matches(|c: char| !c.is_alphanumeric());
            words.insert(word.to_owned());
            words.extend(part.chars().filter(|c| !c.is_alphanumeric()).map(String::from));
        }
    }
    words.remove("");
    words
}

/// The tensors in f16, as a checkpoint has them.
fn write_half(tensors: &Tensors, dir: &Path) -> Result<()> {
    let half = |(name, data): (&String, &burn::tensor::TensorData)| {
        (name.clone(), data.clone().convert_dtype(DType::F16))
    };
    let half: Tensors = tensors.iter().map(half).collect();
    Ok(write_safetensors(&dir.join("model.safetensors"), &half, &[("format", "pt")])?)
}

/// Trains everything.
struct Unfreeze;

impl<B: Backend> ModuleMapper<B> for Unfreeze {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.set_require_grad(true)
    }
}

/// Trains all of a model; `loss` is that of some sentences in some step.
fn train<M: AutodiffModule<B>>(
    mut model: M,
    lengths: &[usize],
    material: &Material,
    loss: impl Fn(&M, &[usize], usize) -> Result<Tensor<B, 1>>,
) -> Result<M> {
    let (&Material { batch_size, learning_rate, seed, .. }, steps) = (material, material.steps());
    let mut optimizer = Optimizer::<B>::new(AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() });
    let (mut order, mut epoch) = (Vec::new(), 0);
    let mut mean = None;
    let started = std::time::Instant::now();
    for step in 0..steps {
        if order.is_empty() {
            order = batches(lengths, batch_size, Order::Shuffled { seed, epoch });
            epoch += 1;
        }
        let rows = order.pop().context("the corpus is empty")?;
        let loss = loss(&model, &rows, step)?;
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let (value, norm) = loss_and_norm(&model, loss.inner(), &grads);
        scale(&model, &mut grads, 1.0, norm);
        let rate = Schedule::Linear.learning_rate(step, steps, steps / 20, learning_rate);
        model = optimizer.step(rate, model, &grads);
        let smoothed = mean.map_or(value, |mean: f64| 0.98 * mean + 0.02 * value);
        mean = Some(smoothed);
        if step % 100 == 99 {
            let seconds = started.elapsed().as_secs_f64();
            println!("step {}/{steps}  loss {smoothed:.4}  {seconds:.0} s", step + 1);
        }
    }
    Ok(model)
}
