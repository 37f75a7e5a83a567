//! A run and what stands around it: finished before, started from an adapter, refused by PEFT, with files missing.

use serde_json::{Value, json};

use super::command::{Done, Workplace};

const SARA: &str = "[method.sara]\nshare = 0.3";
const TWO_STEPS: &str = "batch_size = 2\nmax_steps = 2";

fn place(method: &str) -> Workplace {
    let place = Workplace::of_fixture("roberta-cls3");
    place.run_file(method, TWO_STEPS);
    place
}

#[track_caller]
fn assert_refused(done: &Done, words: &[&str]) {
    assert_eq!((done.code, done.stderr.lines().count()), (Some(1), 1), "{done:?}");
    for word in words {
        assert!(done.stderr.contains(word), "no `{word}` in {}", done.stderr);
    }
}

/// Every file of a directory, with its bytes.
fn files(place: &Workplace, dir: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in place.entries(dir) {
        let path = format!("{dir}/{name}");
        if place.path(&path).is_dir() {
            all.extend(files(place, &path));
        } else {
            all.push((path.clone(), std::fs::read(place.path(&path)).unwrap()));
        }
    }
    all
}

fn edit(place: &Workplace, file: &str, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(place.path(file)).unwrap()).unwrap();
    change(&mut value);
    place.write(file, &value.to_string());
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let place = place(SARA);
    let first = place.json(&["train", "--config", "run.toml"]);
    let before = files(&place, "run");
    let again = place.sara_ok(&["train", "--config", "run.toml", "--resume"]);
    assert!(again.stdout.contains("run is trained to its end"), "{}", again.stdout);
    assert_eq!(place.json(&["train", "--config", "run.toml", "--resume"]), first);
    assert!(files(&place, "run") == before, "a file of the run has changed");
    let other = place.sara(&["train", "--config", "run.toml", "--resume", "seed=5"]);
    assert_refused(&other, &["seed = 0", "seed = 5"]);
}

#[test]
fn an_adapter_to_start_from_is_what_is_trained_or_an_error() {
    let place = place(SARA);
    place.sara_ok(&["train", "--config", "run.toml", "output=first"]);
    let from = |args: &[&str]| {
        place.sara(&[&["train", "--config", "run.toml", "init_adapter=first/adapter"], args].concat())
    };
    for (args, words) in [
        (&["method={lora={rank=3}}"][..], &["method = sara", "run file says lora"][..]),
        (&["method={sara={share=0.5}}"], &["sara.share = 0.3", "run file says 0.5"]),
        (&["targets=[\"query\"]"], &["targets = 4 layers with", "2 layers without", "value"]),
        (&["targets=\"all-linear\""], &["targets = 4 layers without", "12 layers with"]),
        (&["method={sara={shore=0.5}}"], &["unknown key `shore`", "`share`"]),
    ] {
        let done = from(args);
        assert_refused(&done, words);
        assert!(!place.path("run").exists(), "{args:?}");
    }
    // What agrees is taken, however it is written.
    let agreed =
        from(&["method={sara={share=3e-1,alpha=16}}", "targets=[\"value\",\"query\"]", "output=agreed"]);
    assert_eq!(agreed.code, Some(0), "{agreed:?}");

    // What is left out is the adapter's, is said, and stands in the run's own file.
    place.write("bare.toml", &std::fs::read_to_string(place.path("run.toml")).unwrap().replace(SARA, ""));
    let done = place.sara_ok(&["train", "--config", "bare.toml", "init_adapter=first/adapter"]);
    assert!(done.stdout.contains("method sara, as the adapter to start from has it"), "{}", done.stdout);
    assert!(done.stdout.contains("4 targets, as the adapter to start from has them"), "{}", done.stdout);
    let resolved = std::fs::read_to_string(place.path("run/run.toml")).unwrap();
    assert!(resolved.contains("share = 0.3") && resolved.contains("attention.self.query"), "{resolved}");
    assert_refused(&place.sara(&["train", "--config", "bare.toml", "output=x"]), &["exactly one method"]);
}

/// The phases are those of the method that is trained: it used to be another's that were asked.
#[test]
fn the_phases_of_the_adapter_to_start_from_must_fit() {
    let place =
        place("[method.adalora]\ninitial_rank = 3\ntarget_rank = 1\ninitial_steps = 0\nfinal_steps = 1");
    place.sara_ok(&["train", "--config", "run.toml", "output=first"]);
    let text = std::fs::read_to_string(place.path("run.toml")).unwrap();
    let (head, tail) = (text.find("[method").unwrap(), text.find("[data]").unwrap());
    place.write("bare.toml", &format!("{}{}", &text[..head], &text[tail..]));
    // An option that the adapter left to its default is another one too.
    let args = ["train", "--config", "run.toml", "init_adapter=first/adapter", "method.adalora.interval=7"];
    assert_refused(&place.sara(&args), &["adalora.interval = null", "run file says 7"]);
    let args = ["train", "--config", "bare.toml", "init_adapter=first/adapter", "optimizer.max_steps=1"];
    assert_refused(&place.sara(&args), &["adalora.initial_steps", "possible in 1 steps"]);
}

/// With a learning rate of zero nothing changes, so there is nothing that PEFT could load.
#[test]
fn a_run_that_peft_cannot_have_ends_well() {
    let place = place("[method.sara]\nshare = 0.3\nstart = \"zero_scale\"");
    let args = ["train", "--config", "run.toml", "optimizer.max_steps=1", "optimizer.warmup_ratio=1.0"];
    let done = place.sara_ok(&args);
    assert!(done.stdout.contains("no files for PEFT"), "{}", done.stdout);
    assert!(done.stdout.contains("no site changes anything"), "{}", done.stdout);
    assert!(place.path("run/summary.json").exists() && !place.path("run/peft").exists());
    // AdaLoRA's scales stay at zero too: this is how a finished run once ended with code 1 and no summary.
    let adalora = "method={adalora={initial_rank=3,target_rank=1}}";
    let args = ["train", "--config", "run.toml", adalora, "output=other", "optimizer.learning_rate=1e-300"];
    place.sara_ok(&args);
    assert!(place.path("other/summary.json").exists() && !place.path("other/peft").exists());
}

#[test]
fn merging_exporting_and_inspecting_need_no_tokenizer() {
    let place = place(SARA);
    place.sara_ok(&["train", "--config", "run.toml"]);
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    let adapter = ["--model", "model", "--adapter", "run/adapter"];
    place.sara_ok(&[&["merge"], &adapter[..], &["--out", "merged"]].concat());
    place.sara_ok(&[&["export"], &adapter[..], &["--to", "peft", "--out", "exported"]].concat());
    for path in ["model", "run", "run/adapter", "merged", "exported"] {
        place.sara_ok(&["inspect", path]);
    }
    let eval = [&["eval"], &adapter[..], &["--data", "valid.jsonl"]].concat();
    assert_refused(&place.sara(&eval), &["tokenizer.json", "does not exist"]);
}

#[test]
fn a_task_that_is_not_known_is_no_classifier() {
    let place = place(SARA);
    place.sara_ok(&["train", "--config", "run.toml"]);
    edit(&place, "run/adapter/adapter.json", |manifest| manifest["task"] = json!({"task": "causal-lm"}));
    for args in [
        &["merge", "--model", "model", "--adapter", "run/adapter", "--out", "out"][..],
        &["eval", "--model", "model", "--adapter", "run/adapter", "--data", "valid.jsonl"],
    ] {
        assert_refused(&place.sara(args), &["task {\"task\":\"causal-lm\"} is not known here"]);
    }
    assert!(!place.path("out").exists());
}

/// A head of more classes than its layer in the middle is wide: the shortest bias is another layer's.
#[test]
fn classes_are_counted_by_the_last_layer() {
    let place = Workplace::of_fixture("roberta-mlm");
    let label = |row: usize| format!("{}\n", json!({"text": "good", "label": format!("class {row:02}")}));
    let lines: String = (0..40).map(label).collect();
    place.write("train.jsonl", &lines);
    place.write("valid.jsonl", &lines);
    place.run_file("[method.lora]\nrank = 2", "batch_size = 8\nmax_steps = 2");
    place.sara_ok(&["train", "--config", "run.toml"]);
    place.sara_ok(&[
        "predict",
        "--model",
        "model",
        "--adapter",
        "run/peft",
        "--data",
        "valid.jsonl",
        "--out",
        "logits",
    ]);
    let text = std::fs::read_to_string(place.path("logits")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["logits"].as_array().unwrap().len(), 40);
}
