//! Checkpoints as they are found: in other words, under other names, with other things beside them.

use std::path::Path;

use burn_flex::{Flex, FlexDevice};
use safetensors::Dtype;
use sara_core::Seed;
use sara_models::encoder::EncoderCheckpoint;
use sara_models::train::TaskHead;
use serde_json::{Value, json};

use super::{answer, assert_close, changed, fixture, floats, golden_inputs, outputs, stored};

/// The logits on the batch of the fixture `base` are its own; returns the notes of loading.
#[track_caller]
fn assert_is(dir: &Path, base: &str, what: &str) -> Vec<String> {
    let checkpoint = EncoderCheckpoint::open(dir).unwrap();
    assert!(checkpoint.has_head(), "{what}");
    let loaded = checkpoint.load::<Flex>(3, Seed(0), &FlexDevice).unwrap();
    let golden = stored(&fixture(base).join("golden.safetensors"));
    let inputs = golden_inputs::<Flex>(&checkpoint, &golden, &FlexDevice);
    let [_, logits] = outputs(&checkpoint, &loaded, &inputs);
    assert_close(&logits, &floats(&golden["logits"]), what);
    loaded.notes
}

fn configure(dir: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    // As Python writes what JSON does not know.
    std::fs::write(&path, config.to_string().replace("\"NAN\"", "NaN").replace("\"INF\"", "Infinity"))
        .unwrap();
}

fn labels(dir: &Path) -> Option<Vec<String>> {
    EncoderCheckpoint::open(dir).unwrap().config.labels
}

#[test]
fn a_configuration_in_other_words_is_the_same_model() {
    let named = ["negative", "neutral", "positive"];
    let gap = ["negative", "LABEL_1", "positive"];
    let numbers = ["1", "2", "3.5"];
    let none = ["LABEL_0", "LABEL_1", "LABEL_2"];
    for base in ["roberta-cls3", "bert-cls3"] {
        for (key, value, expected) in [
            ("architectures", Value::Null, named),
            ("architectures", json!([]), named),
            ("architectures", json!(["MyOwnForSequenceClassification"]), named),
            ("architectures", json!("AnyForSequenceClassification"), named),
            ("id2label", json!({"0": "negative", "2": "positive"}), gap),
            ("id2label", json!({"0": "negative", "1": null, "2": "positive"}), gap),
            ("id2label", json!({"0": 1, "1": 2, "2": 3.5}), numbers),
            (
                "id2label",
                json!({"0": "negative", "1": "neutral", "7": "odd"}),
                ["negative", "neutral", "LABEL_2"],
            ),
            ("id2label", Value::Null, none),
            ("num_labels", json!(3), named),
            ("unknown", json!("NAN"), named),
            ("more", json!(["INF", "a"]), named),
            ("hidden_dropout_prob", Value::Null, named),
            ("initializer_range", Value::Null, named),
            ("is_decoder", Value::Null, named),
            ("hidden_act", Value::Null, named),
            ("problem_type", Value::Null, named),
        ] {
            let dir = changed(base, |_| {});
            configure(dir.path(), |config| _ = config.insert(key.to_owned(), value.clone()));
            let what = format!("{base}, {key} = {value}");
            assert!(assert_is(dir.path(), base, &what).is_empty(), "{what}");
            assert_eq!(labels(dir.path()).unwrap(), expected, "{what}");
        }
    }
}

#[test]
fn the_head_of_another_task_is_left_out_and_named() {
    let dir = changed("bert-cls3", |_| {});
    configure(dir.path(), |config| {
        config.insert("architectures".to_owned(), json!(["BertForTokenClassification"]));
    });
    let checkpoint = EncoderCheckpoint::open(dir.path()).unwrap();
    assert!(!checkpoint.has_head() && checkpoint.config.labels.is_none());
    let notes = checkpoint.load::<Flex>(3, Seed(0), &FlexDevice).unwrap().notes;
    assert_eq!(
        notes,
        [
            "classifier is new, drawn from seed 0, and trained",
            "of no use to this model and left out: classifier.bias, classifier.weight"
        ]
    );
    // One without a head says nothing of a head.
    let bare = changed("roberta-cls3", |tensors| tensors.retain(|name, _| !name.starts_with("classifier.")));
    configure(bare.path(), |config| _ = config.shift_remove("architectures"));
    assert_eq!(labels(bare.path()), None);
}

#[test]
fn what_stands_beside_the_model_is_left_out_and_named() {
    let extra = |name: &str| (name.to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    let names =
        ["loss_fct.weight", "class_weights", "projection.0.weight", "ema.decay", "roberta.pooler.dense.bias"];
    let dir = changed("roberta-cls3", |tensors| tensors.extend(names.map(extra)));
    assert_eq!(
        assert_is(dir.path(), "roberta-cls3", "more"),
        [
            "of no use to this model and left out: class_weights, ema.decay, loss_fct.weight, projection.0.weight"
        ]
    );
}

#[test]
fn names_of_wrappers_are_taken_off() {
    for base in ["roberta-cls3", "bert-cls3"] {
        let family = format!("{}.", base.split('-').next().unwrap());
        for (backbone, around) in [
            ("module.FAMILY", "module."),
            ("_orig_mod.FAMILY", "_orig_mod."),
            ("model.FAMILY", "model."),
            ("module._orig_mod.FAMILY", "module._orig_mod."),
            ("", ""),
            ("model.", ""),
            ("0.auto_model.", ""),
        ] {
            let dir = changed(base, |tensors| {
                let renamed = |(name, tensor): (String, _)| match name.strip_prefix(&family) {
                    Some(rest) => (format!("{}{rest}", backbone.replace("FAMILY", &family)), tensor),
                    None => (format!("{around}{name}"), tensor),
                };
                *tensors = std::mem::take(tensors).into_iter().map(renamed).collect();
            });
            let what = format!("{base}, {backbone}");
            assert!(assert_is(dir.path(), base, &what).is_empty(), "{what}");
            // Merged and written again it has the names of the library.
            let checkpoint = EncoderCheckpoint::open(dir.path()).unwrap();
            let loaded = checkpoint.load::<Flex>(3, Seed(0), &FlexDevice).unwrap();
            let head =
                loaded.head.saved(&answer(checkpoint.config.labels.as_ref().unwrap())).unwrap().unwrap();
            let out = dir.path().join("out");
            checkpoint.save_merged(&out, &loaded.model, Some(&head)).unwrap();
            let written = stored(&out.join("model.safetensors"));
            let expected = stored(&fixture(base).join("model.safetensors"));
            assert!(written.keys().eq(expected.keys()), "{what}: {:?}", written.keys());
            assert_is(&out, base, &what);
        }
    }
}

#[test]
fn double_precision_is_read_and_written() {
    let dir = changed("roberta-cls3", |tensors| {
        for tensor in tensors.values_mut() {
            let values: Vec<f32> = floats(tensor);
            *tensor = (
                Dtype::F64,
                tensor.1.clone(),
                values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect(),
            );
        }
    });
    assert!(assert_is(dir.path(), "roberta-cls3", "f64").is_empty());
    let checkpoint = EncoderCheckpoint::open(dir.path()).unwrap();
    let loaded = checkpoint.load::<Flex>(3, Seed(0), &FlexDevice).unwrap();
    let out = dir.path().join("out");
    checkpoint.save_merged(&out, &loaded.model, None).unwrap();
    let (written, before) =
        (stored(&out.join("model.safetensors")), stored(&dir.path().join("model.safetensors")));
    assert!(written == before, "nothing was merged");
}

#[test]
fn files_that_are_no_weights_are_called_what_they_are() {
    let error = |dir: &Path| {
        let message = EncoderCheckpoint::open(dir).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    };
    let dir = changed("roberta-cls3", |_| {});
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    std::fs::write(dir.path().join("model.safetensors"), pointer).unwrap();
    assert!(
        error(dir.path()).contains("model.safetensors: is a pointer of Git LFS"),
        "{}",
        error(dir.path())
    );
    std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin")).unwrap();
    let message = error(dir.path());
    assert!(message.contains("only pytorch_model.bin") && message.contains("save_pretrained"), "{message}");
    let dir = changed("roberta-cls3", |tensors| {
        let name = "roberta.encoder.layer.0.attention.self.query";
        let weight = tensors.remove(&format!("{name}.weight")).unwrap();
        tensors.insert(format!("{name}.base_layer.weight"), weight);
    });
    let message = error(dir.path());
    assert!(message.contains("PEFT wrapper inside") && message.contains("unload()"), "{message}");
    let dir = changed("roberta-cls3", |tensors| {
        let table = tensors["roberta.embeddings.word_embeddings.weight"].clone();
        for side in ["query", "passage"] {
            tensors.insert(format!("{side}.embeddings.word_embeddings.weight"), table.clone());
        }
        tensors.remove("roberta.embeddings.word_embeddings.weight");
    });
    let message = error(dir.path());
    assert!(message.contains("several models, `passage.` and `query.`"), "{message}");
}

/// An index that leaves out a buffer in one of its files.
#[test]
fn a_buffer_that_the_index_does_not_name_is_left_out() {
    let dir = changed("roberta-cls3", |tensors| {
        let ids = (Dtype::I64, vec![1], vec![0; 8]);
        tensors.insert("roberta.embeddings.position_ids".to_owned(), ids);
    });
    let names = stored(&fixture("roberta-cls3").join("model.safetensors"));
    std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("one.safetensors")).unwrap();
    let map: Value = names
        .keys()
        .map(|name| (name.clone(), json!("one.safetensors")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    std::fs::write(dir.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .unwrap();
    assert!(assert_is(dir.path(), "roberta-cls3", "index").is_empty());
}
