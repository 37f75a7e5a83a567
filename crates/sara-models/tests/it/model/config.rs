//! What `config.json` means, and what is refused.

use sara_core::Targets;
use sara_models::architecture::{Architecture, Family};
use sara_models::encoder::config::{EncoderConfig, EncoderFamily};
use serde_json::json;

use super::fixture;

fn read(config: &serde_json::Value) -> Result<EncoderConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    EncoderConfig::read(dir.path()).map_err(|error| error.to_string())
}

#[test]
fn what_the_file_leaves_out_is_what_transformers_has() {
    let roberta = read(&json!({"model_type": "roberta"})).unwrap();
    let bert = read(&json!({"model_type": "bert"})).unwrap();
    assert_eq!((roberta.vocab_size, roberta.pad_id, roberta.type_vocab), (50_265, 1, 2));
    assert_eq!((bert.vocab_size, bert.pad_id, bert.type_vocab), (30_522, 0, 2));
    for config in [&roberta, &bert] {
        assert_eq!(
            (config.hidden, config.n_layers, config.n_heads, config.intermediate),
            (768, 12, 12, 3072)
        );
        assert!((config.layer_norm_eps - 1e-12).abs() < 1e-20);
        assert_eq!(config.labels, None);
    }
    assert_eq!((roberta.usable_length(), bert.usable_length()), (510, 512));
    // The sizes that are published for the base models.
    assert_eq!(bert.parameter_count(), 109_482_240);
    let released = json!({"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1});
    assert_eq!(read(&released).unwrap().parameter_count(), 124_055_040);
    assert_eq!(roberta.head_count(2), 592_130);
    assert_eq!(bert.head_count(2), 1538);
}

#[test]
fn labels_follow_the_rules_of_transformers() {
    let labels = |extra: serde_json::Value| {
        let mut config = json!({"model_type": "bert", "architectures": ["BertForSequenceClassification"]});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(&config).map(|config| config.labels.unwrap())
    };
    assert_eq!(labels(json!({})).unwrap(), ["LABEL_0", "LABEL_1"]);
    assert_eq!(labels(json!({"id2label": {"1": "b", "0": "a", "2": "c"}})).unwrap(), ["a", "b", "c"]);
    let eleven: serde_json::Map<_, _> = (0..11).map(|i| (i.to_string(), json!(format!("n{i}")))).collect();
    assert_eq!(labels(json!({"id2label": eleven})).unwrap()[10], "n10");
    let disagreeing = json!({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 2});
    assert_eq!(labels(disagreeing).unwrap(), ["LABEL_0", "LABEL_1"]);
    assert_eq!(labels(json!({"num_labels": 1, "problem_type": "regression"})).unwrap(), ["LABEL_0"]);
    for refused in [
        json!({"id2label": {"zero": "a", "1": "b"}}),
        json!({"id2label": {}}),
        json!({"problem_type": "ranking"}),
        json!({"num_labels": 1, "problem_type": "single_label_classification"}),
    ] {
        assert!(labels(refused.clone()).is_err(), "{refused}");
    }
}

#[test]
fn what_is_not_computed_here_is_refused_in_one_line() {
    let cases = [
        (json!({"model_type": "llama"}), "supported are"),
        (json!({}), "model_type is missing; supported are roberta and bert"),
        (json!({"model_type": "bert", "hidden_act": "gelu_new"}), "gelu_new"),
        (json!({"model_type": "bert", "position_embedding_type": "relative_key"}), "relative_key"),
        (json!({"model_type": "bert", "is_decoder": true}), "is_decoder"),
        (json!({"model_type": "bert", "num_attention_heads": 7}), "divide"),
        (json!({"model_type": "bert", "num_attention_heads": 0}), "num_attention_heads"),
        (json!({"model_type": "bert", "hidden_dropout_prob": 1.5}), "1.5"),
        (json!({"model_type": "roberta", "max_position_embeddings": 2}), "max_position_embeddings"),
        (json!({"model_type": "bert", "hidden_size": "wide"}), "config.json"),
    ];
    for (config, part) in cases {
        let message = read(&config).unwrap_err();
        assert!(message.contains(part) && message.lines().count() == 1, "{config}: {message}");
    }
}

#[test]
fn linears_have_the_names_of_the_files() {
    for (name, family) in [("roberta-cls3", EncoderFamily::Roberta), ("bert-cls3", EncoderFamily::Bert)] {
        let config = EncoderConfig::read(&fixture(name)).unwrap();
        assert_eq!(config.family, family);
        let stored = super::stored(&fixture(name).join("model.safetensors"));
        let linears = config.linears();
        assert_eq!(linears.len(), 12);
        for target in &linears {
            assert_eq!(stored[&format!("{}.weight", target.name)].1, [target.d_out, target.d_in]);
        }
        let all: usize = stored
            .iter()
            .filter(|(name, _)| !name.starts_with("classifier."))
            .map(|(_, t)| t.1.iter().product::<usize>())
            .sum();
        assert_eq!(config.parameter_count(), all);
        let head: usize = stored
            .iter()
            .filter(|(name, _)| name.starts_with("classifier."))
            .map(|(_, t)| t.1.iter().product::<usize>())
            .sum();
        assert_eq!(config.head_count(3), head);
        let named = |name: &str| Targets::Named(vec![name.to_owned()]).select(&linears).unwrap().len();
        assert_eq!([named("query"), named("dense"), named("attention.output.dense")], [2, 6, 2]);
    }
}
