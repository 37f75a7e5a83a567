//! Several labels at once, and several numbers: loss, gradient and metrics are those of transformers and scikit-learn.

use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::{AnyAdapter, Progress, Seed};
use sara_models::classify::metrics::multi_label;
use sara_models::classify::{Batch, ClassifyLoss};
use sara_models::data::{Columns, Label, Rows, Task};
use sara_models::encoder::{EncoderCheckpoint, Loaded};
use sara_models::train::optimizer::{AdamWConfig, Optimizer};
use sara_models::train::{StepOptions, Trained, step};
use serde_json::{Value, json};

use super::command::Workplace;
use super::model::{fixture, floats, ints, stored};
use super::training::gradients;

type Train = Autodiff<Flex>;

#[test]
fn loss_and_gradient_are_those_of_transformers() {
    for (name, n_labels, path) in
        [("roberta-multi", 3, "classifier.out_proj"), ("bert-reg2", 2, "classifier")]
    {
        let checkpoint = EncoderCheckpoint::open(&fixture(name)).unwrap();
        let Loaded { model, head, .. } = checkpoint.load::<Train>(n_labels, Seed(0), &FlexDevice).unwrap();
        let golden = stored(&fixture(name).join("golden.safetensors"));
        let (_, shape, _) = &golden["input_ids"];
        let targets = floats(&golden["targets"]);
        let is_multi = n_labels == 3;
        let batch = Batch {
            ids: ints(&golden["input_ids"]),
            types: ints(&golden["token_type_ids"]),
            mask: ints(&golden["attention_mask"]).into_iter().map(|value| value == 1).collect(),
            rows: shape[0],
            columns: shape[1],
            classes: Vec::new(),
            values: if is_multi { Vec::new() } else { targets.clone() },
            flags: if is_multi { targets } else { Vec::new() },
        };
        let trained = Trained::new(None::<AnyAdapter<Train>>, head);
        let options = StepOptions {
            progress: Progress { step: 0, total: 1 },
            learning_rate: 1e-3,
            clip_norm: f64::INFINITY,
            seed: Seed(0),
        };
        let objective = ClassifyLoss { model: &model };
        let mut optimizer = Optimizer::new(AdamWConfig::default());
        let (trained, stepped) =
            step(&objective, trained, &mut optimizer, &[batch], &mut (), &options).unwrap();
        let expected = f64::from(floats(&golden["loss"])[0]);
        assert!(
            (stepped.loss - expected).abs() < 1e-5 * expected,
            "{name}: {}, not {expected}",
            stepped.loss
        );

        let gradients = gradients(&trained, &stepped);
        let gradient = &gradients["head.out_proj.weight"];
        let width = gradient.shape[0];
        let found: Vec<f32> = gradient.iter().collect();
        let expected = floats(&golden[&format!("grad.{path}.weight")]);
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        // Ours is `[d, n_labels]`, torch's the other way round.
        let worst = (0..found.len())
            .map(|i| (found[i % width * n_labels + i / width] - expected[i]).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-5 * largest && largest > 1e-2, "{name}: {worst} of {largest}");
    }
}

#[test]
fn metrics_of_several_labels_are_those_of_scikit_learn() {
    let text = std::fs::read_to_string(fixture("heads").join("metrics.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = all["multi_label"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let rows = |key: &str| -> Vec<Vec<f32>> { serde_json::from_value(case[key].clone()).unwrap() };
        let metrics = multi_label(&rows("logits"), &rows("targets"));
        for name in ["micro_f1", "macro_f1", "subset_accuracy"] {
            let (found, expected) = (metrics.value(name).unwrap(), case[name].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{}: {name} {found}, not {expected}", case["name"]);
        }
    }
}

fn lines(rows: &[(&str, Value)]) -> String {
    rows.iter()
        .map(|(text, label)| format!("{}\n", json!({"text": text, "label": label})))
        .collect::<Vec<_>>()
        .concat()
}

fn workplace(task: &str, data: &str) -> Workplace {
    let place = Workplace::of_fixture("roberta-mlm");
    place.write(
        "run.toml",
        &format!(
            "model = \"model\"\noutput = \"run\"\ntask = \"{task}\"\n[method.lora]\nrank = 2\n[data]\n{data}\n\
             [optimizer]\nbatch_size = 4\nepochs = 60\nlearning_rate = 1e-2\n"
        ),
    );
    place
}

fn predicted(place: &Workplace, args: &[&str], out: &str) -> Vec<Value> {
    place.sara_ok(&[&["predict", "--model"], args, &["--out", out]].concat());
    let text = std::fs::read_to_string(place.path(out)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn several_labels_are_learned_said_and_handed_over() {
    let rows = [
        ("good", json!(["joy"])),
        ("bad", json!(["anger", "fear"])),
        ("so so", json!([])),
        ("fine", json!(["joy", "fear"])),
    ];
    let separated = "text;label\ngood;joy\nbad;anger|fear\nso so;\nfine;joy | fear\n";
    let columns = "text,anger,fear,joy\ngood,0,0,1\nbad,1,1,0\nso so,0,0,0\nfine,0,True,1.0\n";
    let place = workplace("multi-label", "train = \"list.jsonl\"\nvalid = \"list.jsonl\"");
    place.write("list.jsonl", &lines(&rows));
    place.write("separated.csv", separated);
    place.write("columns.csv", columns);
    let trained = place.json(&["train", "--config", "run.toml"]);
    assert_eq!(trained["best"]["subset_accuracy"], 1.0, "{trained}");
    for key in ["micro_f1", "macro_f1", "loss"] {
        assert!(trained["best"][key].is_number(), "{trained}");
    }
    let eval = |data: &[&str]| {
        place.json(&[&["eval", "--model", "model", "--adapter", "run", "--data"], data].concat())
    };
    assert_eq!(eval(&["list.jsonl"])["metrics"]["micro_f1"], 1.0);
    assert_eq!(eval(&["separated.csv"])["examples"], 3, "an empty field is no label");
    assert_eq!(eval(&["separated.csv"])["metrics"]["subset_accuracy"], 1.0);
    let of_columns = eval(&["columns.csv", "--labels", "joy,fear,anger"]);
    assert_eq!(
        (&of_columns["examples"], &of_columns["metrics"]["subset_accuracy"]),
        (&json!(4), &json!(1.0))
    );

    let said = predicted(&place, &["model", "--adapter", "run", "--data", "list.jsonl"], "out");
    assert_eq!(said[1]["labels"], json!(["anger", "fear"]));
    assert_eq!(said[2]["labels"], json!([]));
    let logit = said[0]["logits"][2].as_f64().unwrap();
    let probability = said[0]["probabilities"][2].as_f64().unwrap();
    assert!((probability - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6 && probability >= 0.5);
    // Merged, the checkpoint itself says what it is.
    place.sara_ok(&["merge", "--model", "model", "--adapter", "run", "--out", "merged"]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(place.path("merged/config.json")).unwrap()).unwrap();
    assert_eq!(config["problem_type"], "multi_label_classification");
    let merged = predicted(&place, &["merged", "--data", "list.jsonl"], "merged.jsonl");
    assert!(merged.iter().zip(&said).all(|(a, b)| a["labels"] == b["labels"]));

    // Columns of their own are the classes, in their order.
    let place = workplace(
        "multi-label",
        "train = \"columns.csv\"\nvalid = \"columns.csv\"\nlabels = [\"joy\", \"anger\", \"fear\"]",
    );
    place.write("columns.csv", columns);
    place.sara_ok(&["train", "--config", "run.toml"]);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(place.path("run/best/adapter.json")).unwrap()).unwrap();
    assert_eq!(manifest["task"], json!({"task": "multi-label", "classes": ["joy", "anger", "fear"]}));
    place.write("wrong.csv", "text,joy,anger,fear\ngood,0,2,1\n");
    let done = place.sara(&["train", "--config", "run.toml", "output=b", "data.train=wrong.csv"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("wrong.csv, line 2: column anger is \"2\"; write 0 or 1"), "{done:?}");
}

#[test]
fn several_numbers_are_learned_said_and_handed_over() {
    let rows = [("good", json!([1.0, -0.5])), ("bad", json!([-1.0, 0.5])), ("so so", json!([0.0, 0.25]))];
    let place = workplace("regress", "train = \"list.jsonl\"\nvalid = \"list.jsonl\"");
    place.write("list.jsonl", &lines(&rows));
    let trained = place.json(&["train", "--config", "run.toml"]);
    assert_eq!(trained["best"]["pearson"].as_array().map(Vec::len), Some(2), "{trained}");
    let said = predicted(&place, &["model", "--adapter", "run", "--data", "list.jsonl"], "out");
    assert_eq!((said[0]["value"].as_array().map(Vec::len), &said[0]["value"]), (Some(2), &said[0]["logits"]));
    place.sara_ok(&["merge", "--model", "model", "--adapter", "run", "--out", "merged"]);
    let eval = place.json(&["eval", "--model", "merged", "--data", "list.jsonl"]);
    assert_eq!(eval["metrics"]["spearman"].as_array().map(Vec::len), Some(2), "{eval}");
    place.write("other.jsonl", &lines(&[("good", json!([1.0]))]));
    let done = place.sara(&["eval", "--model", "merged", "--data", "other.jsonl"]);
    assert!(done.stderr.contains("an example has 1 values, and the head 2 outputs"), "{done:?}");
}

fn message(name: &str, content: &str, columns: &Columns, task: Task) -> String {
    let place = Workplace::empty();
    place.write(name, content);
    let read = Rows::read(&place.path(name), None).unwrap().examples(columns, Some(task));
    let message = read.unwrap_err().to_string();
    message[message.find(name).unwrap()..].to_owned()
}

fn of_columns(names: &[&str]) -> Columns {
    let labels = Some(names.iter().map(|&name| name.to_owned()).collect());
    Columns { labels, ..Columns::default() }
}

#[test]
fn lists_of_labels_are_read_as_the_hub_has_them() {
    let read = |name: &str| -> Vec<Option<Label>> {
        let rows = Rows::read(&fixture("tables").join(name), None).unwrap();
        let examples = rows.examples(&Columns::default(), Some(Task::MultiLabel)).unwrap();
        assert_eq!(examples.notes.len(), usize::from(name == "class_lists.parquet"), "{:?}", examples.notes);
        examples.list.into_iter().map(|example| example.label).collect()
    };
    let names = |names: &[&str]| Some(Label::Names(names.iter().map(|&name| name.to_owned()).collect()));
    let expected = [
        names(&["joy"]),
        names(&["joy", "fear"]),
        names(&[]),
        names(&["anger", "fear", "joy"]),
        None,
        names(&["fear"]),
        names(&["joy", "anger"]),
        names(&[]),
    ];
    assert_eq!(read("lists.parquet"), expected);
    assert_eq!(read("class_lists.parquet"), expected, "numbers of a list are names by its metadata");
}

#[test]
fn several_labels_have_one_meaning_or_an_error() {
    let (none, multi, regress) = (Columns::default(), Task::MultiLabel, Task::Regress);
    let flags = "{\"text\": \"a\", \"label\": [0, 1, 0]}\n";
    assert!(
        message("x.jsonl", flags, &none, multi)
            .starts_with("x.jsonl, line 1: label [0,1,0] has a 0 or 1 for each class; write the names")
    );
    let ragged = "{\"text\": \"a\", \"label\": [0, 1]}\n{\"text\": \"b\", \"label\": 3}\n";
    assert_eq!(
        message("x.jsonl", ragged, &none, regress),
        "x.jsonl, line 2: label has 1 numbers, and those before it 2; give as many"
    );
    let gap = "{\"text\": \"a\", \"label\": [0, null]}\n";
    assert_eq!(
        message("x.jsonl", gap, &none, regress),
        "x.jsonl, line 1: label [0,null] has a gap; write a number for each output"
    );
    let table = "text,joy,fear\na,1,0\n,,\nb,,1\n";
    assert_eq!(
        message("x.csv", table, &of_columns(&["joy", "fear"]), multi),
        "x.csv, line 4: column joy is \"\"; write 0 or 1"
    );
    assert_eq!(
        message("x.csv", table, &of_columns(&["joy", "fear"]), regress),
        "x.csv, line 4: column joy is \"\"; write a finite number"
    );
    assert_eq!(
        message("x.csv", table, &of_columns(&["joy", "Joy"]), multi),
        "x.csv: has one column `joy`, and the labels name it twice"
    );
    assert_eq!(
        message("x.csv", table, &of_columns(&["joy", "anger"]), multi),
        "x.csv: has no column `anger` to read as labels; its columns are text, joy, fear"
    );
    assert!(message("x.csv", table, &of_columns(&["joy"]), Task::Classify).contains("a single column"));

    // Names in a field: by the separator that is said, a lone one for no class at all.
    let place = Workplace::empty();
    place.write("x.csv", "text;label\na;joy / fear\nb;/\nc;\n");
    let columns = Columns { label_separator: Some("/".to_owned()), ..none };
    let rows = Rows::read(&place.path("x.csv"), None).unwrap();
    let examples = rows.examples(&columns, Some(multi)).unwrap();
    let labels: Vec<_> = examples.list.iter().map(|example| example.label.clone()).collect();
    let names = |names: &[&str]| Some(Label::Names(names.iter().map(|&name| name.to_owned()).collect()));
    assert_eq!(labels, [names(&["joy", "fear"]), names(&[]), None]);
    assert_eq!(
        examples.notes[1..],
        ["1 blank fields are no label; `/` alone, or [] in JSON, says that no class applies"]
    );
}

#[test]
fn what_is_said_of_labels_is_used_or_refused() {
    let place = workplace("regress", "train = \"x.csv\"\nvalid = \"x.csv\"\nlabels = [\"up\", \"down\"]");
    place.write("x.csv", "text,up,down\ngood,1,-1\nbad,-1,1\nfine,0.5,0\n");
    place.sara_ok(&["train", "--config", "run.toml"]);
    let eval = |labels: &str| {
        let args = ["eval", "--model", "model", "--adapter", "run", "--data", "x.csv", "--labels", labels];
        place.json(&args)["metrics"].clone()
    };
    assert_eq!(eval("up,down"), eval("down,up"), "columns are known by their names");
    place.write("other.csv", "text,a,b\ngood,1,-1\nbad,-1,1\nfine,0.5,0\n");
    let renamed = place.sara(&[
        "eval",
        "--model",
        "model",
        "--adapter",
        "run",
        "--data",
        "other.csv",
        "--labels",
        "a,b",
    ]);
    assert!(renamed.stdout.contains("columns a, b are taken in their order for up, down"), "{renamed:?}");
    let refused = |args: &[&str], part: &str| {
        let done = place.sara(args);
        assert!(done.code == Some(1) && done.stderr.contains(part), "{done:?}");
    };
    refused(
        &["eval", "--model", "model", "--adapter", "run", "--data", "x.csv", "--label-separator", "/"],
        "--label-separator is for several labels",
    );
    let with = |entry| ["train", "--config", "run.toml", "output=c", entry];
    refused(&with("task=classify"), "data.labels = [\"up\", \"down\"]: expected names of columns, for task");
    refused(&with("data.label_separator=/"), "data.label_separator = \"/\": expected what no label contains");
    refused(&with("data.label=up"), "without data.label");
}
