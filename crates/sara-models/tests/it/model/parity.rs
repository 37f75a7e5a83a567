//! Outputs of transformers: padded batches, text pairs, every kind of file.

use sara_core::Seed;
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::Inputs;
use sara_ops::LayerOps;
use serde::Deserialize;

use super::{FIXTURES, assert_close, changed, fixture, floats, golden_inputs, outputs, stored};

/// Runs each test on every backend of this build.
macro_rules! on_backends {
    ($($test:ident),* $(,)?) => {
        mod flex {
            $(#[test] fn $test() { super::$test::<burn_flex::Flex>(); })*
        }
        #[cfg(feature = "ndarray")]
        mod ndarray {
            $(#[test] fn $test() { super::$test::<burn_ndarray::NdArray>(); })*
        }
    };
}

on_backends!(
    padded_batches_equal_transformers,
    texts_and_pairs_equal_transformers,
    a_row_alone_equals_the_row_in_its_batch,
    half_precision_files_are_read_exactly,
);

fn padded_batches_equal_transformers<B: LayerOps>() {
    for (name, n_labels) in FIXTURES {
        let device = B::Device::default();
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let loaded = checkpoint.load::<B>(n_labels, Seed(0), &device).unwrap();
        let golden = stored(&fixture(name).join("golden.safetensors"));
        let inputs = golden_inputs::<B>(&checkpoint, &golden, &device);
        let [hidden, logits] = outputs(&checkpoint, &loaded, &inputs);

        // Padded positions are computed too, but what they hold is nobody's business.
        let mask = super::ints(&golden["attention_mask"]);
        let d = checkpoint.config.hidden;
        let counted = |values: Vec<f32>| -> Vec<f32> {
            values
                .chunks(d)
                .zip(&mask)
                .filter(|(_, counts)| **counts == 1)
                .flat_map(|(row, _)| row.to_vec())
                .collect()
        };
        let found = counted(hidden.iter().collect());
        let n = found.len();
        let expected = counted(floats(&golden["last_hidden_state"]));
        assert_close(&burn::tensor::TensorData::new(found, [n]), &expected, &format!("{name} hidden"));
        if let Some(expected) = golden.get("logits") {
            assert_close(&logits, &floats(expected), &format!("{name} logits"));
            assert!(loaded.notes.is_empty(), "{name}: {:?}", loaded.notes);
        } else {
            assert!(!loaded.notes.is_empty(), "{name} has no head and says nothing");
        }
    }
}

#[derive(Deserialize)]
struct Texts {
    max_length: usize,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    input_ids: Vec<i32>,
    token_type_ids: Vec<i32>,
    attention_mask: Vec<u8>,
    logits: Option<Vec<f32>>,
}

fn texts_and_pairs_equal_transformers<B: LayerOps>() {
    for (name, n_labels) in FIXTURES {
        let device = B::Device::default();
        let texts = std::fs::read(fixture(name).join("texts.json")).unwrap();
        let Texts { max_length, rows } = serde_json::from_slice(&texts).unwrap();
        let Some(expected) = rows.iter().map(|row| row.logits.clone()).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let loaded = checkpoint.load::<B>(n_labels, Seed(0), &device).unwrap();
        let shape = [rows.len(), max_length];
        let mask = rows.iter().flat_map(|row| row.attention_mask.iter().map(|&value| value == 1)).collect();
        let ids = rows.iter().flat_map(|row| row.input_ids.clone()).collect();
        let types = rows.iter().flat_map(|row| row.token_type_ids.clone()).collect();
        let inputs = Inputs::new(&checkpoint.config, ids, types, mask, shape, &device).unwrap();
        let [_, logits] = outputs(&checkpoint, &loaded, &inputs);
        assert_close(&logits, &expected.concat(), name);
    }
}

fn a_row_alone_equals_the_row_in_its_batch<B: LayerOps>() {
    for name in ["roberta-cls3", "bert-cls3"] {
        let device = B::Device::default();
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let loaded = checkpoint.load::<B>(3, Seed(0), &device).unwrap();
        let golden = stored(&fixture(name).join("golden.safetensors"));
        // The second row has 5 tokens and 7 of padding.
        let (from, length) = (12, 5);
        let cut = |key: &str| super::ints(&golden[key])[from..from + length].to_vec();
        let (ids, types, mask) = (cut("input_ids"), cut("token_type_ids"), vec![true; length]);
        let inputs = Inputs::<B>::new(&checkpoint.config, ids, types, mask, [1, length], &device).unwrap();
        assert!(inputs.mask.is_none());
        let [_, logits] = outputs(&checkpoint, &loaded, &inputs);
        assert_close(&logits, &floats(&golden["logits"])[3..6], name);
    }
}

fn half_precision_files_are_read_exactly<B: LayerOps>() {
    let device = B::Device::default();
    let rounded = |value: f32| half::f16::from_f32(value);
    let in_f16 = changed("roberta-cls3", |tensors| {
        for entry in tensors.values_mut() {
            entry.2 = floats(entry).into_iter().flat_map(|value| rounded(value).to_le_bytes()).collect();
            entry.0 = safetensors::Dtype::F16;
        }
    });
    let in_f32 = changed("roberta-cls3", |tensors| {
        for entry in tensors.values_mut() {
            entry.2 = floats(entry).into_iter().flat_map(|v| rounded(v).to_f32().to_le_bytes()).collect();
        }
    });
    let golden = stored(&fixture("roberta-cls3").join("golden.safetensors"));
    let [half, full] = [in_f16, in_f32].map(|dir| {
        let checkpoint = EncoderCheckpoint::open(dir.path()).unwrap();
        let loaded = checkpoint.load::<B>(3, Seed(0), &device).unwrap();
        let inputs = golden_inputs::<B>(&checkpoint, &golden, &device);
        outputs(&checkpoint, &loaded, &inputs)[1].to_vec::<f32>().unwrap()
    });
    assert_eq!(half, full);
    assert_ne!(full, floats(&golden["logits"]), "rounding to f16 changed nothing");
}
