//! From files to padded batches, and every message on the way.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use sara_models::classify::{Batch, Classes, Dataset, Gold, Item, Labels, Lengths, collate};
use sara_models::data::{Example, Examples, Label, Task, read};
use sara_models::data::{Order, batches};
use sara_models::tokenizer::Tokenizer;
use sara_models::{Error, Result};
use serde_json::{Value, json};

const PAD: u32 = 0;
const CLS: u32 = 2;
const SEP: u32 = 3;
const A: u32 = 4;
const B: u32 = 5;
const C: u32 = 6;

/// Words `a` to `e`, BERT's frame around them, and a truncation and padding that must not count.
fn bert() -> Value {
    let special = |id: u32, name: &str| json!({"id": id, "content": name, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let piece = |name: &str, kind: u32| json!({"SpecialToken": {"id": name, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": PAD, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)],
            "pair": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0), text("B", 1), piece("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [CLS], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [SEP], "tokens": ["[SEP]"]},
            },
        },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": A, "b": B, "c": C, "d": 7, "e": 8, "##s": 40},
        },
    })
}

fn load(tokenizer: &Value) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

fn read_as(name: &str, content: impl AsRef<[u8]>, task: Task) -> Result<Examples> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    read(&path, task)
}

/// The message of the error about this file, without the directory.
fn message(name: &str, content: impl AsRef<[u8]>, task: Task) -> String {
    let message = read_as(name, content, task).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message[message.find(name).expect("the message names the file")..].to_owned()
}

fn example(text: &str, text_pair: Option<&str>, label: Option<Label>, line: usize) -> Example {
    Example { text: text.to_owned(), text_pair: text_pair.map(str::to_owned), label, line }
}

#[expect(clippy::unnecessary_wraps, reason = "an example's label is optional")]
fn name(name: &str) -> Option<Label> {
    Some(Label::Name(name.to_owned()))
}

#[expect(clippy::unnecessary_wraps, reason = "an example's label is optional")]
fn index(index: usize) -> Option<Label> {
    Some(Label::Index(index))
}

fn labelled(labels: impl IntoIterator<Item = Option<Label>>) -> Examples {
    let list =
        labels.into_iter().enumerate().map(|(index, label)| example("a b", None, label, index + 2)).collect();
    Examples { path: PathBuf::from("train.csv"), list }
}

fn checkpoint(names: &[&str]) -> Classes {
    Classes::of_checkpoint(names.iter().map(|&name| name.to_owned()).collect())
}

fn size(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap()
}

#[test]
fn json_lines_keep_text_pair_label_and_line() {
    let content = "\u{feff}{\"text\": \"a \\n\\u00e9\", \"label\": \"good\"}\r\n\
                   {\"label\": 2, \"text\": \"b\", \"text_pair\": \"c\"}\r\n\
                   {\"text\": \"c\", \"label\": null, \"text_pair\": null}\r\n\r\n";
    let examples = read_as("x.jsonl", content, Task::Classify).unwrap();
    assert_eq!(
        examples.list,
        [
            example("a \n\u{e9}", None, name("good"), 1),
            example("b", Some("c"), index(2), 2),
            example("c", None, None, 3)
        ]
    );
    let digits = read_as("x.jsonl", "{\"text\": \"a\", \"label\": \"2\"}", Task::Classify).unwrap();
    assert_eq!(digits.list[0].label, name("2"), "in JSON a string is a name");
}

#[test]
fn csv_knows_quotes_and_counts_lines_by_the_file() {
    let content =
        "\u{feff}label,text,text_pair\r\ngood,\"a, \"\"b\"\"\r\nc\",d\r\n7,plain 5\" disk,\r\n,x,y\r\n\r\n";
    let examples = read_as("x.csv", content, Task::Classify).unwrap();
    assert_eq!(
        examples.list,
        [
            example("a, \"b\"\r\nc", Some("d"), name("good"), 2),
            example("plain 5\" disk", Some(""), index(7), 4),
            example("x", Some("y"), None, 5)
        ]
    );
}

#[test]
fn tsv_takes_quotes_as_they_are() {
    let examples = read_as("x.TSV", "text\tlabel\n\"a, b\t1\nc\" d\tgood\n", Task::Classify).unwrap();
    assert_eq!(
        examples.list,
        [example("\"a, b", None, index(1), 2), example("c\" d", None, name("good"), 3)]
    );
}

#[test]
fn numbers_are_values_when_the_task_is_regress() {
    let json =
        read_as("x.jsonl", "{\"text\":\"a\",\"label\":3}\n{\"text\":\"b\",\"label\":-0.5}", Task::Regress)
            .unwrap();
    let csv = read_as("x.csv", "text,label\na,3\nb,-0.5\n", Task::Regress).unwrap();
    for examples in [json, csv] {
        let labels: Vec<_> = examples.list.into_iter().map(|example| example.label).collect();
        assert_eq!(labels, [Some(Label::Value(3.0)), Some(Label::Value(-0.5))]);
    }
}

#[test]
fn a_broken_line_is_named_with_its_number_and_a_remedy() {
    let good = "{\"text\": \"a\"}\n";
    let json = |line: &str, task| message("x.jsonl", format!("{good}{line}\n{good}"), task);
    let classify = |line: &str| json(line, Task::Classify);
    assert_eq!(
        classify("{\"text\": \"a\" \"label\": 1}"),
        "x.jsonl, line 2: is not a JSON object: expected `,` or `}` at column 14; write one object, {\"text\": \"...\"}, per line"
    );
    assert!(classify("[1]").starts_with("x.jsonl, line 2: is not a JSON object: "));
    assert_eq!(classify("  "), "x.jsonl, line 2: is empty; remove it");
    assert_eq!(
        classify("{\"text\": \"a\", \"lable\": 1}"),
        "x.jsonl, line 2: unknown key `lable`, the nearest is `label`; known here: text, text_pair, label"
    );
    assert!(classify("{\"text\": \"a\", \"textpair\": 1}").contains("the nearest is `text_pair`;"));
    assert_eq!(classify("{\"label\": 1}"), "x.jsonl, line 2: has no `text`; add \"text\": \"...\"");
    assert_eq!(classify("{\"text\": 7}"), "x.jsonl, line 2: `text` is 7; write it as a string");
    assert_eq!(
        classify("{\"text\": \"a\", \"label\": true}"),
        "x.jsonl, line 2: label true is neither a class's name nor its index; write a string or a whole number"
    );
    for number in ["-1", "0.5", "1.0"] {
        let message = classify(&format!("{{\"text\": \"a\", \"label\": {number}}}"));
        assert!(message.starts_with(&format!("x.jsonl, line 2: label {number} is no class; ")), "{message}");
        assert!(message.contains("left out") && message.contains("task = \"regress\""), "{message}");
    }
    assert_eq!(
        json("{\"text\": \"a\", \"label\": \"good\"}", Task::Regress),
        "x.jsonl, line 2: label \"good\" is not a finite number; names are for task = \"classify\""
    );
    assert!(
        json("{\"text\": \"a\", \"label\": 1e300}", Task::Regress)
            .contains("label 1e300 is not a finite number")
            || json("{\"text\": \"a\", \"label\": 1e300}", Task::Regress)
                .contains("label 1e+300 is not a finite number")
    );
    let bytes = [good.as_bytes(), b"{\"text\": \"\xff\"}"].concat();
    assert_eq!(
        message("x.jsonl", bytes, Task::Classify),
        "x.jsonl, line 2: is not UTF-8; convert the file to UTF-8"
    );
}

#[test]
fn a_broken_table_is_named_with_its_line_and_a_remedy() {
    let csv = |content: &str| message("x.csv", content, Task::Classify);
    assert_eq!(
        csv("text,lable\na,1"),
        "x.csv, line 1: unknown column `lable`, the nearest is `label`; known here: text, text_pair, label"
    );
    assert_eq!(csv("label\n1"), "x.csv, line 1: has no column `text`; the first line must name the columns");
    assert_eq!(csv("text,text\na,b"), "x.csv, line 1: names the column `text` twice; keep one of them");
    assert_eq!(
        csv("text,label\n\"a\nb\",1\nc,d,1\n"),
        "x.csv, line 4: has 3 fields for 2 columns (text, label); put a field that holds a comma in double quotes"
    );
    assert_eq!(csv("text,label\na,1\n\n\nb,1"), "x.csv, line 3: is empty; remove it");
    assert_eq!(
        csv("text,label\na,1\n\"b,1\nc,0\n"),
        "x.csv, line 3: opens a quote that is never closed; close it"
    );
    assert_eq!(
        csv("text,label\n\"a\" b,1\n"),
        "x.csv, line 2: field 1 goes on after its closing quote; write each quote inside it twice"
    );
    assert!(csv("text,label\na,1\nb,-1\n").starts_with("x.csv, line 3: label -1 is no class; "));
    let value = |label| message("x.csv", format!("text,label\na,{label}"), Task::Regress);
    for label in ["good", "nan", "inf", "1e300"] {
        assert_eq!(
            value(label),
            format!("x.csv, line 2: label {label} is not a finite number; names are for task = \"classify\"")
        );
    }
    assert_eq!(
        message("x.tsv", "text\tlabel\na\tb\t1\n", Task::Classify),
        "x.tsv, line 2: has 3 fields for 2 columns (text, label); a field cannot hold a tab"
    );
}

#[test]
fn a_file_as_a_whole_can_be_wrong() {
    for (name, content) in [
        ("x.jsonl", ""),
        ("x.jsonl", "\n\r\n"),
        ("x.csv", "text,label\n"),
        ("x.csv", ""),
        ("x.tsv", "\u{feff}"),
    ] {
        assert_eq!(
            message(name, content, Task::Classify),
            format!("{name}: holds no examples; give at least one, one per line")
        );
    }
    assert_eq!(
        message("x.json", "{}", Task::Classify),
        "x.json: unknown kind of data file; its name must end in .jsonl, .csv or .tsv"
    );
    let missing = read(Path::new("nowhere/x.jsonl"), Task::Classify).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }) && missing.to_string().starts_with("nowhere/x.jsonl: "));
}

#[test]
fn classes_of_the_data_are_sorted_names_or_indices() {
    let names = labelled([name("b"), None, name("c"), name("a"), name("b")]);
    let classes = Classes::of_data(&names).unwrap();
    assert_eq!(classes.names(), ["a", "b", "c"]);
    assert_eq!(classes.indices(&names).unwrap(), [Some(1), None, Some(2), Some(0), Some(1)]);
    let indices = labelled([index(10), index(0)].into_iter().chain((1..10).map(index)));
    let classes = Classes::of_data(&indices).unwrap();
    assert_eq!(classes.names()[9..], ["9", "10"], "by number, not by spelling");
    assert_eq!(classes.indices(&indices).unwrap()[..2], [Some(10), Some(0)]);
}

#[test]
fn classes_of_a_checkpoint_keep_their_order() {
    let classes = checkpoint(&["positive", "negative"]);
    assert_eq!(classes.indices(&labelled([name("negative"), name("positive")])).unwrap(), [Some(1), Some(0)]);
    assert_eq!(classes.indices(&labelled([index(1), None])).unwrap(), [Some(1), None]);
}

#[test]
fn labels_that_are_no_class_are_named_with_their_line() {
    let of_data = |labels: Vec<Option<Label>>| Classes::of_data(&labelled(labels)).unwrap_err().to_string();
    let indices = |classes: Classes, labels: Vec<Option<Label>>| {
        classes.indices(&labelled(labels)).unwrap_err().to_string()
    };
    let known = || checkpoint(&["a", "b", "c"]);
    assert_eq!(
        indices(known(), vec![name("a"), name("x")]),
        "train.csv, line 3: label `x` is unknown to the checkpoint; its classes are a, b, c"
    );
    assert_eq!(
        indices(known(), vec![index(3)]),
        "train.csv, line 2: label 3 is unknown to the checkpoint; its classes are a, b, c"
    );
    assert_eq!(
        indices(known(), vec![None, name("a"), index(1)]),
        "train.csv, line 4: labels are names on some lines and indices on others; use one kind throughout"
    );
    let trained = Classes::of_data(&labelled([name("a"), name("b")])).unwrap();
    assert_eq!(
        indices(trained, vec![name("c")]),
        "train.csv, line 2: label `c` is unknown to the training data; its classes are a, b"
    );
    let many: Vec<String> = (0..25).map(|number| format!("n{number}")).collect();
    let message = indices(Classes::of_checkpoint(many), vec![name("x")]);
    assert!(message.ends_with("n18, n19 and 5 more"), "{message}");

    assert_eq!(
        of_data(vec![name("a"), index(1)]),
        "train.csv, line 3: labels are names (`a`) and indices (1); use one kind throughout"
    );
    assert_eq!(
        of_data(vec![index(1), index(3), index(0), index(3)]),
        "train.csv, line 3: label 3, but no example has label 2; number the classes from 0 without gaps"
    );
    assert_eq!(
        of_data(vec![None, None]),
        "train.csv: none of its 2 examples has a label; add \"label\" to each line"
    );
    assert_eq!(
        of_data(vec![name("a"), name("a")]),
        "train.csv: every label is `a`; a classifier needs examples of two classes or more"
    );
    let value = vec![Some(Label::Value(0.5))];
    assert_eq!(
        of_data(value.clone()),
        "train.csv, line 2: label 0.5 is a value, not a class; read the file for task = \"classify\""
    );
    assert_eq!(indices(known(), value), of_data(vec![Some(Label::Value(0.5))]));
}

#[test]
fn the_tokenizer_frames_texts_and_ignores_the_limits_of_its_file() {
    let tokenizer = load(&bert());
    let encoded = tokenizer.encode("a b c d e", None, 128).unwrap();
    assert_eq!(encoded.ids, [CLS, A, B, C, 7, 8, SEP], "not cut to 4, not padded to 9");
    assert_eq!(encoded.types, [0; 7]);
    assert!(!encoded.truncated);
    let pair = tokenizer.encode("a b", Some("c"), 128).unwrap();
    assert_eq!((pair.ids, pair.types), (vec![CLS, A, B, SEP, C, SEP], vec![0, 0, 0, 0, 1, 1]));
    assert_eq!(
        (tokenizer.vocabulary_size(), tokenizer.largest_id(), tokenizer.pad_id()),
        (10, 40, Some(PAD))
    );
}

#[test]
fn roberta_pairs_have_two_separators_and_one_type() {
    let mut file = bert();
    file["post_processor"] = json!({"type": "RobertaProcessing", "sep": ["[SEP]", SEP], "cls": ["[CLS]", CLS], "trim_offsets": true, "add_prefix_space": false});
    file["padding"] = Value::Null;
    let tokenizer = load(&file);
    let pair = tokenizer.encode("a b c", Some("c b"), 7).unwrap();
    assert_eq!((pair.ids, pair.types), (vec![CLS, A, B, SEP, SEP, C, SEP], vec![0; 7]));
    assert_eq!(tokenizer.pad_id(), Some(PAD), "found by the token's name");
}

#[test]
fn truncation_cuts_the_end_of_the_longer_text() {
    let tokenizer = load(&bert());
    let cut = |text, text_pair, max_tokens| {
        let encoded = tokenizer.encode(text, text_pair, max_tokens).unwrap();
        (encoded.ids, encoded.truncated, encoded.full_length)
    };
    assert_eq!(cut("a b c d e", None, 5), (vec![CLS, A, B, C, SEP], true, 7));
    assert_eq!(cut("a b c", None, 5), (vec![CLS, A, B, C, SEP], false, 5));
    // Room for 4: the second text keeps its only token.
    assert_eq!(cut("a b c d e", Some("e"), 7), (vec![CLS, A, B, C, SEP, 8, SEP], true, 9));
    assert_eq!(cut("e", Some("a b c d e"), 7), (vec![CLS, 8, SEP, A, B, C, SEP], true, 9));
    // Both too long: half each.
    assert_eq!(cut("a b c d e", Some("e d c b"), 7), (vec![CLS, A, B, SEP, 8, 7, SEP], true, 12));
    let one = tokenizer.encode("a b", None, 2).unwrap_err().to_string();
    assert_eq!(one, "max_tokens = 2 leaves no room for the text beside 2 special tokens; use 3 or more");
    let two = tokenizer.encode("a b", Some("c"), 4).unwrap_err().to_string();
    assert_eq!(two, "max_tokens = 4 leaves no room for the text beside 3 special tokens; use 5 or more");
}

#[test]
fn a_tokenizer_that_cannot_be_read_says_so_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let missing = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("{}: does not exist; ", path.display())), "{missing}");
    assert!(missing.contains("save_pretrained"), "{missing}");
    for content in ["{", "{\"model\": 1}", ""] {
        std::fs::write(&path, content).unwrap();
        let bad = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(bad.starts_with(&format!("{}: is not a tokenizer: ", path.display())), "{bad}");
        assert!(bad.ends_with("; save it again or copy it anew") && !bad.contains('\n'), "{bad}");
    }
}

#[test]
fn a_dataset_keeps_order_drops_the_unlabelled_and_reports() {
    let texts = ["a", "a b c d e", "b", "c d", "e"];
    let labels = [name("good"), name("bad"), None, name("good"), name("good")];
    let list = texts
        .iter()
        .zip(labels)
        .enumerate()
        .map(|(index, (text, label))| example(text, None, label, index + 1))
        .collect();
    let examples = Examples { path: PathBuf::from("train.jsonl"), list };
    let classes = checkpoint(&["bad", "unused", "good"]);
    let dataset = Dataset::prepare(&examples, &load(&bert()), 5, Labels::Classes(&classes)).unwrap();
    let ids: Vec<_> = dataset.items.iter().map(|item| item.ids.as_slice()).collect();
    assert_eq!(ids, [&[CLS, A, SEP][..], &[CLS, A, B, C, SEP], &[CLS, C, 7, SEP], &[CLS, 8, SEP]]);
    let targets: Vec<_> = dataset.items.iter().map(|item| item.target).collect();
    assert_eq!(targets, [2, 0, 2, 2].map(Gold::Class));
    assert_eq!(dataset.lengths(), [3, 5, 4, 3]);

    let report = &dataset.report;
    assert_eq!((report.examples, report.dropped, report.truncated), (4, 1, 1));
    assert_eq!(report.tokens, Lengths { min: 3, p25: 3, p50: 3, p75: 4, p95: 7, max: 7 }, "before the cut");
    assert_eq!(
        report.to_string(),
        "train.jsonl: 4 examples, 1 more dropped because they have no label\n  \
         tokens     shortest 3, 25 % 3, 50 % 3, 75 % 4, 95 % 7, longest 7\n  \
         truncated  1 to max_tokens = 5\n  \
         classes    bad     1 (25.0 %)\n             \
         unused  0 (0.0 %)\n             \
         good    3 (75.0 %)"
    );
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(json["classes"][2], json!({"name": "good", "count": 3}));
    assert_eq!((&json["dropped"], &json["tokens"]["p95"]), (&json!(1), &json!(7)));
}

#[test]
fn values_become_targets_and_prediction_needs_none() {
    let tokenizer = load(&bert());
    let examples = labelled([Some(Label::Value(0.1)), None, Some(Label::Value(3.0))]);
    let dataset = Dataset::prepare(&examples, &tokenizer, 8, Labels::Values).unwrap();
    assert_eq!(dataset.items.iter().map(|item| item.target).collect::<Vec<_>>(), [0.1, 3.0].map(Gold::Value));
    assert!(
        dataset.report.to_string().ends_with("\n  values     smallest 0.1000, mean 1.5500, largest 3.0000"),
        "{}",
        dataset.report
    );

    let all = Dataset::prepare(&examples, &tokenizer, 8, Labels::Ignored).unwrap();
    assert_eq!(all.items.iter().map(|item| item.target).collect::<Vec<_>>(), [Gold::None; 3]);
    assert_eq!(all.report.dropped, 0);
}

#[test]
fn a_dataset_refuses_empty_texts_and_wrong_labels() {
    let tokenizer = load(&bert());
    let prepare = |list: Vec<Example>, targets: Labels<'_>| {
        let examples = Examples { path: PathBuf::from("x.jsonl"), list };
        Dataset::prepare(&examples, &tokenizer, 8, targets).unwrap_err().to_string()
    };
    for text in ["", " \t", "[PAD] [PAD]"] {
        let list = vec![example("a", None, None, 1), example(text, Some("b"), None, 2)];
        assert_eq!(
            prepare(list, Labels::Ignored),
            "x.jsonl, line 2: the text has no token of its own; write some text or remove the line"
        );
    }
    let unknown = Examples { path: PathBuf::from("x.jsonl"), list: vec![example("?", None, None, 1)] };
    assert!(
        Dataset::prepare(&unknown, &tokenizer, 8, Labels::Ignored).is_ok(),
        "an unknown token is a token"
    );
    let classes = checkpoint(&["a", "b"]);
    let without = vec![example("a", None, None, 1)];
    assert_eq!(
        prepare(without.clone(), Labels::Classes(&classes)),
        "x.jsonl: none of its 1 examples has a label; add \"label\" to each line"
    );
    assert_eq!(
        prepare(without, Labels::Values),
        "x.jsonl: none of its 1 examples has a label; add \"label\" to each line"
    );
    assert_eq!(
        prepare(vec![example("a", None, index(1), 4)], Labels::Values),
        "x.jsonl, line 4: the label is a class, not a value; read the file for task = \"regress\""
    );
}

/// Lengths without order: 1 to 97, each several times.
fn lengths(count: usize) -> Vec<usize> {
    (0..count).map(|index| 1 + index * 61 % 97).collect()
}

fn padding(lengths: &[usize], batches: &[Vec<usize>]) -> usize {
    let waste = |batch: &Vec<usize>| {
        let longest = batch.iter().map(|&index| lengths[index]).max().unwrap();
        batch.iter().map(|&index| longest - lengths[index]).sum::<usize>()
    };
    batches.iter().map(waste).sum()
}

#[test]
fn every_epoch_has_each_example_once_in_full_batches_and_one_rest() {
    for (count, batch_size) in [(0, 4), (1, 4), (8, 4), (1001, 8), (130, 1), (5, usize::MAX)] {
        let lengths = lengths(count);
        for order in [Order::AsRead, Order::Sorted, Order::Shuffled { seed: 3, epoch: 1 }] {
            let batches = batches(&lengths, size(batch_size), order);
            let all: Vec<usize> = batches.iter().flatten().copied().collect();
            assert_eq!(all.len(), count);
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), count);
            assert_eq!(batches.len(), count.div_ceil(batch_size));
            assert!(batches.iter().filter(|batch| batch.len() != batch_size).count() <= 1, "{order:?}");
        }
    }
}

#[test]
fn order_is_a_function_of_seed_and_epoch() {
    let lengths = lengths(500);
    let shuffled = |seed, epoch| batches(&lengths, size(8), Order::Shuffled { seed, epoch });
    assert_eq!(shuffled(1, 2), shuffled(1, 2));
    let distinct: BTreeSet<_> = [(1, 2), (2, 1), (1, 3), (0, 0), (1, 0), (0, 1), (1 << 32, 0), (0, 1 << 32)]
        .map(|(s, e)| shuffled(s, e))
        .into();
    assert_eq!(distinct.len(), 8, "every bit of both counts");
    let same_examples = |batches: Vec<Vec<usize>>| {
        batches
            .into_iter()
            .map(|mut b| {
                b.sort_unstable();
                b
            })
            .collect::<BTreeSet<_>>()
    };
    assert_ne!(
        same_examples(shuffled(1, 2)),
        same_examples(shuffled(1, 3)),
        "batches are made anew, not only put in another order"
    );
}

#[test]
fn the_order_of_a_seed_stays_what_it_is() {
    // A resumed run needs this order again; a change of the generator or the shuffle must not go unseen.
    let order = batches(&[5; 8], size(3), Order::Shuffled { seed: 7, epoch: 1 });
    assert_eq!(order, [vec![3, 6, 1], vec![7, 2], vec![0, 4, 5]]);
}

#[test]
fn as_read_and_sorted_are_what_they_say() {
    let lengths = [3, 1, 2, 1, 9];
    assert_eq!(batches(&lengths, size(2), Order::AsRead), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(batches(&lengths, size(2), Order::Sorted), [vec![1, 3], vec![2, 0], vec![4]]);
}

#[test]
fn shuffled_batches_pad_little_and_come_in_no_order_of_length() {
    let lengths = lengths(2000);
    let shuffled = batches(&lengths, size(8), Order::Shuffled { seed: 0, epoch: 0 });
    let [as_read, shuffled_waste, sorted] = [
        batches(&lengths, size(8), Order::AsRead),
        shuffled.clone(),
        batches(&lengths, size(8), Order::Sorted),
    ]
    .map(|b| padding(&lengths, &b));
    // In a bucket of 400 the 97 lengths come about four times each: a batch of 8 spans two or three of them.
    assert!(shuffled_waste * 20 < as_read, "{shuffled_waste} of {as_read}");
    assert!(sorted <= shuffled_waste);
    let longest: Vec<_> =
        shuffled.iter().map(|batch| batch.iter().map(|&index| lengths[index]).max().unwrap()).collect();
    let rises = longest.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((90..160).contains(&rises), "about half of 249 steps rise in a random order: {rises}");
}

#[test]
fn collate_pads_on_the_right_to_the_longest() {
    let item = |ids: &[u32], types: &[u32], target| Item { ids: ids.to_vec(), types: types.to_vec(), target };
    let [short, long] = [
        item(&[2, 4, 3], &[0, 0, 1], Gold::Class(1)),
        item(&[2, 4, 3, 5, 3], &[0, 0, 0, 1, 1], Gold::Class(0)),
    ];
    assert_eq!(
        collate(&[&short, &long], 9),
        Batch {
            ids: vec![2, 4, 3, 9, 9, 2, 4, 3, 5, 3],
            types: vec![0, 0, 1, 0, 0, 0, 0, 0, 1, 1],
            mask: vec![true, true, true, false, false, true, true, true, true, true],
            rows: 2,
            columns: 5,
            classes: vec![1, 0],
            values: vec![],
        }
    );
    let value = item(&[2, 3], &[0, 0], Gold::Value(0.25));
    let batch = collate(&[&value], 9);
    assert_eq!((batch.columns, batch.values, batch.classes), (2, vec![0.25], vec![]));
    assert_eq!(collate(&[], 9).rows, 0);
}

#[test]
fn a_dataset_batches_by_index() {
    let dataset = Dataset::prepare(&labelled([None, None]), &load(&bert()), 8, Labels::Ignored).unwrap();
    let batch = dataset.batch(&[1, 0, 1], PAD);
    assert_eq!((batch.rows, batch.columns, batch.classes.len()), (3, 4, 0));
    assert_eq!(batch.ids[4..8], [CLS as i32, A as i32, B as i32, SEP as i32]);
}
