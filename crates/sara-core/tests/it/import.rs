//! PEFT directories made by hand: every rule of reading them.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexDevice};
use sara_core::import::peft::{ImportedPeft, import};
use sara_core::parameters::Tensors;
use sara_core::store::write_safetensors;
use sara_core::{Adapter, Backbone, Error, NoWeights};
use serde_json::{Value, json};

use crate::tiny::{D_INNER, D_MODEL, SHAPE, Tiny, data, distance, linears};

/// Products of three f32 values of size one, summed over a few components.
const ROUNDING: f64 = 1e-6;
const QUERY: &str = "tiny.layers.0.attention.query";
const DOWN: &str = "tiny.layers.1.output.dense";

fn key(path: &str) -> String {
    format!("base_model.model.{path}")
}

/// Pairs at [`QUERY`] and [`DOWN`] of these ranks.
fn pairs(ranks: [usize; 2]) -> Tensors {
    let shapes = [(QUERY, D_MODEL, D_INNER, ranks[0]), (DOWN, D_INNER, D_MODEL, ranks[1])];
    shapes
        .into_iter()
        .flat_map(|(name, d_in, d_out, rank)| {
            let (a, b) = (key(&format!("{name}.lora_A.weight")), key(&format!("{name}.lora_B.weight")));
            [(a.clone(), data(&a, [rank, d_in])), (b.clone(), data(&b, [d_out, rank]))]
        })
        .collect()
}

fn read(config: &Value, tensors: &Tensors) -> Result<ImportedPeft, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    // Without metadata, as old files are.
    write_safetensors(&folder.path().join("adapter_model.safetensors"), tensors, &[]).unwrap();
    import(folder.path(), &linears(), SHAPE)
}

fn refusal(config: &Value, tensors: &Tensors) -> String {
    let error = read(config, tensors).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// The change at a site of the imported adapter, row by row of the input.
fn change(imported: &ImportedPeft, name: &str) -> Vec<f64> {
    let adapter = imported.stored.build::<Flex>(&mut NoWeights, &FlexDevice).unwrap();
    let site = linears().iter().find(|target| target.name == name).unwrap().site;
    let backbone = Tiny::<Flex>::new(&FlexDevice);
    let (_, linear) = backbone.linears().into_iter().find(|&(at, _)| at == site).unwrap();
    crate::tiny::values(adapter.delta(site, linear).unwrap().unwrap().weight.dense())
}

/// `scale (B A)'`, computed from the raw tensors.
pub(crate) fn product(a: &TensorData, b: &TensorData, scale: f64) -> Vec<f64> {
    let (rank, d_in, d_out) = (a.shape[0], a.shape[1], b.shape[0]);
    let (a, b): (Vec<f64>, Vec<f64>) = (a.iter::<f64>().collect(), b.iter::<f64>().collect());
    (0..d_in * d_out)
        .map(|index| (index / d_out, index % d_out))
        .map(|(i, o)| scale * (0..rank).map(|r| b[o * rank + r] * a[r * d_in + i]).sum::<f64>())
        .collect()
}

fn assert_change(imported: &ImportedPeft, tensors: &Tensors, name: &str, scale: f64) {
    let factor = |letter: &str| &tensors[&key(&format!("{name}.lora_{letter}.weight"))];
    let expected = product(factor("A"), factor("B"), scale);
    let error = distance(&change(imported, name), &expected);
    assert!(error < ROUNDING * scale.max(1.0), "{name}: {error}");
}

#[test]
fn scales_follow_the_patterns() {
    // Rank and alpha fall back to the global ones each on its own; the first key that matches wins.
    let cases = [
        (json!({"rank_pattern": {"query": 2}}), [2, 3], [7.0 / 2.0, 7.0 / 3.0]),
        (json!({"alpha_pattern": {"dense": 5}}), [3, 3], [7.0 / 3.0, 5.0 / 3.0]),
        (json!({"rank_pattern": {"layers.1.output.dense": 2, "dense": 4}}), [3, 2], [7.0 / 3.0, 7.0 / 2.0]),
        (json!({"rank_pattern": {"output.dense": 4, "dense": 2}}), [3, 4], [7.0 / 3.0, 7.0 / 4.0]),
        (json!({"rank_pattern": {r"tiny\.layers\.0\.attention\.query": 1}}), [1, 3], [7.0, 7.0 / 3.0]),
        (json!({"rank_pattern": {"query|dense": 2}, "alpha_pattern": {".*query": 1.5}}), [2, 2], [0.75, 3.5]),
        (json!({"rank_pattern": {"^tiny.*query$": 2}}), [2, 3], [3.5, 7.0 / 3.0]),
        (
            json!({"use_rslora": true, "rank_pattern": {"dense": 2}}),
            [3, 2],
            [7.0 / 3f64.sqrt(), 7.0 / 2f64.sqrt()],
        ),
    ];
    for (extra, ranks, scales) in cases {
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let tensors = pairs(ranks);
        let imported = read(&config, &tensors).unwrap();
        assert_eq!(imported.notes, Vec::<String>::new(), "{extra}");
        assert_change(&imported, &tensors, QUERY, scales[0]);
        assert_change(&imported, &tensors, DOWN, scales[1]);
    }
}

#[test]
fn keys_that_match_nothing_are_said() {
    for key in
        ["^query", "layers.1", "uery", "base_model.model.tiny.layers.0.attention.query", "query.weight"]
    {
        let config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7, "rank_pattern": {key: 2}});
        let imported = read(&config, &pairs([3, 3])).unwrap();
        assert_eq!(imported.notes, [format!("rank_pattern `{key}` matches no adapted layer")]);
    }
}

#[test]
fn defaults_are_those_of_peft() {
    // r = lora_alpha = 8, which is too wide for this model: the error shows the rank.
    let error = refusal(&json!({"peft_type": "LORA", "r": null}), &pairs([3, 3]));
    assert!(error.contains("expected [8, 6], found [3, 6]"), "{error}");
}

#[test]
fn half_precision_is_widened() {
    let config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7});
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let tensors: Tensors =
            pairs([3, 3]).into_iter().map(|(key, data)| (key, data.convert_dtype(dtype))).collect();
        let imported = read(&config, &tensors).unwrap();
        assert!(imported.stored.adapter.values().all(|data| data.dtype == DType::F32));
        assert_change(&imported, &tensors, QUERY, 7.0 / 3.0);
    }
}

#[test]
fn one_error_lists_every_tensor_that_does_not_fit() {
    let config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7});
    let mut tensors = pairs([3, 3]);
    tensors.remove(&key(&format!("{QUERY}.lora_B.weight"))).unwrap();
    tensors.insert(key(&format!("{DOWN}.lora_A.weight")), data("wrong", [D_INNER, 3]));
    tensors.insert(key("tiny.layers.7.attention.query.lora_A.weight"), data("far", [3, D_MODEL]));
    tensors.insert(key("tiny.layers.0.output.dense.lora_A.default.weight"), data("named", [3, D_INNER]));
    tensors.insert(key("tiny.layers.0.output.dense.lora_magnitude_vector"), data("dora", [D_MODEL]));
    tensors.insert(key("classifier.weight"), data("head", [2, D_MODEL]));
    tensors.insert("elsewhere".into(), data("x", [1]));
    let error = refusal(&config, &tensors);
    for part in [
        "8 tensors do not fit".replace('8', "7").as_str(),
        "tiny.layers.0.attention.query.lora_B: expected [8, 3], found nothing",
        "tiny.layers.1.output.dense.lora_A: expected [3, 8], found [8, 3]",
        "tiny.layers.7.attention.query.lora_A.weight: not a layer of this model",
        "lora_A.default.weight: the adapter's name stands in the key",
        "lora_magnitude_vector: DoRA is not supported",
        "classifier.weight: neither part of a pair nor of the task head",
        "elsewhere: neither",
    ] {
        assert!(error.contains(part), "no `{part}` in {error}");
    }
    assert!(refusal(&config, &Tensors::new()).contains("no pair"));
}

#[test]
fn options_that_change_the_result_are_refused() {
    let options = [
        json!({"use_dora": true}),
        json!({"bias": "all"}),
        json!({"bias": "lora_only"}),
        json!({"fan_in_fan_out": true}),
        json!({"layer_replication": [[0, 1]]}),
        json!({"lora_bias": true}),
        json!({"trainable_token_indices": [3]}),
        json!({"init_lora_weights": "pissa"}),
        json!({"init_lora_weights": "pissa_niter_4"}),
        json!({"init_lora_weights": "olora"}),
        json!({"modules_to_save": ["classifier", "embed_tokens"]}),
        json!({"peft_type": "LOHA"}),
        json!({"rank_pattern": {"(": 3}}),
        json!({"rank_pattern": {"query": "three"}}),
    ];
    for option in options {
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7});
        config.as_object_mut().unwrap().extend(option.as_object().unwrap().clone());
        let error = refusal(&config, &pairs([3, 3]));
        let (field, _) = option.as_object().unwrap().iter().next().unwrap();
        let said = error.contains(field) || error.contains("pattern `");
        assert!(error.contains("adapter_config.json") && said, "{option}: {error}");
    }
    assert!(refusal(&json!({"r": 3}), &pairs([3, 3])).contains("peft_type"));
    let harmless = json!({
        "peft_type": "LORA", "r": 3, "lora_alpha": 7, "bias": "none", "use_dora": false, "layer_replication": null,
        "init_lora_weights": "gaussian", "loftq_config": {}, "target_modules": "all-linear", "megatron_core": "megatron.core",
    });
    assert_eq!(read(&harmless, &pairs([3, 3])).unwrap().notes, Vec::<String>::new());
    let unknown = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7, "new_trick": 4, "new_switch": false});
    let notes = read(&unknown, &pairs([3, 3])).unwrap().notes;
    assert_eq!(notes, ["adapter_config.json has the unknown option new_trick = 4, which is ignored"]);
}

#[test]
fn a_head_belongs_to_what_is_saved() {
    let mut tensors = pairs([3, 3]);
    tensors.insert(key("classifier.weight"), data("head", [2, D_MODEL]).convert_dtype(DType::BF16));
    tensors.insert(key("tiny.pooler.dense.weight"), data("pooler", [D_MODEL, D_MODEL]));
    let config = |more: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    // PEFT saves a classifier's `classifier` or `score` whatever the list says; duplicates mean nothing.
    let saved =
        config(json!({"task_type": "SEQ_CLS", "modules_to_save": ["pooler", "classifier", "classifier"]}));
    let imported = read(&saved, &tensors).unwrap();
    assert_eq!(imported.stored.manifest.head, ["classifier", "pooler"]);
    let names: Vec<&str> = imported.head.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["classifier.weight", "tiny.pooler.dense.weight"]);
    assert!(imported.head.iter().all(|(_, data)| data.dtype == DType::F32));
    let error = refusal(&config(json!({"task_type": "SEQ_CLS"})), &tensors);
    assert!(
        error.contains("pooler.dense.weight: neither") && !error.contains("classifier.weight"),
        "{error}"
    );
    let error = refusal(&config(json!({"task_type": "SEQ_CLS"})), &pairs([3, 3]));
    assert!(error.contains("no tensor of a head"), "{error}");
}

/// AdaLoRA of these ranks; every tensor bare, without `.weight`.
fn adalora(ranks: [usize; 2]) -> Tensors {
    let mut tensors: Tensors = pairs(ranks)
        .into_iter()
        .map(|(key, data)| (key.strip_suffix(".weight").unwrap().to_owned(), data))
        .collect();
    for (name, rank) in [(QUERY, ranks[0]), (DOWN, ranks[1])] {
        tensors.insert(key(&format!("{name}.lora_E")), data(name, [rank, 1]));
    }
    tensors
}

fn assert_adalora(imported: &ImportedPeft, tensors: &Tensors, name: &str, scale: f64) {
    let factor = |letter: &str| &tensors[&key(&format!("{name}.lora_{letter}"))];
    let (a, e): (Vec<f64>, Vec<f64>) =
        (factor("A").iter::<f64>().collect(), factor("E").iter::<f64>().collect());
    let width = a.len() / e.len();
    let scaled: Vec<f64> = a.iter().enumerate().map(|(index, a)| a * e[index / width]).collect();
    let scaled = TensorData::new(scaled, factor("A").shape.clone());
    let error = distance(&change(imported, name), &product(&scaled, factor("B"), scale));
    assert!(error < ROUNDING, "{name}: {error}");
}

#[test]
fn adalora_keeps_the_scale_of_its_initial_rank() {
    let config = |pattern: Value| json!({"peft_type": "ADALORA", "r": 8, "init_r": 4, "lora_alpha": 7, "use_rslora": true, "rank_pattern": pattern});
    let scale = 7.0 / (4.0 + 1e-5);
    for pattern in [Value::Null, json!({})] {
        let tensors = adalora([4, 4]);
        let imported = read(&config(pattern), &tensors).unwrap();
        assert_adalora(&imported, &tensors, QUERY, scale);
        assert_adalora(&imported, &tensors, DOWN, scale);
    }
    let pruned = |query: Value, down: Value| {
        config(json!({format!("{QUERY}.lora_E"): query, format!("{DOWN}.lora_E"): down}))
    };
    let (two, none) = (json!([true, false, false, true]), json!([false, false, false, false]));
    let tensors = adalora([2, 0]);
    let imported = read(&pruned(two.clone(), none.clone()), &tensors).unwrap();
    assert_adalora(&imported, &tensors, QUERY, scale);
    assert_eq!(imported.stored.manifest.plan.sites.len(), 1);
    assert_eq!(imported.notes, [format!("{DOWN}: rank 0, not adapted")]);

    let error = refusal(&pruned(two.clone(), two.clone()), &tensors);
    assert!(error.contains("dense.lora_A: expected [2, 8], found [0, 8]"), "{error}");
    assert!(refusal(&pruned(two, json!([true])), &tensors).contains("4 booleans"));
    let mut partial = adalora([4, 4]);
    partial.remove(&key(&format!("{QUERY}.lora_E"))).unwrap();
    assert!(refusal(&config(Value::Null), &partial).contains("lora_E: expected [4, 1], found nothing"));
}

#[test]
fn a_missing_file_is_named() {
    let error = import(Path::new("nowhere"), &linears(), SHAPE).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}
