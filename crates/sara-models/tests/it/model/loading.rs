//! Loading is strict, and says all that is wrong at once.

use burn::tensor::Tensor;
use burn_flex::{Flex, FlexDevice};
use safetensors::Dtype;
use sara_core::{Backbone, Seed, WeightSource};
use sara_models::architecture::{Architecture, Family};
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::Inputs;
use sara_models::encoder::config::EncoderConfig;

use super::{changed, fixture, stored};

/// What opening and loading for three labels says.
fn failure(dir: &std::path::Path) -> String {
    let device = FlexDevice;
    let loaded =
        EncoderCheckpoint::open(dir).and_then(|checkpoint| checkpoint.load::<Flex>(3, Seed(0), &device));
    let message = loaded.map(|_| ()).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn one_error_lists_every_tensor_that_does_not_fit() {
    let dir = changed("roberta-cls3", |tensors| {
        tensors.remove("roberta.encoder.layer.1.output.dense.bias");
        tensors.insert("roberta.encoder.layer.2.output.dense.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
        let key = "roberta.encoder.layer.0.attention.self.key.weight";
        tensors.insert(key.into(), (Dtype::F32, vec![16, 64], vec![0; 4096]));
        let nan = tensors.get_mut("roberta.embeddings.word_embeddings.weight").unwrap();
        nan.2[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        let infinite = tensors.get_mut("roberta.encoder.layer.1.intermediate.dense.weight").unwrap();
        infinite.2[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let ints = tensors.get_mut("roberta.embeddings.LayerNorm.bias").unwrap();
        ints.0 = Dtype::I32;
    });
    let message = failure(dir.path());
    for part in [
        "model.safetensors",
        "6 tensors",
        "roberta.encoder.layer.1.output.dense.bias: missing, expected [32]",
        "roberta.encoder.layer.2.output.dense.bias: unknown",
        "roberta.encoder.layer.0.attention.self.key.weight: expected [32, 32], found [16, 64]",
        "roberta.embeddings.word_embeddings.weight: 1 of 10240 values are not finite",
        "roberta.encoder.layer.1.intermediate.dense.weight: 1 of 1536 values are not finite",
        "roberta.embeddings.LayerNorm.bias: expected F64, F32, F16 or BF16, found I32",
    ] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    let whole = std::fs::read(fixture("roberta-cls3").join("model.safetensors")).unwrap();
    let mut long_header = whole.clone();
    long_header[..8].copy_from_slice(&(whole.len() as u64).to_le_bytes());
    let mut huge_header = whole.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let overlapping = {
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header, &[0; 6]].concat()
    };
    for bytes in
        [&whole[..whole.len() - 1], &whole[..100], &whole[..3], &[], &long_header, &huge_header, &overlapping]
    {
        let dir = changed("roberta-cls3", |_| ());
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let message = failure(dir.path());
        assert!(message.contains("model.safetensors: not a whole safetensors file"), "{message}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(failure(empty.path()).contains("config.json"));
    std::fs::copy(fixture("roberta-cls3").join("config.json"), empty.path().join("config.json")).unwrap();
    assert!(failure(empty.path()).contains("no model.safetensors"));
}

#[test]
fn an_index_that_lies_is_an_error() {
    let index = std::fs::read_to_string(fixture("roberta-reg").join("model.safetensors.index.json")).unwrap();
    let elsewhere = index.replacen("model-00001-of", "../model-00001-of", 1);
    let other = index.replacen("roberta.embeddings.LayerNorm.bias", "roberta.embeddings.LayerNorm.none", 1);
    let wrong_file = index.replacen("model-00001-of-00002", "model-00002-of-00002", 1);
    let missing_file = index.replacen("model-00001-of", "model-00007-of", 1);
    for text in [elsewhere, other, wrong_file, missing_file, "{}".to_owned()] {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture("roberta-reg")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        let message = failure(dir.path());
        assert!(
            message.contains("model.safetensors.index.json") || message.contains("model-00007"),
            "{message}"
        );
    }
}

#[test]
fn a_head_for_another_number_of_labels_needs_to_be_asked_for() {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&fixture("bert-cls3")).unwrap();
    assert!(checkpoint.has_head());
    let message = checkpoint.load::<Flex>(5, Seed(0), &device).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("classifier.weight: expected [5, 32], found [3, 32]"), "{message}");
    assert!(checkpoint.load::<Flex>(0, Seed(0), &device).is_err());
    let loaded = checkpoint.load_with_new_head::<Flex>(5, Seed(0), &device).unwrap();
    assert_eq!(loaded.head.n_labels(), 5);
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
}

#[test]
fn other_heads_and_buffers_are_left_aside() {
    let device = FlexDevice;
    let mlm = EncoderCheckpoint::open(&fixture("roberta-mlm")).unwrap();
    assert!(!mlm.has_head());
    mlm.load::<Flex>(2, Seed(0), &device).unwrap();
    let extra = |tensors: &mut super::Stored, names: &[&str]| {
        tensors.extend(names.iter().map(|&name| (name.to_owned(), (Dtype::I64, vec![1], vec![0; 8]))));
    };
    let bert = changed("bert-cls3", |tensors| {
        extra(
            tensors,
            &["cls.predictions.bias", "cls.seq_relationship.weight", "bert.embeddings.position_ids"],
        );
    });
    EncoderCheckpoint::open(bert.path()).unwrap().load::<Flex>(3, Seed(0), &device).unwrap();
    let roberta = changed("roberta-cls3", |tensors| extra(tensors, &["roberta.pooler.dense.weight"]));
    EncoderCheckpoint::open(roberta.path()).unwrap().load::<Flex>(3, Seed(0), &device).unwrap();
    // In BERT the pooler is used, so one in another shape is not left aside.
    let pooler = changed("bert-cls3", |tensors| extra(tensors, &["bert.pooler.dense.weight"]));
    assert!(failure(pooler.path()).contains("bert.pooler.dense.weight: expected [32, 32], found [1]"));
}

#[test]
fn linears_hold_the_weights_transposed_and_their_source_as_they_lie() {
    let device = FlexDevice;
    for name in ["roberta-cls3", "bert-bare"] {
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let model = checkpoint.load::<Flex>(3, Seed(0), &device).unwrap().model;
        let file = stored(&fixture(name).join("model.safetensors"));
        let targets = checkpoint.config.linears();
        let linears = model.linears();
        assert_eq!(linears.len(), targets.len());
        let mut source = checkpoint.weight_source::<Flex>(&device);
        for (target, (site, linear)) in targets.iter().zip(linears) {
            assert_eq!(target.site, site);
            let expected = super::floats(&file[&format!("{}.weight", checkpoint.path_of(target))]);
            let weight: Tensor<Flex, 2> = linear.weight.val();
            assert_eq!(weight.dims(), [target.d_in, target.d_out]);
            assert_eq!(weight.clone().transpose().into_data().to_vec::<f32>().unwrap(), expected);
            // One orientation, of layers that are square and of those that are not.
            source.weight(target).unwrap().into_data().assert_eq(&weight.into_data(), true);
        }
        let mut unknown = targets[0].clone();
        unknown.name = "roberta.encoder.layer.9.output.dense".to_owned();
        assert!(source.weight(&unknown).unwrap_err().to_string().contains("missing"));
    }
}

#[test]
fn a_batch_beyond_the_tables_is_an_error() {
    let device = FlexDevice;
    let config = EncoderConfig::read(&fixture("roberta-cls3")).unwrap();
    let inputs = |ids: Vec<i32>, types: Vec<i32>| {
        let n = ids.len();
        Inputs::<Flex>::new(&config, ids, types, vec![true; n], [1, n], &device).map(|_| ())
    };
    assert!(inputs(vec![5; 38], vec![0; 38]).is_ok());
    assert!(inputs(vec![5; 39], vec![0; 39]).unwrap_err().to_string().contains("38"));
    assert!(inputs(vec![320], vec![0]).unwrap_err().to_string().contains("320"));
    assert!(inputs(vec![-1], vec![0]).is_err());
    assert!(inputs(vec![5], vec![1]).unwrap_err().to_string().contains("type 1"));
    assert!(inputs(vec![5], vec![]).is_err());
    assert!(inputs(vec![], vec![]).is_err());
}
