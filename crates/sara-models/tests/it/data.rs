//! From files to padded batches, and every message on the way.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use sara_models::classify::{Batch, Classes, Dataset, Gold, Item, Labels, Lengths, collate};
use sara_models::data::{Example, Examples, Label, Order, batches};
use sara_models::tokenizer::Tokenizer;
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
    let settings = json!({"truncation_side": "right", "model_input_names": ["input_ids", "token_type_ids"]});
    std::fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

fn example(text: &str, text_pair: Option<&str>, label: Option<Label>, line: usize) -> Example {
    Example { text: text.to_owned(), text_pair: text_pair.map(str::to_owned), label, line }
}

#[expect(clippy::unnecessary_wraps, reason = "an example's label is optional")]
fn name(name: &str) -> Option<Label> {
    Some(Label::Name(name.to_owned()))
}

fn labelled(labels: impl IntoIterator<Item = Option<Label>>) -> Examples {
    let list =
        labels.into_iter().enumerate().map(|(index, label)| example("a b", None, label, index + 2)).collect();
    Examples { path: PathBuf::from("train.csv"), list, notes: Vec::new(), label_columns: Vec::new() }
}

fn checkpoint(names: &[&str]) -> Classes {
    Classes::of_checkpoint(names.iter().map(|&name| name.to_owned()).collect())
}

fn size(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap()
}

#[test]
fn classes_of_the_data_are_sorted_names() {
    let names = labelled([name("b"), None, name("c"), name("a"), name("b")]);
    let classes = Classes::of_data(&names).unwrap();
    assert_eq!(classes.names(), ["a", "b", "c"]);
    assert_eq!(classes.indices(&names).unwrap(), [Some(1), None, Some(2), Some(0), Some(1)]);
    // Numbers are names as well, from wherever they begin, and in their own order.
    let numbers = labelled(["10", "1", "5", "01", "-1"].map(name));
    let classes = Classes::of_data(&numbers).unwrap();
    assert_eq!(classes.names(), ["-1", "01", "1", "5", "10"]);
    assert_eq!(classes.indices(&numbers).unwrap(), [4, 2, 3, 1, 0].map(Some));
    // One that is no number among them, and the spelling decides.
    assert_eq!(Classes::of_data(&labelled(["10", "9", "x"].map(name))).unwrap().names(), ["10", "9", "x"]);
}

#[test]
fn a_label_is_a_name_first_and_then_an_index() {
    let indices = |classes: &[&str], labels: &[&str]| {
        checkpoint(classes).indices(&labelled(labels.iter().copied().map(name))).ok()
    };
    let all = |places: &[usize]| Some(places.iter().copied().map(Some).collect::<Vec<_>>());
    assert_eq!(indices(&["positive", "negative"], &["negative", "positive"]), all(&[1, 0]));
    assert_eq!(indices(&["positive", "negative"], &["1", "0", "negative"]), all(&[1, 0, 1]));
    assert_eq!(indices(&["positive", "negative"], &["2"]), None);
    // Ratings from 1: the label 0 is no class of these, and 1 is the first.
    assert_eq!(indices(&["1", "2", "3"], &["1", "3"]), all(&[0, 2]));
    assert_eq!(indices(&["1", "2", "3"], &["0"]), None);
    assert_eq!(indices(&["01", "1"], &["1", "01"]), all(&[1, 0]));
    // A number may be a name that is written otherwise.
    assert_eq!(indices(&["1.0", "x"], &["1"]), None);
    assert_eq!(indices(&["1 star", "2 stars"], &["1"]), None);
    // Of booleans alone the case does not matter.
    assert_eq!(indices(&["false", "true"], &["TRUE", "False"]), all(&[1, 0]));
    assert_eq!(indices(&["False", "True"], &["true", "false"]), all(&[1, 0]));
    assert_eq!(indices(&["No", "Yes"], &["yes"]), None);
}

#[test]
fn classes_without_names_are_named_by_the_data() {
    let numbered: Vec<String> = (0..3).map(|i| format!("LABEL_{i}")).collect();
    let of_run = |labels: &[&str]| {
        let examples = labelled(labels.iter().copied().map(name));
        let (classes, note) = Classes::of_run(Some(&numbered), &examples).unwrap();
        (classes.names().to_vec(), note, classes.indices(&examples).ok())
    };
    let (names, note, indices) = of_run(&["good", "bad", "so so", "bad"]);
    assert_eq!(names, ["bad", "good", "so so"]);
    assert_eq!(
        note.as_deref(),
        Some("the checkpoint's 3 classes have no names; taken in order: bad, good, so so")
    );
    assert_eq!(indices, Some(vec![Some(1), Some(0), Some(2), Some(0)]));
    assert_eq!(of_run(&["3", "1", "2"]).0, ["1", "2", "3"]);
    // Of fewer only indices can be meant, and of names nothing.
    assert_eq!(of_run(&["2", "0"]), (numbered.clone(), None, Some(vec![Some(2), Some(0)])));
    assert_eq!(of_run(&["LABEL_2", "LABEL_0"]), (numbered.clone(), None, Some(vec![Some(2), Some(0)])));
    assert_eq!(of_run(&["good", "bad"]), (numbered.clone(), None, None));
}

#[test]
fn labels_that_are_no_class_are_named_with_their_line() {
    let of_data = |labels: Vec<Option<Label>>| Classes::of_data(&labelled(labels)).unwrap_err().to_string();
    let indices = |classes: Classes, labels: Vec<Option<Label>>| {
        classes.indices(&labelled(labels)).unwrap_err().to_string()
    };
    let known = || checkpoint(&["a", "b", "c"]);
    assert_eq!(
        indices(known(), vec![name("a"), name("x\ty")]),
        "train.csv, line 3: label `x\\ty` is unknown to the checkpoint; its classes are a, b, c"
    );
    assert_eq!(
        indices(known(), vec![name("3")]),
        "train.csv, line 2: label `3` is unknown to the checkpoint; its classes are a, b, c"
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
        of_data(vec![None, None]),
        "train.csv: none of its 2 examples has a label; add \"label\" to each line, or say which column it is \
         (data.label, --label)"
    );
    assert_eq!(
        of_data(vec![name("a"), name("a")]),
        "train.csv: every label is `a`; a classifier needs examples of two classes or more"
    );
    let values: Vec<String> = (0..30).map(|i| format!("{i}.5")).collect();
    assert_eq!(
        of_data(values.iter().map(|value| name(value)).collect()),
        "train.csv, line 2: has 30 different numbers as labels of 30 examples; numbers to predict are for \
         task = \"regress\""
    );
    let value = vec![Some(Label::Values(vec![0.5]))];
    assert_eq!(
        of_data(value.clone()),
        "train.csv, line 2: label [0.5] is a value, not a class; read the file for task = \"classify\""
    );
    assert_eq!(indices(known(), value), of_data(vec![Some(Label::Values(vec![0.5]))]));
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
    let texts = ["a", "a b c d e", "b", "c d", "e", " ", "\n"];
    let labels = [name("good"), name("bad"), None, name("good"), name("good"), name("bad"), None];
    let list = texts
        .iter()
        .zip(labels)
        .enumerate()
        .map(|(index, (text, label))| example(text, None, label, index + 1))
        .collect();
    let examples = Examples {
        path: PathBuf::from("train.jsonl"),
        list,
        notes: vec!["a note".to_owned()],
        label_columns: Vec::new(),
    };
    let classes = checkpoint(&["bad", "unused", "good"]);
    let dataset = Dataset::prepare(&examples, &load(&bert()), 5, Labels::Classes(&classes)).unwrap();
    let ids: Vec<_> = dataset.items.iter().map(|item| item.ids.as_slice()).collect();
    assert_eq!(ids, [&[CLS, A, SEP][..], &[CLS, A, B, C, SEP], &[CLS, C, 7, SEP], &[CLS, 8, SEP]]);
    let targets: Vec<_> = dataset.items.iter().map(|item| item.target.clone()).collect();
    assert_eq!(targets, [2, 0, 2, 2].map(Gold::Class));
    assert_eq!(dataset.lengths(), [3, 5, 4, 3]);

    assert_eq!(dataset.places, [0, 1, 3, 4]);
    let report = &dataset.report;
    assert_eq!((report.examples, report.dropped, report.without_text, report.truncated), (4, 1, 2, 1));
    assert_eq!(report.tokens, Lengths { min: 3, p25: 3, p50: 3, p75: 4, p95: 7, max: 7 }, "before the cut");
    assert_eq!(
        report.to_string(),
        "train.jsonl: 4 examples, 1 more dropped because they have no label\n  \
         tokens     shortest 3, 25 % 3, 50 % 3, 75 % 4, 95 % 7, longest 7\n  \
         truncated  1 to max_tokens = 5\n  \
         dropped    2 because they have no text\n  \
         classes    bad     1 (25.0 %)\n             \
         unused  0 (0.0 %)\n             \
         good    3 (75.0 %)\n  \
         note       a note"
    );
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(json["classes"][2], json!({"name": "good", "count": 3}));
    assert_eq!((&json["dropped"], &json["tokens"]["p95"]), (&json!(1), &json!(7)));
}

#[test]
fn values_become_targets_and_prediction_needs_none() {
    let tokenizer = load(&bert());
    let examples = labelled([Some(Label::Values(vec![0.1])), None, Some(Label::Values(vec![3.0]))]);
    let dataset = Dataset::prepare(&examples, &tokenizer, 8, Labels::Values(&[])).unwrap();
    assert_eq!(
        dataset.items.iter().map(|item| item.target.clone()).collect::<Vec<_>>(),
        [0.1, 3.0].map(|value| Gold::Values(vec![value]))
    );
    assert!(
        dataset.report.to_string().ends_with("\n  values     smallest 0.1000, mean 1.5500, largest 3.0000"),
        "{}",
        dataset.report
    );

    let all = Dataset::prepare(&examples, &tokenizer, 8, Labels::Ignored).unwrap();
    assert_eq!(all.items.iter().map(|item| item.target.clone()).collect::<Vec<_>>(), vec![Gold::None; 3]);
    assert_eq!(all.report.dropped, 0);
}

#[test]
fn a_dataset_refuses_empty_texts_and_wrong_labels() {
    let tokenizer = load(&bert());
    let prepare = |list: Vec<Example>, targets: Labels<'_>| {
        let examples =
            Examples { path: PathBuf::from("x.jsonl"), list, notes: Vec::new(), label_columns: Vec::new() };
        Dataset::prepare(&examples, &tokenizer, 8, targets).unwrap_err().to_string()
    };
    let list = vec![example("a", None, None, 1), example("[PAD] [PAD]", Some("b"), None, 2)];
    assert_eq!(
        prepare(list, Labels::Ignored),
        "x.jsonl, line 2: the text has no token of its own; write some text or remove the line"
    );
    let list = vec![example("", None, None, 1), example(" \t", Some("b"), None, 2)];
    assert_eq!(prepare(list, Labels::Ignored), "x.jsonl: none of its 2 examples has a text");
    let list = vec![example("?", None, None, 1)];
    let unknown =
        Examples { path: PathBuf::from("x.jsonl"), list, notes: Vec::new(), label_columns: Vec::new() };
    assert!(
        Dataset::prepare(&unknown, &tokenizer, 8, Labels::Ignored).is_ok(),
        "an unknown token is a token"
    );
    let classes = checkpoint(&["a", "b"]);
    let without = vec![example("a", None, None, 1)];
    assert_eq!(
        prepare(without.clone(), Labels::Classes(&classes)),
        "x.jsonl: none of its 1 examples has a label; add \"label\" to each line, or say which column it is (data.label, --label)"
    );
    assert_eq!(
        prepare(without, Labels::Values(&[])),
        "x.jsonl: none of its 1 examples has a label; add \"label\" to each line, or say which column it is (data.label, --label)"
    );
    assert_eq!(
        prepare(vec![example("a", None, name("1"), 4)], Labels::Values(&[])),
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
            flags: vec![],
        }
    );
    let value = item(&[2, 3], &[0, 0], Gold::Values(vec![0.25]));
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
