//! Conversations as transformers renders them, token by token and span by span, for the templates of `tests/golden/chat`.

use std::ops::Range;
use std::path::Path;

use sara_models::causal_lm::template::{ChatTemplate, Ending};
use sara_models::tokenizer::{Frame, Tokenizer};
use serde_json::{Map, Value};

use super::model::fixture;

const TEMPLATES: [&str; 5] = ["folded", "headers", "tools", "loops", "generation"];

fn cases(dir: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap()
}

fn template(name: &str) -> ChatTemplate {
    ChatTemplate::load(&fixture("chat").join(name)).unwrap().unwrap()
}

/// Spans in bytes as spans in characters.
fn in_characters(text: &str, spans: &[Range<usize>]) -> Vec<[usize; 2]> {
    let place = |byte: usize| text[..byte].chars().count();
    spans.iter().map(|span| [place(span.start), place(span.end)]).collect()
}

#[test]
fn conversations_are_those_of_transformers() {
    let tokenizer = Tokenizer::load(&fixture("chat/tokenizer")).unwrap();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for name in TEMPLATES {
        let template = template(name);
        for case in cases(&fixture("chat").join(name)) {
            let what = format!("{name}: {}", case["name"]);
            let messages = case["messages"].as_array().unwrap();
            let extra: &Map<String, Value> = case["extra"].as_object().unwrap();
            let text = template.text(messages, extra, Ending::Turn);
            if case["error"] == "raised" {
                match (text, case["message"].as_str()) {
                    (Ok(text), _) => wrong.push(format!("{what}: rendered {text:?}")),
                    (Err(error), Some(message)) if !error.to_string().contains(message) => {
                        wrong.push(format!("{what}: {error}"));
                    }
                    _ => {}
                }
                continue;
            }
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    wrong.push(format!("{what}: {error}"));
                    continue;
                }
            };
            if text != case["text"].as_str().unwrap() {
                wrong.push(format!("{what}:\n  {text:?}\n  {}", case["text"]));
                continue;
            }
            let cut = match messages.last() {
                Some(last) if last["role"] == "assistant" => &messages[..messages.len() - 1],
                _ => messages,
            };
            if !cut.is_empty() {
                let prompt = template.text(cut, extra, Ending::Prompt).map_err(|error| error.to_string());
                if prompt.as_deref() != Ok(case["prompt"].as_str().unwrap()) {
                    wrong.push(format!("{what}, prompt:\n  {prompt:?}\n  {}", case["prompt"]));
                }
            }
            let ids = tokenizer.tokens(&text, Frame::Bare).unwrap().ids;
            assert_eq!(serde_json::json!(ids), case["ids"], "{what}");
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of the cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(compared, 83);
}

#[test]
fn what_the_assistant_says_is_what_transformers_marks() {
    let tokenizer = Tokenizer::load(&fixture("chat/tokenizer")).unwrap();
    let (mut wrong, mut changed, mut compared) = (Vec::new(), 0, 0);
    for name in TEMPLATES {
        let template = template(name);
        for case in cases(&fixture("chat").join(name)) {
            let what = format!("{name}: {}", case["name"]);
            if case["error"] == "raised" {
                continue;
            }
            let messages = case["messages"].as_array().unwrap();
            let rendered = template.conversation(messages, case["extra"].as_object().unwrap());
            if case["error"] == "changed" {
                let message = rendered.unwrap_err().to_string();
                assert!(message.contains("changes earlier text with a later turn"), "{what}: {message}");
                changed += 1;
                continue;
            }
            // The template leaves a turn out, which nobody who trains on it can mean.
            if what == "loops: \"system later\"" {
                let message = rendered.unwrap_err().to_string();
                assert!(message.contains("passes over turn 3, whose role is system"), "{message}");
                continue;
            }
            let rendered = match rendered {
                Ok(rendered) => rendered,
                Err(error) => {
                    wrong.push(format!("{what}: {error}"));
                    continue;
                }
            };
            let spans = serde_json::json!(in_characters(&rendered.text, &rendered.said));
            if spans != case["spans"] {
                wrong.push(format!("{what}: {spans}, not {}", case["spans"]));
                continue;
            }
            let tokens = tokenizer.tokens(&rendered.text, Frame::Bare).unwrap();
            let mask: Vec<u8> = rendered.trained(&tokens).into_iter().map(u8::from).collect();
            assert_eq!(serde_json::json!(mask), case["mask"], "{what}");
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of the cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((changed, compared), (4, 78));
}
