//! Adapters as PEFT saves them in situations that occur: the outputs are PEFT's, or a line says why not.

use std::path::{Path, PathBuf};

use burn_flex::{Flex, FlexDevice};
use sara_core::Pass;
use sara_models::adapted::Adapted;
use sara_models::encoder::config::EncoderConfig;
use serde_json::Value;

use super::command::Workplace;
use super::model::{assert_close, fixture, floats, golden_inputs, stored};

fn case(name: &str) -> PathBuf {
    fixture("peft-found").join(name)
}

fn opened(name: &str, base: &str) -> Result<Adapted<Flex>, String> {
    Adapted::<Flex, EncoderConfig>::open(&fixture(base), Some(&case(name)), &FlexDevice)
        .map_err(|error| error.to_string())
}

/// The logits on the case's own batch are those of PEFT; returns what was said.
fn assert_is(adapted: &Adapted<Flex>, golden: &Path, what: &str) {
    let golden = stored(&golden.join("golden.safetensors"));
    let inputs = golden_inputs::<Flex>(&adapted.checkpoint, &golden, &FlexDevice);
    let pass = Pass::evaluation();
    let first = adapted.model.first_token(&inputs, &adapted.trained.adapter, &pass);
    let logits = adapted.trained.head.forward(first, &pass);
    assert_close(&logits.into_data(), &floats(&golden["logits"]), what);
}

#[test]
fn adapters_as_they_are_found_give_the_outputs_of_peft() {
    let text = std::fs::read_to_string(case("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    for (name, about) in cases.as_object().unwrap() {
        let base = about["base"].as_str().unwrap();
        if about["refused"] == true || name == "bin" {
            let message = opened(name, base).unwrap_err();
            assert!(!message.contains('\n'), "{message}");
            continue;
        }
        let adapted = opened(name, base).unwrap_or_else(|message| panic!("{name}: {message}"));
        let golden = case(name);
        assert_is(&adapted, &golden, name);
        // Merged it is the same model.
        let (merged, _) = adapted.merge().unwrap();
        assert_is(&merged, &golden, &format!("{name}, merged"));
        compared += 1;
    }
    assert!(compared >= 15, "{compared} of {}", cases.as_object().unwrap().len());
}

#[test]
fn what_is_refused_is_named() {
    for (name, base, words) in [
        ("two-named", "bert-cls3", &["several adapters", "mnli", "sst"][..]),
        ("token-cls", "bert-cls3", &["task_type TOKEN_CLS", "SEQ_CLS"]),
        ("embeddings-changed", "bert-cls3", &["embeddings that are not the model's", "merge the adapter"]),
        ("embeddings-resized", "bert-cls3", &["embeddings that are not the model's"]),
        ("saved-norms", "bert-cls3", &["LayerNorm", "not a task head"]),
        ("saved-nested", "roberta-cls3", &["modules_to_save holds `out_proj`", "saved as a whole too"]),
        ("bin", "bert-cls3", &["adapter_model.bin alone", "save_pretrained"]),
    ] {
        let message = opened(name, base).unwrap_err();
        for word in words {
            assert!(message.contains(word), "{name}: no `{word}` in {message}");
        }
    }
}

/// PEFT has no place for the names of classes; ours keeps them through its files.
#[test]
fn class_names_come_back_from_the_files_of_peft() {
    let place = Workplace::of_fixture("roberta-mlm");
    place.run_file("[method.lora]\nrank = 2", "batch_size = 2\nmax_steps = 2");
    place.sara_ok(&["train", "--config", "run.toml"]);
    let predict = |adapter: &str, out: &str| {
        let args =
            ["predict", "--model", "model", "--data", "valid.jsonl", "--adapter", adapter, "--out", out];
        place.sara_ok(&args);
        std::fs::read_to_string(place.path(out)).unwrap()
    };
    let from_peft = predict("run/peft", "b");
    assert_eq!(predict("run/adapter", "a"), from_peft);
    assert!(["positive", "negative", "neutral"].iter().any(|name| from_peft.contains(name)), "{from_peft}");
    let config: Value =
        serde_json::from_slice(&std::fs::read(place.path("run/peft/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["base_model_name_or_path"], "model", "as it was given");
}
