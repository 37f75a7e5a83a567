//! The same run gives the same bytes: in another process, and stopped and resumed. And what comes of an adapter.

use super::command::Workplace;

/// Merged weights are rounded to the base's f16, the adapter beside them is not: ten times what that does to a logit.
const MERGED: f64 = 1e-3;

/// The same factors by another file: scaling folded into one of them rounds once more.
const EXPORTED: f64 = 1e-5;

const LORA: &str =
    "targets = [\"query\", \"value\", \"intermediate.dense\"]\n[method.lora]\nrank = 4\ndropout = 0.1";
/// The budget falls from step 1 to step 9, every other step.
const ADALORA: &str = "targets = \"all-linear\"\n[method.adalora]\ninitial_rank = 3\ntarget_rank = 1\ndropout = 0.1\n\
                       initial_steps = 1\nfinal_steps = 3\ninterval = 2";
/// Pruned before the stop and after it.
const PRILORA: &str =
    "targets = \"all-linear\"\n[method.prilora]\nfirst_rank = 2\nlast_rank = 4\nprune_every = 3";
const MELORA: &str = "targets = [\"query\", \"value\"]\n[method.melora]\ndropout = 0.1";
/// Its gates are drawn in every step, its ranges are those of the first.
const BAYESIAN: &str = "targets = [\"query\", \"value\"]\n[method.bayesian_lora]\nrank = 4\ndropout = 0.1";
const LORTA: &str = "targets = [\"query\", \"key\", \"value\"]\n[method.lorta]\nrank = 4\ndropout = 0.1";
/// Pulled so hard that scores fall below the threshold within the run.
const TAPS: &str = "targets = [\"query\", \"value\"]\n[method.taps]\nstrength = 100";
const MO_SARA: &str = "targets = [\"query\", \"value\"]\n[method.mo_sara]\nshare = 0.2\ndropout = 0.1";
/// 44 examples: an epoch is 6 steps, the last of them of one micro-batch with 4 examples less.
const OPTIMIZER: &str =
    "learning_rate = 5e-3\nweight_decay = 0.01\nbatch_size = 4\naccumulate = 2\nepochs = 2";

fn place(method: &str) -> Workplace {
    let place = Workplace::of_assets(44, 16);
    place.run_file(method, OPTIMIZER);
    place
}

#[track_caller]
fn train(place: &Workplace, output: &str, args: &[&str]) {
    let output = format!("output={output}");
    place.sara_ok(&[&["train", "--config", "run.toml", "--device", "cpu", output.as_str()], args].concat());
}

fn bytes(place: &Workplace, file: &str) -> Vec<u8> {
    std::fs::read(place.path(file)).unwrap()
}

#[track_caller]
fn assert_same(place: &Workplace, [one, other]: [&str; 2], file: &str) {
    let same = bytes(place, &format!("{one}/{file}")) == bytes(place, &format!("{other}/{file}"));
    assert!(same, "{file} of {one} is not that of {other}");
}

/// One method's claims: another process, another seed, an interrupted run.
fn the_seed_decides_every_byte(method: &str, stop_after: &str) {
    let place = place(method);
    let backbone = bytes(&place, "model/model.safetensors");
    train(&place, "one", &[]);
    train(&place, "two", &[]);
    assert_same(&place, ["one", "two"], "adapter/adapter.safetensors");
    assert_same(&place, ["one", "two"], "adapter/adapter.json");
    assert_same(&place, ["one", "two"], "best/adapter.safetensors");

    train(&place, "other", &["seed=1"]);
    let adapter = |run: &str| bytes(&place, &format!("{run}/adapter/adapter.safetensors"));
    assert_ne!(adapter("one"), adapter("other"), "the seed has no effect");

    train(&place, "stopped", &["--stop-after", stop_after]);
    assert!(!place.path("stopped/adapter").exists(), "a stopped run has no adapter yet");
    train(&place, "stopped", &["--resume"]);
    assert_same(&place, ["one", "stopped"], "adapter/adapter.safetensors");
    assert_same(&place, ["one", "stopped"], "best/adapter.safetensors");
    assert_same(&place, ["one", "stopped"], "checkpoints/step-12/trained.safetensors");
    assert_same(&place, ["one", "stopped"], "checkpoints/step-12/optimizer.safetensors");
    assert_same(&place, ["one", "stopped"], "checkpoints/step-12/state.json");
    assert_eq!(losses(&place, "one"), losses(&place, "stopped"));

    assert!(bytes(&place, "model/model.safetensors") == backbone, "the backbone's file has changed");
}

/// Step, loss and norm of every step: all of a record that does not tell the time.
fn losses(place: &Workplace, run: &str) -> Vec<[serde_json::Value; 3]> {
    let text = String::from_utf8(bytes(place, &format!("{run}/metrics.jsonl"))).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let all: Vec<_> = records
        .filter(|record| record.get("loss").is_some())
        .map(|record| ["step", "loss", "gradient_norm"].map(|key| record[key].clone()))
        .collect();
    assert_eq!(all.len(), 12);
    all
}

#[test]
fn lora_stopped_in_mid_epoch() {
    the_seed_decides_every_byte(LORA, "4");
}

#[test]
fn adalora_stopped_in_mid_budget() {
    the_seed_decides_every_byte(ADALORA, "5");
}

#[test]
fn prilora_stopped_between_prunings() {
    the_seed_decides_every_byte(PRILORA, "4");
}

#[test]
fn melora_stopped_in_mid_epoch() {
    the_seed_decides_every_byte(MELORA, "4");
}

#[test]
fn bayesian_lora_stopped_in_mid_epoch() {
    the_seed_decides_every_byte(BAYESIAN, "4");
}

#[test]
fn lorta_stopped_in_mid_epoch() {
    the_seed_decides_every_byte(LORTA, "4");
}

#[test]
fn taps_stopped_while_scores_fall() {
    the_seed_decides_every_byte(TAPS, "7");
}

#[test]
fn mo_sara_stopped_in_mid_epoch() {
    the_seed_decides_every_byte(MO_SARA, "4");
}

/// Each thread takes its share of some 500 rows, and no value shows how many threads there were.
#[test]
fn threads_do_not_show() {
    let place = place(LORA);
    for threads in ["1", "2", "3"] {
        let args = ["--threads", threads, "optimizer.batch_size=32", "optimizer.accumulate=1"];
        train(&place, &format!("threads-{threads}"), &args);
    }
    assert_same(&place, ["threads-1", "threads-2"], "adapter/adapter.safetensors");
    assert_same(&place, ["threads-1", "threads-3"], "adapter/adapter.safetensors");
}

#[cfg(feature = "ndarray")]
#[test]
fn two_processes_on_ndarray() {
    let place = place(LORA);
    for output in ["output=one", "output=two"] {
        place.sara_ok(&["train", "--config", "run.toml", "--device", "ndarray", output]);
    }
    assert_same(&place, ["one", "two"], "adapter/adapter.safetensors");
}

#[test]
fn a_merged_model_predicts_what_the_adapted_one_does() {
    let place = place(LORA);
    train(&place, "run", &[]);
    let predict = |args: &[&str], out: &str| -> Vec<f64> {
        place.sara_ok(
            &[&["predict", "--data", "valid.jsonl", "--device", "cpu", "--out", out], args].concat(),
        );
        let text = String::from_utf8(bytes(&place, out)).unwrap();
        let row = |line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["logits"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect::<Vec<_>>()
        };
        let rows: Vec<_> = text.lines().map(row).collect();
        assert_eq!(rows.len(), 16);
        rows.concat()
    };
    place.sara_ok(&["merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"]);
    let adapted = predict(&["--model", "model", "--adapter", "run/adapter"], "adapted.jsonl");
    let merged = predict(&["--model", "merged"], "merged.jsonl");
    let portable = predict(&["--model", "model", "--adapter", "run/peft"], "portable.jsonl");

    // The same head without the adapter's factors: what they contribute.
    let bare = place.path("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy(place.path("run/adapter/adapter.json"), bare.join("adapter.json")).unwrap();
    let mut tensors = super::model::stored(&place.path("run/adapter/adapter.safetensors"));
    for (name, (_, _, values)) in &mut tensors {
        if name.rsplit('.').next() == Some("up") {
            values.fill(0);
        }
    }
    super::model::write(&tensors, &bare.join("adapter.safetensors"));
    let base = predict(&["--model", "model", "--adapter", "bare"], "base.jsonl");

    let difference = |other: &[f64]| {
        assert_eq!(other.len(), adapted.len());
        adapted.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let (of_merged, of_peft, of_base) = (difference(&merged), difference(&portable), difference(&base));
    assert!(of_merged <= MERGED, "merging changes a logit by {of_merged}");
    assert!(of_peft <= EXPORTED, "the export to PEFT changes a logit by {of_peft}");
    assert!(of_base > 100.0 * MERGED, "the adapter contributes {of_base}: the comparison proves nothing");
}
