//! Checkpoints written again: the same bytes where nothing changed, the merged weights where something did.

use sara_models::architecture::{Architecture, Family};
use std::path::Path;

use burn_flex::{Flex, FlexDevice};
use safetensors::Dtype;
use sara_core::{Backbone, MethodConfig, Pass, RankPlan, Seed};
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::config::EncoderConfig;
use sara_models::train::TaskHead;
use serde_json::Value;

use super::{FIXTURES, Stored, answer, assert_close, changed, fixture, golden_inputs, outputs, stored};

/// All tensors of a directory, whatever number of files they lie in.
fn all(dir: &Path) -> Stored {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|path| {
        path.extension().is_some_and(|end| end == "safetensors") && !path.ends_with("golden.safetensors")
    });
    weights.flat_map(|path| stored(&path)).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn nothing_adapted_means_the_same_bytes() {
    let device = FlexDevice;
    for (name, n_labels) in FIXTURES {
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let loaded = checkpoint.load::<Flex>(n_labels, Seed(0), &device).unwrap();
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("deep/merged");
        checkpoint.save_merged(&out, &loaded.model, None).unwrap();
        assert_eq!(all(&out), all(&fixture(name)), "{name}");
        assert_eq!(json(&out.join("config.json")), json(&fixture(name).join("config.json")), "{name}");
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let [ours, theirs] = [&out, &fixture(name)].map(|dir| std::fs::read(dir.join(file)).unwrap());
            assert_eq!(ours, theirs, "{name} {file}");
        }
        let left: Vec<_> = std::fs::read_dir(out.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "temporary files stay behind");
    }
}

#[test]
fn a_head_goes_along_and_loads_again() {
    let device = FlexDevice;
    let labels = ["no", "perhaps", "yes", "often"].map(str::to_owned);
    for (name, _) in FIXTURES {
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let loaded = checkpoint.load_with_new_head::<Flex>(4, Seed(7), &device).unwrap();
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("merged");
        checkpoint
            .save_merged(&out, &loaded.model, loaded.head.saved(&answer(&labels)).unwrap().as_ref())
            .unwrap();

        let again = EncoderCheckpoint::open(&out).unwrap();
        assert_eq!(again.config.labels.as_deref(), Some(&labels[..]), "{name}");
        let reloaded = again.load::<Flex>(4, Seed(99), &device).unwrap();
        assert!(reloaded.notes.is_empty(), "{name}: {:?}", reloaded.notes);
        let family = again.config.family;
        let strays: Vec<_> = all(&out)
            .into_keys()
            .filter(|key| !key.starts_with(&format!("{}.", family.name())) && !key.starts_with("classifier."))
            .collect();
        assert!(strays.is_empty(), "{name}: {strays:?}");

        let golden = stored(&fixture(name).join("golden.safetensors"));
        let inputs = golden_inputs(&checkpoint, &golden, &device);
        let [before, after] = [(&checkpoint, &loaded), (&again, &reloaded)]
            .map(|(checkpoint, loaded)| outputs(checkpoint, loaded, &inputs)[1].to_vec::<f32>().unwrap());
        if name == "roberta-reg" {
            // The base is bf16, and the head became so too: 8 bits of mantissa.
            assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 0.01), "{before:?} {after:?}");
        } else {
            assert_eq!(before, after, "{name}");
        }
    }
}

#[test]
fn the_configuration_names_the_new_labels_and_keeps_the_rest() {
    let device = FlexDevice;
    let base = changed("bert-cls3", |_| ());
    let mut config = json(&base.path().join("config.json"));
    config["num_labels"] = 3.into();
    config["problem_type"] = "single_label_classification".into();
    config["custom"] = "kept".into();
    std::fs::write(base.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = EncoderCheckpoint::open(base.path()).unwrap();
    let loaded = checkpoint.load_with_new_head::<Flex>(1, Seed(0), &device).unwrap();
    let out = base.path().join("merged");
    let labels = ["score".to_owned()];
    checkpoint
        .save_merged(&out, &loaded.model, loaded.head.saved(&answer(&labels)).unwrap().as_ref())
        .unwrap();
    let written = json(&out.join("config.json"));
    assert_eq!(written["id2label"], serde_json::json!({"0": "score"}));
    assert_eq!(written["label2id"], serde_json::json!({"score": 0}));
    assert_eq!(written["architectures"][0], "BertForSequenceClassification");
    assert_eq!(written["custom"], "kept");
    assert!(written.get("num_labels").is_none() && written.get("problem_type").is_none());
    assert_eq!(EncoderConfig::read(&out).unwrap().labels.unwrap(), labels);

    let two = ["a".to_owned(), "b".to_owned()];
    let fails = |out: &Path, labels: &[String]| {
        let saved = loaded.head.saved(&answer(labels));
        saved
            .and_then(|head| checkpoint.save_merged(out, &loaded.model, head.as_ref()))
            .unwrap_err()
            .to_string()
    };
    assert!(fails(base.path(), &labels).contains("is the checkpoint that is merged into"));
    assert!(fails(&base.path().join("other"), &two).contains("2 names for a head of 1"));
    assert!(!base.path().join("other").exists());
}

#[test]
fn merged_weights_compute_what_the_adapter_computed() {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&fixture("roberta-cls3")).unwrap();
    let loaded = checkpoint.load::<Flex>(3, Seed(0), &device).unwrap();
    let plan = RankPlan::constant(&checkpoint.config.linears(), 2).unwrap();
    let adapter = MethodConfig::all()
        .remove(0)
        .init::<Flex>(checkpoint.config.shape(), &plan, Seed(1), &device)
        .unwrap();
    // Adapters start at the backbone: move this one.
    let mut moved = sara_core::parameters::collect(&adapter);
    for (name, data) in &mut moved {
        let value = if name.ends_with("up") { 0.2 } else { 0.1 };
        *data = burn::tensor::TensorData::full(data.shape.clone(), value as f32);
    }
    let adapter = sara_core::parameters::restore(adapter, &moved, "test").unwrap();
    let golden = stored(&fixture("roberta-cls3").join("golden.safetensors"));
    let inputs = golden_inputs(&checkpoint, &golden, &device);
    let pass = Pass::evaluation();
    let adapted = loaded.head.forward(loaded.model.forward(&inputs, &adapter, &pass), &pass).into_data();
    let adapted = adapted.to_vec::<f32>().unwrap();
    assert!(
        adapted.iter().zip(super::floats(&golden["logits"])).any(|(a, b)| (a - b).abs() > 0.1),
        "nothing moved"
    );

    let (merged, _) = loaded.model.merge(&adapter).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("merged");
    checkpoint.save_merged(&out, &merged, None).unwrap();
    let again = EncoderCheckpoint::open(&out).unwrap();
    let reloaded = again.load::<Flex>(3, Seed(0), &device).unwrap();
    let [_, logits] = outputs(&again, &reloaded, &inputs);
    assert_close(&logits, &adapted, "merged");
    // Only the weights of the linear layers differ from the base's.
    let (before, after) = (all(&fixture("roberta-cls3")), all(&out));
    let differing: Vec<_> = before
        .iter()
        .filter(|(name, tensor)| after[*name] != **tensor)
        .map(|(name, _)| name.clone())
        .collect();
    let mut expected: Vec<_> =
        checkpoint.config.linears().iter().map(|target| format!("{}.weight", target.name)).collect();
    expected.sort();
    assert_eq!(differing, expected);
}

#[test]
fn a_merged_checkpoint_keeps_the_dtype_of_its_base() {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&fixture("roberta-reg")).unwrap();
    let loaded = checkpoint.load_with_new_head::<Flex>(2, Seed(0), &device).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("merged");
    let labels = ["a".to_owned(), "b".to_owned()];
    checkpoint
        .save_merged(&out, &loaded.model, loaded.head.saved(&answer(&labels)).unwrap().as_ref())
        .unwrap();
    assert!(all(&out).values().all(|(dtype, ..)| *dtype == Dtype::BF16));
}

#[test]
fn a_value_that_its_dtype_cannot_hold_is_an_error() {
    let device = FlexDevice;
    let base = changed("bert-cls3", |tensors| {
        let entry = tensors.get_mut("bert.encoder.layer.1.attention.self.value.weight").unwrap();
        entry.2 =
            super::floats(entry).into_iter().flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect();
        entry.0 = Dtype::F16;
    });
    let checkpoint = EncoderCheckpoint::open(base.path()).unwrap();
    let mut model = checkpoint.load::<Flex>(3, Seed(0), &device).unwrap().model;
    // 1e6 times as large: too large for f16, not for the f32 of the other layers.
    for (_, linear) in model.linears_mut() {
        linear.weight = linear.weight.clone().map(|weight| weight * 1e6);
    }
    let out = base.path().join("merged");
    let message = checkpoint.save_merged(&out, &model, None).unwrap_err().to_string();
    let expected =
        "1 tensors do not fit: bert.encoder.layer.1.attention.self.value.weight: not finite in F16";
    assert!(message.ends_with(expected), "{message}");
    assert!(!out.exists());
}
