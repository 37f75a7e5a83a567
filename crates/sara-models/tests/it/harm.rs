//! What would go wrong without a word: other data at a resume, another base, files written over, labels read otherwise.

use std::path::Path;

use serde_json::{Value, json};

use super::command::{Done, Workplace};

const LORA: &str = "[method.lora]\nrank = 2";
const FOUR_STEPS: &str = "batch_size = 2\nmax_steps = 4";
const TRAIN: [&str; 3] = ["train", "--config", "run.toml"];

fn place() -> Workplace {
    let place = Workplace::of_fixture("roberta-cls3");
    place.run_file(&format!("save_every = 1\n{LORA}"), FOUR_STEPS);
    place
}

fn train(place: &Workplace, more: &[&str]) -> Done {
    place.sara(&[&TRAIN, more].concat())
}

#[track_caller]
fn assert_refused(done: &Done, words: &[&str]) {
    assert_eq!((done.code, done.stderr.lines().count()), (Some(1), 1), "{done:?}");
    for word in words {
        assert!(done.stderr.contains(word), "no `{word}` in {}", done.stderr);
    }
}

fn lines(rows: &[(&str, Value)]) -> String {
    rows.iter()
        .map(|(text, label)| format!("{}\n", json!({"text": text, "label": label})))
        .collect::<Vec<_>>()
        .concat()
}

fn predictions(place: &Workplace, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ratings_are_the_same_classes_in_json_and_in_a_table() {
    let place = Workplace::of_fixture("roberta-mlm");
    let rows = [("good", "3"), ("bad", "1"), ("so so", "2"), ("fine", "3")];
    place.write("train.jsonl", &lines(&rows.map(|(text, label)| (text, json!(label)))));
    let csv = rows.iter().map(|(text, label)| format!("{text},{label}\n")).collect::<Vec<_>>().concat();
    place.write("valid.csv", &format!("text,label\n{csv}"));
    place.run_file(LORA, "batch_size = 4\nepochs = 40\nlearning_rate = 5e-3");
    let trained = place.json(&[&TRAIN[..], &["data.valid=valid.csv"]].concat());
    assert_eq!(trained["best"]["accuracy"], 1.0, "{trained}");
    for data in ["train.jsonl", "valid.csv"] {
        let eval = place.json(&["eval", "--model", "model", "--adapter", "run", "--data", data]);
        assert_eq!(eval["metrics"]["accuracy"], 1.0, "{data}");
    }
    place.sara_ok(&[
        "predict",
        "--model",
        "model",
        "--adapter",
        "run",
        "--data",
        "valid.csv",
        "--out",
        "out",
    ]);
    let said: Vec<Value> = predictions(&place, "out").iter().map(|line| line["label"].clone()).collect();
    assert_eq!(said, rows.map(|(_, label)| json!(label)));
}

#[test]
fn a_run_goes_on_with_what_it_was_started_with() {
    let place = place();
    let first = ["so so", "good", "bad", "fine"];
    let labels = ["neutral", "positive", "negative", "positive"].map(Value::from);
    let data = |order: [usize; 4]| lines(&order.map(|row| (first[row], labels[row].clone())));
    place.write("train.jsonl", &data([0, 1, 2, 3]));
    assert_eq!(train(&place, &["--stop-after", "2"]).code, Some(0));
    let changed = |what: &str, change: &dyn Fn()| {
        change();
        let done = train(&place, &["--resume"]);
        assert_refused(
            &done,
            &["run: the ", what, "have changed since the run was started", "put them back"],
        );
    };
    changed("training examples or their order", &|| place.write("train.jsonl", &data([1, 0, 2, 3])));
    let other = data([0, 1, 2, 3]).replace("so so", "so");
    changed("training examples or their order", &|| place.write("train.jsonl", &other));
    place.write("train.jsonl", &data([0, 1, 2, 3]));
    let valid = std::fs::read_to_string(place.path("valid.jsonl")).unwrap();
    changed("validation examples", &|| place.write("valid.jsonl", &valid.replace("fine", "good")));
    place.write("valid.jsonl", &valid);
    let config = std::fs::read_to_string(place.path("model/config.json")).unwrap();
    let renamed = config.replace("positive", "better");
    let in_data = |name: &str| {
        place.write("train.jsonl", &data([0, 1, 2, 3]).replace("positive", name));
        place.write("valid.jsonl", &valid.replace("positive", name));
    };
    changed("classes", &|| {
        place.write("model/config.json", &renamed);
        in_data("better");
    });
    place.write("model/config.json", &config);
    in_data("positive");
    let tokenizer = std::fs::read_to_string(place.path("model/tokenizer.json")).unwrap();
    let mut other: Value = serde_json::from_str(&tokenizer).unwrap();
    other["added_tokens"][4]["lstrip"] = json!(!other["added_tokens"][4]["lstrip"].as_bool().unwrap());
    changed("tokenizer", &|| place.write("model/tokenizer.json", &other.to_string()));
    place.write("model/tokenizer.json", &tokenizer);
    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    changed("weights of the model", &|| {
        std::fs::write(place.path("model/model.safetensors"), nudged(&weights)).unwrap();
    });
    std::fs::write(place.path("model/model.safetensors"), weights).unwrap();
    assert_eq!(train(&place, &["--resume"]).code, Some(0));
}

/// A file of f32 tensors with every value a little larger.
fn nudged(file: &[u8]) -> Vec<u8> {
    let header = 8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let (head, values) = file.split_at(header);
    let values =
        values.as_chunks::<4>().0.iter().flat_map(|&value| (f32::from_le_bytes(value) * 1.01).to_le_bytes());
    head.iter().copied().chain(values).collect()
}

#[test]
fn a_run_is_extended_when_it_is_asked_for() {
    let place = place();
    assert_eq!(train(&place, &[]).code, Some(0));
    let longer = ["optimizer.max_steps=6", "--resume"];
    assert_refused(&train(&place, &longer), &["max_steps = 4", "max_steps = 6"]);
    let done = train(&place, &[&longer[..], &["--extend"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.stdout.contains("from 4 to 6 optimizer steps: rates and phases are those of 6"),
        "{}",
        done.stdout
    );
    let summary: Value =
        serde_json::from_slice(&std::fs::read(place.path("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["steps"], 6);
    let metrics = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["loss"].is_number())
        .map(|record| record["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6], "no step is done twice");
    assert_refused(&train(&place, &[&longer[..], &["--extend"]].concat()), &["has 6 optimizer steps, and 6"]);
    assert_refused(
        &train(&place, &["optimizer.max_steps=8", "seed=1", "--resume", "--extend"]),
        &["seed = 0", "seed = 1"],
    );
    assert_eq!(train(&place, &["--extend"]).code, Some(2), "it is a way to resume");
}

#[test]
fn an_older_checkpoint_serves_where_the_newest_is_damaged() {
    let (place, whole) = (place(), place());
    for place in [&place, &whole] {
        assert_eq!(train(place, &["--stop-after", "3"]).code, Some(0));
    }
    let newest = place.path("run/checkpoints/step-3/trained.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let done = train(&place, &["--resume"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("the checkpoint of step 3 is damaged"), "{}", done.stdout);
    assert!(done.stdout.contains("at step 2"), "{}", done.stdout);
    assert_eq!(train(&whole, &["--resume"]).code, Some(0));
    let adapter = |place: &Workplace| std::fs::read(place.path("run/adapter/adapter.safetensors")).unwrap();
    assert!(adapter(&place) == adapter(&whole), "the same run in the end");

    let (place, ()) = (self::place(), ());
    assert_eq!(train(&place, &["--stop-after", "2"]).code, Some(0));
    for step in ["step-1", "step-2"] {
        place.write(&format!("run/checkpoints/{step}/state.json"), "{");
    }
    assert_refused(&train(&place, &["--resume"]), &["step-2/state.json"]);
}

#[test]
fn an_adapter_stays_beside_its_base() {
    let place = place();
    assert_eq!(train(&place, &[]).code, Some(0));
    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    std::fs::write(place.path("model/model.safetensors"), nudged(&weights)).unwrap();
    let words = ["was trained beside other weights than those of model", "`model`", "--any-base"];
    let with = ["--model", "model", "--adapter", "run/adapter"];
    for (command, more) in [
        ("eval", &["--data", "valid.jsonl"][..]),
        ("predict", &["--data", "valid.jsonl", "--out", "logits"]),
        ("merge", &["--out", "merged"]),
        ("export", &["--to", "peft", "--out", "exported"]),
    ] {
        let args = [&[command], &with[..], more].concat();
        assert_refused(&place.sara(&args), &words);
        let done = place.sara_ok(&[&args[..], &["--any-base"]].concat());
        assert!(done.stdout.contains("note        the adapter was trained beside other weights"), "{done:?}");
    }
    let from = ["output=second", "init_adapter=run/adapter"];
    assert_refused(&train(&place, &from), &words);
    assert_eq!(train(&place, &[&from[..], &["--any-base"]].concat()).code, Some(0));
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let place = place();
    let predict = |data: &str, out: &str, more: &[&str]| {
        place.sara(&[&["predict", "--model", "model", "--data", data, "--out", out], more].concat())
    };
    let before = std::fs::read(place.path("valid.jsonl")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        assert_refused(&predict("valid.jsonl", "valid.jsonl", more), &["valid.jsonl", "which is read"]);
        assert_refused(
            &predict("valid.jsonl", "model/config.json", more),
            &["belongs to model", "which is read"],
        );
        assert_refused(&predict("valid.jsonl", "model", more), &["model: is a directory"]);
    }
    assert!(std::fs::read(place.path("valid.jsonl")).unwrap() == before);
    place.write("out", "mine");
    assert_refused(&predict("valid.jsonl", "out", &[]), &["out: is there already", "--overwrite"]);
    assert_eq!(std::fs::read_to_string(place.path("out")).unwrap(), "mine");
    assert_eq!(predict("valid.jsonl", "out", &["--overwrite"]).code, Some(0));
    assert_eq!(predictions(&place, "out").len(), 4);
    assert_refused(&predict("valid.jsonl", "none/out", &[]), &["error: none: is no directory"]);

    assert_eq!(train(&place, &[]).code, Some(0));
    let merge = |out: &str, more: &[&str]| {
        place.sara(&[&["merge", "--model", "model", "--adapter", "run", "--out", out], more].concat())
    };
    assert_eq!(merge("merged", &[]).code, Some(0));
    assert_refused(&merge("merged", &[]), &["merged: is there already", "--overwrite"]);
    assert_eq!(merge("merged", &["--overwrite"]).code, Some(0));
    assert_refused(&merge("model", &["--overwrite"]), &["model, which is read"]);
    assert_refused(&merge(".", &["--overwrite"]), &["model, which is read"]);
    std::fs::create_dir(place.path("others")).unwrap();
    assert_refused(
        &merge("others", &["--overwrite"]),
        &["others: is not what this command writes", "config.json"],
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_pipes_are_written_into() {
    let place = place();
    let predict = ["predict", "--model", "model", "--data", "valid.jsonl", "--out"];
    place.write("kept", "");
    std::os::unix::fs::symlink("kept", place.path("link")).unwrap();
    place.sara_ok(&[&predict[..], &["link", "--overwrite"]].concat());
    assert!(std::fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert_eq!(predictions(&place, "kept").len(), 4);

    let mut made = std::process::Command::new("mkfifo");
    made.arg("pipe");
    assert_eq!(place.run(made).code, Some(0));
    let pipe = place.path("pipe");
    let reader = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap());
    place.sara_ok(&[&predict[..], &["pipe"]].concat());
    assert_eq!(reader.join().unwrap().lines().count(), 4);
    assert!(!std::fs::metadata(place.path("pipe")).unwrap().is_file());

    // The standard output, by its own name and by that of the system.
    for out in ["-", "/dev/stdout"] {
        let done = place.sara_ok(&[&predict[..], &[out]].concat());
        let said: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with('{')).collect();
        assert_eq!(said.len(), 4, "{out}: {done:?}");
        assert!(Path::new("/dev/stdout").exists());
    }
    let done = place.sara_ok(&[&predict[..], &["-"]].concat());
    assert!(done.stdout.lines().all(|line| line.starts_with('{')), "{}", done.stdout);
    assert_refused(&place.sara(&[&predict[..], &["-", "--json"]].concat()), &["--out - and --json"]);
}
