//! Tokenizer files that contradict each other, or lack one: ids and types are those of transformers.

use std::path::{Path, PathBuf};

use sara_models::tokenizer::Tokenizer;
use serde_json::Value;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers")
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn ids_and_types_are_those_of_transformers() {
    let text = std::fs::read_to_string(cases().join("cases.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for (case, rows) in all.as_object().unwrap() {
        let loaded = Tokenizer::load(&cases().join(case));
        let Some(rows) = rows.as_array() else {
            let message = loaded.unwrap_err().to_string();
            assert!(!message.contains('\n') && message.contains(case.as_str()), "{message}");
            continue;
        };
        let tokenizer = loaded.unwrap();
        for row in rows {
            let max_tokens = row["max_tokens"].as_u64().map_or(usize::MAX, |n| usize::try_from(n).unwrap());
            let found = tokenizer
                .encode(row["text"].as_str().unwrap(), row["text_pair"].as_str(), max_tokens)
                .unwrap();
            if (&found.ids, &found.types) != (&numbers(&row["ids"]), &numbers(&row["types"])) {
                wrong.push(format!("{case}: {row} became {:?} {:?}", found.ids, found.types));
            }
            if let Some(decoded) = row["decoded"].as_str() {
                let found = tokenizer.decode(&numbers(&row["ids"])).unwrap();
                if found != decoded {
                    wrong.push(format!("{case}: {row} was decoded as {found:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_not_done_here_is_named() {
    let refused = |settings: Value, words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for file in ["tokenizer.json", "config.json"] {
            std::fs::copy(cases().join("bert-cased").join(file), dir.path().join(file)).unwrap();
        }
        std::fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word) && !message.contains('\n'), "no `{word}` in {message}");
        }
    };
    refused(
        serde_json::json!({"tokenizer_class": "AlbertTokenizerFast"}),
        &[
            "tokenizer_config.json",
            "tokenizer_class AlbertTokenizerFast is not supported",
            "PreTrainedTokenizerFast",
        ],
    );
    refused(serde_json::json!({"do_lower_case": null}), &["do_lower_case is null", "true or false"]);
    refused(
        serde_json::json!({"truncation_side": "middle"}),
        &["truncation_side is middle", "left or right"],
    );
    refused(serde_json::json!({"model_input_names": null}), &["model_input_names is null"]);
    refused(serde_json::json!({"cls_token": null}), &["cls_token is null"]);
    refused(serde_json::json!({"cls_token": {"content": "[CLS]"}}), &["cls_token is {", "string"]);
}
