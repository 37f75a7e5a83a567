//! The decoders against transformers, on the small checkpoints of `tests/golden`.

use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexDevice};
use sara_core::{AnyAdapter, Backbone, MethodConfig, Pass, RankPlan, Seed};
use sara_models::architecture::Architecture;
use sara_models::causal_lm::generate::{Limits, Next, Sampling, Stop, answers, generate};
use sara_models::checkpoint::WeightType;
use sara_models::decoder::{Cache, DecoderCheckpoint, Inputs, LoadedDecoder, Place};

use sara_ops::LayerOps;
use serde_json::{Map, Value, json};

use super::model::{assert_close, fixture, floats, ints, stored};

/// Every checkpoint.
const FIXTURES: [&str; 11] = [
    "llama-mha",
    "llama-gqa",
    "llama-linear",
    "llama-dynamic",
    "llama-llama3",
    "llama-yarn",
    "llama-bias",
    "mistral-window",
    "qwen2",
    "qwen2-window",
    "qwen3",
];

fn open<B: LayerOps>(name: &str) -> (DecoderCheckpoint, LoadedDecoder<B>, AnyAdapter<B>) {
    let device = B::Device::default();
    let checkpoint = DecoderCheckpoint::open(&fixture(name)).unwrap();
    let loaded = checkpoint.load::<B>(WeightType::F32, &device).unwrap();
    let lora = MethodConfig::all().remove(0);
    let none = lora.init(checkpoint.config.shape(), &RankPlan::default(), Seed(0), &device).unwrap();
    (checkpoint, loaded, none)
}

fn texts(ids: &[i32], columns: usize) -> Vec<Vec<u32>> {
    ids.chunks(columns).map(|row| row.iter().map(|&id| id as u32).collect()).collect()
}

fn logits_equal_transformers<B: LayerOps>() {
    let device = B::Device::default();
    for name in FIXTURES {
        let (checkpoint, LoadedDecoder { model, notes }, none) = open::<B>(name);
        assert_eq!(notes, Vec::<String>::new(), "{name}");
        let golden = stored(&fixture(name).join("golden.safetensors"));
        let texts = texts(&ints(&golden["input_ids"]), golden["input_ids"].1[1]);
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let inputs = Inputs::of_texts(&checkpoint.config, &texts, &device).unwrap();
        let logits = model.logits(model.forward(&inputs, &none, &Pass::evaluation(), None));
        assert_close(&logits.into_data(), &floats(&golden["logits"]), name);
        let all: usize = model_values(&checkpoint);
        assert_eq!(checkpoint.config.parameter_count(), all, "{name}");
    }
}

#[test]
fn logits_are_those_of_transformers() {
    logits_equal_transformers::<Flex>();
}

#[cfg(feature = "ndarray")]
#[test]
fn logits_are_those_of_transformers_on_ndarray() {
    logits_equal_transformers::<burn_ndarray::NdArray>();
}

/// How many values the files have.
fn model_values(checkpoint: &DecoderCheckpoint) -> usize {
    let files = std::fs::read_dir(&checkpoint.dir).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        name.starts_with("model") && name.ends_with(".safetensors")
    });
    weights
        .flat_map(|path| stored(&path).into_values())
        .map(|(_, shape, _)| shape.iter().product::<usize>())
        .sum()
}

/// With keys and values kept from token to token, and with all computed anew for each.
#[test]
fn greedy_tokens_are_those_of_transformers() {
    for name in FIXTURES {
        let (checkpoint, LoadedDecoder { model, .. }, none) = open::<Flex>(name);
        let golden = stored(&fixture(name).join("golden.safetensors"));
        for prompt in 0..3 {
            let ids = |key: &str| -> Vec<u32> {
                ints(&golden[&format!("{key}.{prompt}")]).into_iter().map(|id| id as u32).collect()
            };
            let limits = Limits { max_new_tokens: 64, ..Limits::default() };
            let written =
                generate(&model, &none, &ids("prompt"), &Sampling::default(), &limits, |_| Next::Go);
            let written = written.unwrap();
            assert_eq!((written.tokens, written.stop), (ids("greedy"), Stop::Length), "{name} {prompt}");

            let mut all = ids("prompt");
            for expected in ids("greedy_uncached") {
                let inputs = Inputs::of_texts(&checkpoint.config, &[&all], &FlexDevice).unwrap();
                let hidden = model.forward(&inputs, &none, &Pass::evaluation(), None);
                let logits = model.logits(hidden.narrow(1, all.len() - 1, 1));
                let likeliest = logits.argmax(2).into_data().iter::<u32>().next().unwrap();
                assert_eq!(likeliest, expected, "{name} {prompt}, token {}", all.len());
                all.push(likeliest);
            }
        }
    }
}

/// Prompts of other lengths beside one another, padded on the left: each goes on as it does alone.
#[test]
fn texts_go_on_together_as_they_do_alone() {
    for name in FIXTURES {
        let (_, LoadedDecoder { model, .. }, none) = open::<Flex>(name);
        let golden = stored(&fixture(name).join("golden.safetensors"));
        let all = |key: &str| -> Vec<Vec<u32>> {
            (0..3)
                .map(|i| ints(&golden[&format!("{key}.{i}")]).into_iter().map(|id| id as u32).collect())
                .collect()
        };
        let prompts = all("prompt");
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let limits = Limits { max_new_tokens: 64, ..Limits::default() };
        let written = answers(&model, &none, &prompts, &limits).unwrap();
        assert_eq!(written, all("greedy"), "{name}");
        // transformers turns every row by the length of the longest.
        assert_eq!(written == all("greedy_batched"), name != "llama-dynamic", "{name}");
    }
}

/// Rows of other lengths, padding before a text, and texts behind one another in a row change no logit.
#[test]
fn neighbours_change_nothing() {
    for name in ["llama-gqa", "mistral-window", "llama-dynamic"] {
        let (checkpoint, LoadedDecoder { model, .. }, none) = open::<Flex>(name);
        let config = &checkpoint.config;
        let golden = stored(&fixture(name).join("golden.safetensors"));
        let whole = texts(&ints(&golden["input_ids"]), golden["input_ids"].1[1]);
        let (a, b) = (whole[0].as_slice(), &whole[1][..9]);
        let logits =
            |inputs: &Inputs<Flex>| model.logits(model.forward(inputs, &none, &Pass::evaluation(), None));
        let alone = |text: &[u32]| logits(&Inputs::of_texts(config, &[text], &FlexDevice).unwrap());
        let width = config.vocab_size;
        let values = |x: burn::tensor::Tensor<Flex, 3>| -> Vec<f32> { x.into_data().iter().collect() };
        let (of_a, of_b) = (values(alone(a)), values(alone(b)));

        let padded = logits(&Inputs::of_texts(config, &[a, b], &FlexDevice).unwrap());
        assert_close(&padded.clone().narrow(0, 0, 1).into_data(), &of_a, name);
        assert_close(&padded.narrow(0, 1, 1).narrow(1, 0, b.len()).into_data(), &of_b, name);

        let place = |start: usize, text: &[u32]| -> Vec<Option<Place>> {
            let place = |position| Some(Place { start, position, length: text.len() });
            (0..text.len()).map(place).collect()
        };
        let ids = |parts: &[&[u32]]| -> Vec<i32> { parts.concat().into_iter().map(|id| id as i32).collect() };
        let places = [place(0, b), place(b.len(), a)].concat();
        let packed =
            Inputs::new(config, ids(&[b, a]), &places, [1, a.len() + b.len()], 0, &FlexDevice).unwrap();
        let packed = values(logits(&packed));
        assert_close(
            &TensorData::new(packed, [(a.len() + b.len()) * width]),
            &[of_b.clone(), of_a].concat(),
            name,
        );

        let places = [vec![None; 5], place(5, b)].concat();
        let behind =
            Inputs::new(config, ids(&[&[0; 5], b]), &places, [1, 5 + b.len()], 0, &FlexDevice).unwrap();
        assert_close(&logits(&behind).narrow(1, 5, b.len()).into_data(), &of_b, name);
    }
}

#[test]
fn a_text_without_room_is_refused() {
    let (_, LoadedDecoder { model, .. }, none) = open::<Flex>("llama-mha");
    let usable = model.config().usable_length();
    let limits = Limits { max_new_tokens: 10, context: Some(12), ..Limits::default() };
    let error = generate(&model, &none, &[1, 2, 3], &Sampling::default(), &limits, |_| Next::Go).unwrap_err();
    assert_eq!(
        error.to_string(),
        "3 tokens of prompt and 10 new ones are more than the context of 12; shorten the prompt or lower max-new-tokens"
    );
    let limits = Limits { context: Some(usable + 1), ..limits };
    let error = generate(&model, &none, &[1], &Sampling::default(), &limits, |_| Next::Go).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("context = {}: expected at most {usable}", usable + 1)),
        "{error}"
    );
    let limits = Limits { context: None, ..limits };
    for (prompt, part) in
        [(vec![], "the prompt has no tokens"), (vec![100_000], "token id 100000 is not in 0..")]
    {
        let error =
            generate(&model, &none, &prompt, &Sampling::default(), &limits, |_| Next::Go).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// A cache knows how much it holds, and a text ends where whoever watches it says so, or by its last token.
#[test]
fn a_text_ends_as_it_is_told() {
    let (checkpoint, LoadedDecoder { model, .. }, none) = open::<Flex>("llama-gqa");
    assert_eq!(Cache::<Flex>::new(&checkpoint.config).seen(), 0);
    let limits = Limits { max_new_tokens: 8, ..Limits::default() };
    let write = |limits: &Limits, end: usize| {
        let watch = |tokens: &[u32]| if tokens.len() == end { Next::Stop } else { Next::Go };
        generate(&model, &none, &[5, 6, 7], &Sampling::default(), limits, watch).unwrap()
    };
    let whole = write(&limits, 0);
    assert_eq!((whole.tokens.len(), whole.stop), (8, Stop::Length));
    let watched = write(&limits, 3);
    assert_eq!((watched.tokens.as_slice(), watched.stop), (&whole.tokens[..3], Stop::Text));
    let last = whole.tokens[4];
    let before = whole.tokens.iter().position(|&token| token == last).unwrap();
    let ended = write(&Limits { eos: vec![last], ..limits }, 0);
    assert_eq!((ended.tokens.as_slice(), ended.stop), (&whole.tokens[..before], Stop::Eos));
}

/// A copy of a fixture with another `config.json`.
fn changed(name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let path = dir.path().join("config.json");
    let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    dir
}

fn refusal(dir: &std::path::Path) -> String {
    let opened = DecoderCheckpoint::open(dir)
        .and_then(|checkpoint| checkpoint.load::<Flex>(WeightType::F32, &FlexDevice));
    let message = opened.map(|_| ()).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn what_is_not_computed_here_is_refused_in_one_line() {
    let cases: [(&str, &str, Value, &str); 16] = [
        ("llama-mha", "model_type", json!("gemma"), "model_type is gemma; supported are llama, mistral"),
        ("llama-mha", "architectures", json!(["LlamaForSequenceClassification"]), "does not predict text"),
        ("llama-mha", "hidden_act", json!("gelu"), "hidden_act gelu is not supported"),
        (
            "llama-mha",
            "rope_scaling",
            json!({"rope_type": "su", "factor": 4}),
            "has the type su, which is not supported",
        ),
        ("llama-mha", "rope_scaling", json!({"type": "linear"}), "rope_scaling has no factor"),
        (
            "llama-mha",
            "rope_scaling",
            json!({"type": "linear", "factor": -1}),
            "rope_scaling.factor is -1; write a number",
        ),
        ("llama-mha", "rope_scaling", json!("linear"), "rope_scaling is \"linear\"; write an object"),
        ("llama-mha", "partial_rotary_factor", json!(0.5), "partial_rotary_factor 0.5 is not supported"),
        ("llama-mha", "quantization_config", json!({"bits": 4}), "the weights are quantised on disk"),
        ("llama-mha", "num_key_value_heads", json!(3), "3 heads of keys do not divide 4"),
        ("llama-mha", "head_dim", json!(7), "head_dim 7 does not make pairs"),
        ("llama-mha", "num_hidden_layers", json!(0), "num_hidden_layers is 0"),
        ("llama-mha", "intermediate_size", json!(10_000_000_000_000_u64), "one of them is wrong"),
        ("llama-mha", "vocab_size", json!(7), "expected [7, 32], found"),
        ("qwen2-window", "layer_types", json!(["full_attention"]), "layer_types has 1 entries for 3 layers"),
        ("mistral-window", "sliding_window", json!(0), "sliding_window is 0"),
    ];
    for (name, key, value, part) in cases {
        let dir = changed(name, |config| _ = config.insert(key.to_owned(), value.clone()));
        let message = refusal(dir.path());
        assert!(message.contains(part), "{key} = {value}: {message}");
    }
}

#[test]
fn damaged_shards_are_errors_that_name_them() {
    let shard = "model-00002-of-00002.safetensors";
    let index = "model.safetensors.index.json";
    let dir = changed("llama-mha", |_| {});
    std::fs::remove_file(dir.path().join(shard)).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains(shard), "{message}");

    let dir = changed("llama-mha", |_| {});
    let path = dir.path().join(index);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(shard, "model-00003-of-00002.safetensors")).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("model-00003-of-00002.safetensors"), "{message}");

    let dir = changed("llama-mha", |_| {});
    let path = dir.path().join(index);
    let twice = format!("\"weight_map\": {{\"model.norm.weight\": \"{shard}\",");
    std::fs::write(&path, text.replace("\"weight_map\": {", &twice)).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains(index) && message.contains("names `model.norm.weight` twice"), "{message}");

    // An output of its own that is not there, and one that is there and tied.
    let dir =
        changed("llama-gqa", |config| _ = config.insert("tie_word_embeddings".to_owned(), json!(false)));
    assert!(refusal(dir.path()).contains("lm_head.weight: missing"), "{}", refusal(dir.path()));
}

/// What the file leaves out is what transformers has, and `null` is not always the same as nothing.
#[test]
fn defaults_are_those_of_transformers() {
    use sara_models::architecture::Family;
    use sara_models::decoder::config::DecoderConfig;
    let read = |config: Value| DecoderConfig::parse(&config.to_string()).unwrap();
    let llama = read(json!({"model_type": "llama"}));
    assert_eq!((llama.vocab_size, llama.hidden, llama.n_layers, llama.n_heads), (32_000, 4096, 32, 32));
    assert_eq!(
        (llama.n_kv_heads, llama.head_dim, llama.intermediate, llama.max_positions),
        (32, 128, 11_008, 2048)
    );
    // The size that is published for the first LLaMA of 7 billion.
    assert_eq!(llama.parameter_count(), 6_738_415_616);
    let mistral = read(json!({"model_type": "mistral"}));
    assert_eq!((mistral.n_kv_heads, mistral.windows[0], mistral.intermediate), (8, Some(4096), 14_336));
    assert_eq!(mistral.parameter_count(), 7_241_732_096);
    let unlimited = read(json!({"model_type": "mistral", "sliding_window": null, "num_key_value_heads": 4}));
    assert_eq!((unlimited.windows[0], unlimited.n_kv_heads), (None, 4));
    let qwen2 = read(json!({"model_type": "qwen2", "num_attention_heads": 16, "num_key_value_heads": null}));
    assert_eq!((qwen2.n_kv_heads, qwen2.windows[0], qwen2.attention_bias), (16, None, [true, false]));
    let qwen3 = read(json!({"model_type": "qwen3", "use_sliding_window": true, "max_window_layers": 30}));
    assert_eq!((qwen3.head_dim, qwen3.windows[29], qwen3.windows[30]), (128, None, Some(4096)));
    assert!(qwen3.head_norms && !qwen3.tied && qwen3.attention_bias == [false; 2]);
    // Contexts: scaled where the kind of scaling lengthens them.
    let context = |scaling: Value| {
        read(json!({"model_type": "llama", "max_position_embeddings": 4096, "rope_scaling": scaling}))
            .usable_length()
    };
    assert_eq!(context(json!({"type": "linear", "factor": 4})), 16_384);
    assert_eq!(context(json!({"type": "dynamic", "factor": 2})), 8192);
    let yarn = json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 2048});
    assert_eq!(context(yarn), 8192);
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 2048});
    assert_eq!(context(llama3), 4096);
}

/// What a checkpoint in this type makes of the texts beside it, so many at once, and the type of its table.
fn logits(name: &str, weight_type: WeightType, at_once: usize) -> (Vec<f32>, DType) {
    let checkpoint = DecoderCheckpoint::open(&fixture(name)).unwrap();
    let LoadedDecoder { model, notes } = checkpoint.load::<Flex>(weight_type, &FlexDevice).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    let (_, _, none) = open::<Flex>(name);
    let golden = stored(&fixture(name).join("golden.safetensors"));
    let texts = texts(&ints(&golden["input_ids"]), golden["input_ids"].1[1]);
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let logits = texts.chunks(at_once).flat_map(|texts| {
        let inputs = Inputs::of_texts(&checkpoint.config, texts, &FlexDevice).unwrap();
        let logits = model.logits(model.forward(&inputs, &none, &Pass::evaluation(), None));
        logits.into_data().iter().collect::<Vec<f32>>()
    });
    (logits.collect(), model.output_rows().dtype())
}

/// A file of 16 bits is computed from as it is: to the last digit what its values give in f32; another one is rounded.
#[test]
fn weights_of_16_bits_stay_so_and_give_the_same() {
    let golden = |name: &str| floats(&stored(&fixture(name).join("golden.safetensors"))["logits"]);
    let (kept, dtype) = logits("llama-gqa", WeightType::Checkpoint, 1);
    assert_eq!(dtype, DType::BF16);
    let expected = golden("llama-gqa");
    assert_close(&TensorData::from(kept.as_slice()), &expected, "bf16 as it is");
    // Of more tokens the processor may multiply pairs of bf16, for which it rounds what goes into a layer as well.
    let (together, _) = logits("llama-gqa", WeightType::Checkpoint, 2);
    let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let moved = together.iter().zip(&expected).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f32::max);
    assert!(moved < 0.03, "{moved}");
    assert_eq!(logits("llama-gqa", WeightType::F32, 2).1, DType::F32);
    assert_eq!(logits("llama-mha", WeightType::Checkpoint, 2).1, DType::F32);
    let expected = golden("llama-bias");
    let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let rounded = |weight_type: WeightType, kept: DType| {
        let (found, dtype) = logits("llama-bias", weight_type, 1);
        assert_eq!(dtype, kept);
        found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f32::max)
    };
    // What torch's logits move by where its matrices are rounded likewise and multiplied in f32.
    let (bf16, f16) = (rounded(WeightType::Bf16, DType::BF16), rounded(WeightType::F16, DType::F16));
    assert!((bf16 - 0.019_815).abs() < 1e-5 && (f16 - 0.005_684).abs() < 1e-5, "{bf16} {f16}");
}

/// Blocks of 8 and 4 bits: the logits of transformers with its matrices rounded likewise. Where blocks do not divide a
/// row, nothing is loaded.
#[test]
fn weights_of_8_and_4_bits_give_the_logits_of_their_codes() {
    let golden = stored(&fixture("llama-blocks").join("golden.safetensors"));
    let changes = [WeightType::Checkpoint, WeightType::Int8, WeightType::Int4].map(|weight_type| {
        let (found, dtype) = logits("llama-blocks", weight_type, 1);
        let name = match weight_type {
            WeightType::Int8 => "logits_int8",
            WeightType::Int4 => "logits_int4",
            _ => "logits",
        };
        assert_eq!(matches!(dtype, DType::QFloat(_)), weight_type != WeightType::Checkpoint);
        assert_close(&TensorData::from(found.as_slice()), &floats(&golden[name]), name);
        let all = found.iter().zip(floats(&golden["logits"]));
        all.map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max)
    });
    assert!(changes[0] * 10.0 < changes[1] && changes[1] * 3.0 < changes[2], "{changes:?}");
    // What changes a weight has no place in few bits.
    let checkpoint = DecoderCheckpoint::open(&fixture("llama-blocks")).unwrap();
    let targets = checkpoint.config.default_targets();
    let lora: MethodConfig = serde_json::from_value(json!({"lora": {}})).unwrap();
    let (adapter, _) = checkpoint.new_adapter::<Flex>(&lora, &targets, Seed(0), &FlexDevice).unwrap();
    let model = checkpoint.load::<Flex>(WeightType::Int4, &FlexDevice).unwrap().model;
    let place = tempfile::tempdir().unwrap();
    let written = checkpoint.save_merged(&place.path().join("out"), &model, None).unwrap_err().to_string();
    let merged = model.merge(&adapter).map(|_| ()).unwrap_err().to_string();
    for message in [written, merged] {
        assert!(message.starts_with("the weight of 0-query is in 8 or 4 bits"), "{message}");
    }
    assert!(!place.path().join("out").exists());

    let checkpoint = DecoderCheckpoint::open(&fixture("llama-mha")).unwrap();
    for (weight_type, name) in [(WeightType::Int8, "int8"), (WeightType::Int4, "int4")] {
        let message = checkpoint.load::<Flex>(weight_type, &FlexDevice).map(|_| ()).unwrap_err().to_string();
        let expected = format!(
            "dtype = {name} for model.layers.0.mlp.down_proj, whose rows have 48 values: expected a type without blocks"
        );
        assert!(message.starts_with(&expected), "{message}");
    }
}
