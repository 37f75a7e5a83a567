//! A small LLaMA, pre-trained to predict the next word, and word problems for it.

use std::path::Path;

use anyhow::{Result, anyhow};
use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use sara_core::parameters::Tensors;
use sara_core::store::{write_file, write_safetensors};
use sara_core::{AnyAdapter, Noise, Pass, Seed};
use sara_models::architecture::{Architecture, Family};
use sara_models::causal_lm::{Batch, Item};
use sara_models::checkpoint::WeightType;
use sara_models::decoder::config::DecoderConfig;
use sara_models::decoder::{DecoderCheckpoint, Inputs};
use sara_models::tokenizer::Tokenizer;
use serde_json::json;
use tokenizers::processors::template::TemplateProcessing;

use crate::{B, Material, Unfreeze, problems, train, write_half, write_lines, write_tokenizer};

/// The special tokens; the vocabulary's words follow.
const SPECIAL: [&str; 4] = ["<s>", "</s>", "<pad>", "<unk>"];
const EOS: u32 = 1;
/// Width, blocks, heads and middle width of the model. Queries and values are alike, so that LoRTA finds its shape.
const SHAPE: [usize; 4] = [128, 4, 4, 352];
const CONTEXT: usize = 512;

/// Makes the model and its task in the directory of `material`.
pub(crate) fn make(material: &Material) -> Result<()> {
    let &Material { seed, train: n_train, valid: n_valid, .. } = material;
    let corpus = problems::corpus(seed, material.sentences());
    let dir = material.model_dir()?;
    let task = problems::problems(seed + 1, n_train + n_valid);
    let lines =
        task.iter().map(|problem| json!({"prompt": problem.prompt, "completion": problem.completion}));
    write_lines(material, lines)?;
    let begin = TemplateProcessing::builder()
        .try_single("<s> $A")
        .map_err(|error| anyhow!("tokenizer: {error}"))?
        .special_tokens(vec![("<s>", 0)])
        .build()?;
    let vocabulary = write_tokenizer(&corpus, &SPECIAL, begin, &dir)?;
    let names = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"});
    write_file(&dir.join("tokenizer_config.json"), format!("{names:#}\n").as_bytes())?;
    write_config(vocabulary, &dir)?;

    let tokenizer = Tokenizer::load(&dir)?;
    let encode = |text: &String| -> Result<Item> {
        let mut ids = tokenizer.encode(text, None, CONTEXT)?.ids;
        ids.push(EOS);
        Ok(Item { trained: vec![true; ids.len()], ids })
    };
    let items: Vec<Item> = corpus.iter().map(encode).collect::<Result<_>>()?;

    write_first_values(seed, &dir)?;
    let loaded = DecoderCheckpoint::open(&dir)?.load::<B>(WeightType::F32, &FlexDevice)?;
    let lengths: Vec<usize> = items.iter().map(|item| item.ids.len()).collect();
    let model = train(loaded.model.map(&mut Unfreeze), &lengths, material, |model, rows, _| {
        let batch = Batch::new(&rows.iter().map(|&row| vec![&items[row]]).collect::<Vec<_>>());
        let (size, n) = ([batch.rows, batch.columns], batch.targets.len());
        let inputs = Inputs::new(model.config(), batch.ids, &batch.places, size, 0, &FlexDevice)?;
        let hidden = model.forward(&inputs, &None::<AnyAdapter<B>>, &Pass::training(Noise::default()), None);
        let [rows, columns, d] = hidden.dims();
        let from = Tensor::<B, 1, Int>::from_data(TensorData::new(batch.from, [n]), &FlexDevice);
        let targets = Tensor::<B, 2, Int>::from_data(TensorData::new(batch.targets, [n, 1]), &FlexDevice);
        let hidden = hidden.reshape([rows * columns, d]).select(0, from);
        // The embeddings learn as the output layer too, which a frozen table does not.
        let logits = hidden.matmul(model.output_rows().transpose());
        Ok(log_softmax(logits, 1).gather(1, targets).neg().sum_dim(0).reshape([1]) / n as f64)
    })?;
    write_half(&model.tensors(), &dir)
}

fn write_config(vocabulary: usize, dir: &Path) -> Result<()> {
    let [hidden, layers, heads, intermediate] = SHAPE;
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden / heads,
        "intermediate_size": intermediate,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": EOS,
        "dtype": "float16",
    });
    Ok(write_file(&dir.join("config.json"), format!("{config:#}\n").as_bytes())?)
}

/// A checkpoint of first values, so that loading is the one way into a model.
fn write_first_values(seed: u64, dir: &Path) -> Result<()> {
    let config = DecoderConfig::read(dir)?;
    let normal = |name: &str, shape: [usize; 2]| {
        Seed(seed).normal::<Flex, 2>(name, shape, 0.02, &FlexDevice).val().into_data()
    };
    let mut tensors = Tensors::new();
    let table = "model.embed_tokens.weight";
    tensors.insert(table.to_owned(), normal(table, [config.vocab_size, config.hidden]));
    let mut norms = vec!["model.norm".to_owned()];
    for layer in 0..config.n_layers {
        norms
            .extend(["input", "post_attention"].map(|name| format!("model.layers.{layer}.{name}_layernorm")));
    }
    for path in norms {
        let ones = TensorData::new(vec![1.0_f32; config.hidden], [config.hidden]);
        tensors.insert(format!("{path}.weight"), ones);
    }
    for target in config.linears() {
        let name = format!("{}.weight", target.name);
        tensors.insert(name.clone(), normal(&name, [target.d_out, target.d_in]));
    }
    Ok(write_safetensors(&dir.join("model.safetensors"), &tensors, &[("format", "pt")])?)
}
