//! Heads: what is trained, what is new, and the names under which they are saved.

use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::parameters::{Tensors, count_trained};
use sara_core::{Noise, Pass, Seed};
use sara_models::architecture::Architecture;
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::config::Dropouts;
use sara_models::train::TaskHead;

use super::{FIXTURES, assert_close, changed, fixture, floats, golden_inputs, no_adapter, outputs, stored};

#[test]
fn the_backbone_is_frozen_and_the_head_trained() {
    let device = FlexDevice;
    for (name, n_labels) in FIXTURES {
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let loaded = checkpoint.load::<Autodiff<Flex>>(n_labels, Seed(0), &device).unwrap();
        assert_eq!(count_trained(&loaded.model), 0, "{name}");
        assert_eq!(count_trained(&loaded.head), checkpoint.config.head_count(n_labels), "{name}");
    }
}

#[test]
fn names_and_orientation_are_those_of_the_file() {
    let device = FlexDevice;
    for (name, modules) in [("roberta-cls3", ["classifier"]), ("bert-cls3", ["classifier"])] {
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let head = checkpoint.load::<Flex>(3, Seed(0), &device).unwrap().head;
        assert_eq!(head.modules_to_save(), modules);
        let mut file = stored(&fixture(name).join("model.safetensors"));
        file.retain(|name, _| name.starts_with("classifier."));
        let tensors = head.tensors();
        assert!(tensors.keys().eq(file.keys()), "{:?}", tensors.keys());
        for (name, data) in &tensors {
            assert_eq!(data.shape.as_slice(), file[name].1, "{name}");
            assert_eq!(data.to_vec::<f32>().unwrap(), floats(&file[name]), "{name}");
        }
        // Into a fresh head and out again.
        let fresh = checkpoint.load_with_new_head::<Flex>(3, Seed(1), &device).unwrap().head;
        assert_ne!(fresh.tensors(), tensors);
        assert_eq!(fresh.with_tensors(&tensors, "test").unwrap().tensors(), tensors);
    }
}

#[test]
fn restoring_a_head_is_strict() {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&fixture("roberta-cls3")).unwrap();
    let head = checkpoint.load::<Flex>(3, Seed(0), &device).unwrap().head;
    let mut tensors = head.tensors();
    tensors.remove("classifier.dense.bias");
    tensors.insert("classifier.other".into(), TensorData::from([0.0f32]));
    tensors.insert("classifier.out_proj.weight".into(), TensorData::new(vec![0.0f32; 64], [2, 32]));
    let message = head.with_tensors(&tensors, "adapter.safetensors").map(|_| ()).unwrap_err().to_string();
    for part in [
        "adapter.safetensors: 3 tensors",
        "classifier.dense.bias: missing",
        "classifier.other: unknown",
        "classifier.out_proj.weight: expected [3, 32], found [2, 32]",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_pooler_from_the_file_is_frozen_and_used() {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&fixture("bert-bare")).unwrap();
    let width = checkpoint.config.hidden;
    let mut loaded = checkpoint.load::<Flex>(width, Seed(0), &device).unwrap();
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
    // An output layer that passes the pooler through.
    let eye = Tensor::<Flex, 2>::eye(width, &device).into_data();
    let identity = Tensors::from([
        ("classifier.weight".to_owned(), eye),
        ("classifier.bias".to_owned(), TensorData::new(vec![0.0f32; width], [width])),
    ]);
    loaded.head = loaded.head.with_tensors(&identity, "test").unwrap();
    let golden = stored(&fixture("bert-bare").join("golden.safetensors"));
    let inputs = golden_inputs(&checkpoint, &golden, &device);
    let [_, pooled] = outputs(&checkpoint, &loaded, &inputs);
    assert_close(&pooled, &floats(&golden["pooler_output"]), "pooler");
}

#[test]
fn a_pooler_that_is_missing_is_new_trained_and_saved() {
    let device = FlexDevice;
    let dir = changed("bert-cls3", |tensors| {
        tensors.retain(|name, _| !name.contains("pooler") && !name.starts_with("classifier"));
    });
    let checkpoint = EncoderCheckpoint::open(dir.path()).unwrap();
    let load = |seed| checkpoint.load::<Autodiff<Flex>>(2, Seed(seed), &device).unwrap();
    let loaded = load(0);
    assert_eq!(loaded.notes.len(), 2, "{:?}", loaded.notes);
    assert_eq!(loaded.head.modules_to_save(), ["classifier", "pooler"]);
    let tensors = loaded.head.tensors();
    let names: Vec<_> = tensors.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"]
    );
    assert_eq!(count_trained(&loaded.head), 33 * 32 + 33 * 2);
    assert_eq!(load(0).head.tensors(), tensors);
    assert_ne!(load(1).head.tensors(), tensors);
    // Standard deviation 0.02 over 1024 values: within 10 % but for one seed in 10^5.
    let weight = tensors["bert.pooler.dense.weight"].to_vec::<f32>().unwrap();
    let deviation = (weight.iter().map(|v| v * v).sum::<f32>() / 1024.0).sqrt();
    assert!((0.018..0.022).contains(&deviation), "{deviation}");
    assert!(tensors["bert.pooler.dense.bias"].iter::<f32>().all(|value| value == 0.0));
}

#[test]
fn dropout_acts_in_training_alone() {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&fixture("roberta-cls3")).unwrap();
    let golden = stored(&fixture("roberta-cls3").join("golden.safetensors"));
    let inputs = golden_inputs::<Autodiff<Flex>>(&checkpoint, &golden, &device);
    let adapter = no_adapter(&checkpoint, &device);
    let _noise = super::NOISE.lock();
    let run = |dropouts: Dropouts, pass: &Pass<Autodiff<Flex>>| {
        let loaded = checkpoint.load::<Autodiff<Flex>>(3, Seed(0), &device).unwrap();
        let hidden = loaded.model.with_dropout(dropouts).forward(&inputs, &adapter, pass);
        let logits = loaded.head.with_dropout(dropouts.classifier).forward(hidden, pass);
        logits.into_data().to_vec::<f32>().unwrap()
    };
    let none = Dropouts::default();
    let still = run(none, &Pass::evaluation());
    assert_eq!(run(none, &Pass::training(Noise::default())), still);
    for dropouts in [
        Dropouts { hidden: 0.5, ..none },
        Dropouts { attention: 0.5, ..none },
        Dropouts { classifier: 0.5, ..none },
    ] {
        assert_eq!(run(dropouts, &Pass::evaluation()), still, "{dropouts:?}");
        assert_ne!(run(dropouts, &Pass::training(Noise::default())), still, "{dropouts:?}");
    }
}
