//! A small RoBERTa, pre-trained by masked language modelling, and a classification task.

use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use rand::{Rng, RngCore};
use sara_core::parameters::Tensors;
use sara_core::store::{write_file, write_safetensors};
use sara_core::{AnyAdapter, Noise, Pass, Seed};
use sara_models::architecture::{Architecture, Family};
use sara_models::classify::{Gold, Item, collate};
use sara_models::encoder::{EncoderCheckpoint, Inputs};
use sara_models::tokenizer::Tokenizer;
use serde_json::json;
use tokenizers::processors::roberta::RobertaProcessing;

use crate::{B, Material, Unfreeze, text, train, write_half, write_lines, write_tokenizer};

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

/// Makes the model and its task in the directory of `material`.
pub(crate) fn make(material: &Material) -> Result<()> {
    let &Material { seed, train: n_train, valid: n_valid, .. } = material;
    let corpus = text::corpus(seed, material.sentences());
    let dir = material.model_dir()?;
    let task = text::task(seed + 1, n_train + n_valid);
    let lines = task.iter().map(|example| json!({"text": example.text, "label": example.label}));
    write_lines(material, lines)?;
    let ends = RobertaProcessing::new(("</s>".into(), 2), ("<s>".into(), 0));
    let vocabulary = write_tokenizer(&corpus, &SPECIAL, ends, &dir)?;
    let names = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
        "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"});
    write_file(&dir.join("tokenizer_config.json"), format!("{names:#}\n").as_bytes())?;
    write_config(vocabulary, &dir)?;

    let tokenizer = Tokenizer::load(&dir)?;
    let encode = |text: &String| -> Result<Item> {
        let encoded = tokenizer.encode(text, None, 64)?;
        Ok(Item { ids: encoded.ids, types: encoded.types, target: Gold::None })
    };
    let items: Vec<Item> = corpus.iter().map(encode).collect::<Result<_>>()?;

    write_first_values(vocabulary, seed, &dir)?;
    let loaded = EncoderCheckpoint::open(&dir)?.load::<B>(2, Seed(seed), &FlexDevice)?;
    let lengths: Vec<usize> = items.iter().map(|item| item.ids.len()).collect();
    // Guess hidden words, with the word embeddings as the output layer.
    let model = train(loaded.model.map(&mut Unfreeze), &lengths, material, |model, rows, step| {
        let mut batch = collate(&rows.iter().map(|&row| &items[row]).collect::<Vec<_>>(), PAD);
        let (places, words) = hide(&mut batch.ids, vocabulary, &mut Seed(seed).rng(&format!("mask/{step}")));
        let guessed = places.len();
        let inputs = Inputs::of_batch(model.config(), batch, &FlexDevice)?;
        let hidden = model.forward(&inputs, &None::<AnyAdapter<B>>, &Pass::training(Noise::default()));
        let [rows, columns, d] = hidden.dims();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [guessed]), &FlexDevice);
        let words = Tensor::<B, 2, Int>::from_data(TensorData::new(words, [guessed, 1]), &FlexDevice);
        let hidden = hidden.reshape([rows * columns, d]).select(0, places);
        let logits = hidden.matmul(model.word_embeddings().transpose());
        Ok(log_softmax(logits, 1).gather(1, words).neg().sum_dim(0).reshape([1]) / guessed as f64)
    })?;
    write_half(&model.tensors(), &dir)
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
