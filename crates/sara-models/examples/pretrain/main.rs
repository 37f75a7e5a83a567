//! Makes what `sara demo` has built in: a small RoBERTa, pre-trained by masked language modelling on generated text,
//! its tokenizer, and a generated classification task.
#![expect(clippy::print_stdout, reason = "a long job tells how far it is")]

mod text;

use sara_models::architecture::{Architecture, Family};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use clap::Parser;
use rand::{Rng, RngCore};
use sara_core::parameters::Tensors;
use sara_core::store::{write_file, write_safetensors};
use sara_core::{AnyAdapter, Noise, Pass, Seed};
use sara_models::classify::{Gold, Item, collate};
use sara_models::data::{Order, batches};
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::{Encoder, Inputs};
use sara_models::train::optimizer::{AdamWConfig, Optimizer, loss_and_norm, scale};
use sara_models::train::schedule::Schedule;
use serde_json::json;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::Whitespace;
use tokenizers::processors::roberta::RobertaProcessing;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type B = Autodiff<Flex>;

/// The special tokens, at the ids of RoBERTa.
const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
const PAD: u32 = 1;
const MASK: u32 = 4;
/// Share of the tokens that the model must guess, and of these the shares shown as they are and as another word.
const GUESSED: f64 = 0.15;
const SHOWN: f64 = 0.1;
const REPLACED: f64 = 0.1;
/// Width, blocks, heads and middle width of the model.
const SHAPE: [usize; 4] = [128, 4, 4, 512];

#[derive(Parser)]
struct Args {
    /// Directory for the model and the data.
    #[arg(long, default_value = "crates/sara-models/assets")]
    out: PathBuf,
    /// Sentences of the corpus.
    #[arg(long, default_value_t = 60_000)]
    sentences: usize,
    /// Optimizer steps.
    #[arg(long, default_value_t = 6_000)]
    steps: usize,
    /// Sentences of a step.
    #[arg(long, default_value = "64")]
    batch_size: std::num::NonZeroUsize,
    /// Largest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Seed of everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Examples to train on and to validate with.
    #[arg(long, num_args = 2, default_values_t = [2_000, 600])]
    examples: Vec<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let corpus = text::corpus(args.seed, args.sentences);
    let model_dir = args.out.join("model");
    std::fs::create_dir_all(&model_dir)?;
    write_task(&args)?;
    let vocabulary = write_tokenizer(&corpus, &model_dir)?;
    write_config(vocabulary, &model_dir)?;

    let tokenizer = sara_models::tokenizer::Tokenizer::load(&model_dir)?;
    let encode = |text: &String| -> Result<Item> {
        let encoded = tokenizer.encode(text, None, 64)?;
        Ok(Item { ids: encoded.ids, types: encoded.types, target: Gold::None })
    };
    let items: Vec<Item> = corpus.iter().map(encode).collect::<Result<_>>()?;

    write_first_values(vocabulary, args.seed, &model_dir)?;
    let device = FlexDevice;
    let loaded = EncoderCheckpoint::open(&model_dir)?.load::<B>(2, Seed(args.seed), &device)?;
    let model = pretrain(loaded.model.map(&mut Unfreeze), &items, vocabulary, &args)?;

    let half: Tensors =
        model.tensors().into_iter().map(|(name, data)| (name, data.convert_dtype(DType::F16))).collect();
    write_safetensors(&model_dir.join("model.safetensors"), &half, &[("format", "pt")])?;
    Ok(())
}

/// The labelled sentences, as the data files of a run.
fn write_task(args: &Args) -> Result<()> {
    let [train, valid] = args.examples[..] else { return Err(anyhow!("--examples TRAIN VALID")) };
    let all = text::task(args.seed + 1, train + valid);
    let lines = |examples: &[text::Labelled]| -> String {
        let line =
            |e: &text::Labelled| [json!({"text": e.text, "label": e.label}).to_string(), "\n".to_owned()];
        examples.iter().flat_map(line).collect()
    };
    write_file(&args.out.join("train.jsonl"), lines(&all[..train]).as_bytes())?;
    write_file(&args.out.join("valid.jsonl"), lines(&all[train..]).as_bytes())?;
    Ok(())
}

/// A tokenizer with a token for each word of the corpus; returns the number of tokens.
fn write_tokenizer(corpus: &[String], dir: &Path) -> Result<usize> {
    let pieces = words_of(corpus);
    let tokens: Vec<String> = SPECIAL.iter().map(ToString::to_string).chain(pieces).collect();
    let ids = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let model = WordLevel::builder()
        .vocab(ids)
        .unk_token("<unk>".to_owned())
        .build()
        .map_err(|error| anyhow!("tokenizer: {error}"))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Whitespace {}));
    tokenizer.with_post_processor(Some(RobertaProcessing::new(("</s>".into(), 2), ("<s>".into(), 0))));
    let special: Vec<_> = SPECIAL.iter().map(|token| tokenizers::AddedToken::from(*token, true)).collect();
    tokenizer.add_special_tokens(&special);
    let text = tokenizer.to_string(true).map_err(|error| anyhow!("tokenizer: {error}"))?;
    write_file(&dir.join("tokenizer.json"), text.as_bytes())?;
    write_file(
        &dir.join("tokenizer_config.json"),
        format!(
            "{:#}\n",
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
            "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"})
        )
        .as_bytes(),
    )?;
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

fn write_config(vocabulary: usize, dir: &Path) -> Result<()> {
    let [hidden, layers, heads, intermediate] = SHAPE;
    let config = json!({
        "architectures": ["RobertaModel"],
        "model_type": "roberta",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "pad_token_id": PAD,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "dtype": "float16",
    });
    Ok(write_file(&dir.join("config.json"), format!("{config:#}\n").as_bytes())?)
}

/// A checkpoint of first values, so that loading is the one way into a model.
fn write_first_values(vocabulary: usize, seed: u64, dir: &Path) -> Result<()> {
    let config = sara_models::encoder::config::EncoderConfig::read(dir)?;
    let hidden = config.hidden;
    let normal = |name: &str, shape: [usize; 2]| {
        Seed(seed).normal::<Flex, 2>(name, shape, config.initializer_range, &FlexDevice).val().into_data()
    };
    let constant = |value: f32, size: usize| TensorData::new(vec![value; size], [size]);
    let mut tensors = Tensors::new();
    for (name, rows) in
        [("word", vocabulary), ("position", config.max_positions), ("token_type", config.type_vocab)]
    {
        let name = format!("embeddings.{name}_embeddings.weight");
        tensors.insert(name.clone(), normal(&name, [rows, hidden]));
    }
    let mut norms = vec!["embeddings".to_owned()];
    for layer in 0..config.n_layers {
        norms.extend(["attention.output", "output"].map(|part| format!("encoder.layer.{layer}.{part}")));
    }
    for path in norms {
        tensors.insert(format!("{path}.LayerNorm.weight"), constant(1.0, hidden));
        tensors.insert(format!("{path}.LayerNorm.bias"), constant(0.0, hidden));
    }
    for target in config.linears() {
        let path = target.name.trim_start_matches("roberta.");
        tensors.insert(format!("{path}.weight"), normal(path, [target.d_out, target.d_in]));
        tensors.insert(format!("{path}.bias"), constant(0.0, target.d_out));
    }
    Ok(write_safetensors(&dir.join("model.safetensors"), &tensors, &[("format", "pt")])?)
}

/// Trains everything.
struct Unfreeze;

impl<B: Backend> ModuleMapper<B> for Unfreeze {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.set_require_grad(true)
    }
}

/// Masked language modelling: guess hidden words, with the word embeddings as the output layer.
fn pretrain(mut model: Encoder<B>, items: &[Item], vocabulary: usize, args: &Args) -> Result<Encoder<B>> {
    let lengths: Vec<usize> = items.iter().map(|item| item.ids.len()).collect();
    let mut optimizer = Optimizer::<B>::new(AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() });
    let (mut order, mut epoch) = (Vec::new(), 0);
    let mut mean = None;
    let started = std::time::Instant::now();
    for step in 0..args.steps {
        if order.is_empty() {
            order = batches(&lengths, args.batch_size, Order::Shuffled { seed: args.seed, epoch });
            epoch += 1;
        }
        let rows = order.pop().context("the corpus is empty")?;
        let mut batch = collate(&rows.iter().map(|&row| &items[row]).collect::<Vec<_>>(), PAD);
        let (places, words) =
            hide(&mut batch.ids, vocabulary, &mut Seed(args.seed).rng(&format!("mask/{step}")));
        let guessed = places.len();
        let inputs = Inputs::of_batch(model.config(), batch, &FlexDevice)?;
        let hidden = model.forward(&inputs, &None::<AnyAdapter<B>>, &Pass::training(Noise::default()));
        let [rows, columns, d] = hidden.dims();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [guessed]), &FlexDevice);
        let words = Tensor::<B, 2, Int>::from_data(TensorData::new(words, [guessed, 1]), &FlexDevice);
        let hidden = hidden.reshape([rows * columns, d]).select(0, places);
        let logits = hidden.matmul(model.word_embeddings().transpose());
        let loss = log_softmax(logits, 1).gather(1, words).neg().sum_dim(0).reshape([1]) / guessed as f64;
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let (value, norm) = loss_and_norm(&model, loss.inner(), &grads);
        scale(&model, &mut grads, 1.0, norm);
        let rate = Schedule::Linear.learning_rate(step, args.steps, args.steps / 20, args.learning_rate);
        model = optimizer.step(rate, model, &grads);
        let smoothed = mean.map_or(value, |mean: f64| 0.98 * mean + 0.02 * value);
        mean = Some(smoothed);
        if step % 100 == 99 {
            println!(
                "step {}/{}  loss {smoothed:.4}  {:.0} s",
                step + 1,
                args.steps,
                started.elapsed().as_secs_f64()
            );
        }
    }
    Ok(model)
}

/// Hides some tokens; returns where, and what stood there.
fn hide(ids: &mut [i32], vocabulary: usize, rng: &mut impl RngCore) -> (Vec<i32>, Vec<i32>) {
    let (mut places, mut words) = (Vec::new(), Vec::new());
    let ordinary = SPECIAL.len() as i32..vocabulary as i32;
    for (place, id) in ids.iter_mut().enumerate() {
        if !ordinary.contains(id) || rng.random::<f64>() >= GUESSED {
            continue;
        }
        places.push(place as i32);
        words.push(*id);
        let fate: f64 = rng.random();
        if fate < REPLACED {
            *id = rng.random_range(ordinary.clone());
        } else if fate >= REPLACED + SHOWN {
            *id = MASK as i32;
        }
    }
    if places.is_empty() {
        // A batch of nothing but short sentences may escape; its first word then stands in.
        places.push(1);
        words.push(ids[1]);
    }
    (places, words)
}
