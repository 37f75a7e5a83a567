//! What the command does with the methods that are not LoRA: what they store, report, hand over or refuse.

use std::path::Path;

use sara_core::MethodConfig;
use serde_json::Value;

use super::command::Workplace;

const FAST: &str = "learning_rate = 1e-2\nbatch_size = 8\nepochs = 2";

fn trained(method: &str) -> Workplace {
    let place = Workplace::of_assets(40, 16);
    place.run_file(&format!("targets = [\"query\", \"value\"]\n{method}"), FAST);
    place.sara_ok(&["train", "--config", "run.toml", "--device", "cpu"]);
    place
}

fn logits(place: &Workplace, adapter: &str) -> String {
    let args = [
        "predict",
        "--model",
        "model",
        "--adapter",
        adapter,
        "--data",
        "valid.jsonl",
        "--out",
        "logits",
        "--overwrite",
    ];
    place.sara_ok(&[&args[..], &["--device", "cpu"]].concat());
    std::fs::read_to_string(place.path("logits")).unwrap()
}

fn refused(place: &Workplace, args: &[&str], words: &[&str]) {
    let done = place.sara(args);
    assert_eq!((done.code, done.stderr.trim().lines().last().is_some()), (Some(1), true), "{done:?}");
    for word in words {
        assert!(done.stderr.contains(word), "no `{word}` in {}", done.stderr);
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (std::fs::metadata(a).unwrap(), std::fs::metadata(b).unwrap());
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[test]
fn mo_sara_keeps_what_is_frozen_apart() {
    let place = trained("[method.mo_sara]\nshare = 0.2\nexperts = 3");
    let file = |dir: &str| place.path(dir).join("frozen.safetensors");
    assert!(same_file(&file("run/adapter"), &file("run/best")), "what is frozen is on the disk twice");
    let inspected = place.json(&["inspect", "run/adapter"]);
    let size = |name: &str| std::fs::metadata(place.path("run/adapter").join(name)).unwrap().len();
    assert_eq!(inspected["stored_bytes"], size("adapter.safetensors"));
    assert_eq!(inspected["frozen_bytes"], size("frozen.safetensors"));
    let use_of_experts = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    assert!(use_of_experts.contains("expert_use"), "{use_of_experts}");
    let picture = std::fs::read_to_string(place.path("run/router.svg")).unwrap();
    assert!(picture.contains("layers.0-query, expert 3: ") && picture.contains("layers.3-value, expert 1: "));

    // Without it the same logits, from the base; beside another base an error.
    let before = logits(&place, "run/adapter");
    std::fs::remove_file(file("run/adapter")).unwrap();
    assert_eq!(logits(&place, "run/adapter"), before);
    assert_eq!(place.json(&["inspect", "run/adapter"])["frozen_bytes"], 0);
    let base = place.path("model/model.safetensors");
    let mut bytes = std::fs::read(&base).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Signs of every other value: finite as before, and other matrices.
    bytes[header..].chunks_exact_mut(4).for_each(|pair| pair[1] ^= 0x80);
    std::fs::write(&base, bytes).unwrap();
    let args =
        ["predict", "--model", "model", "--adapter", "run/adapter", "--data", "valid.jsonl", "--out", "x"];
    refused(&place, &args, &["trained beside other weights", "--any-base"]);
    let any = [&args[..], &["--any-base"]].concat();
    refused(&place, &any, &["trained beside other weights", "frozen.safetensors"]);
}

#[test]
fn mo_sara_is_handed_over_at_the_mean_of_its_gates() {
    let place = trained("[method.mo_sara]\nshare = 0.2\nexperts = 3");
    assert!(!place.path("run/peft").exists());
    let export = ["export", "--model", "model", "--adapter", "run/adapter", "--to", "peft", "--out", "peft"];
    refused(&place, &export, &["makes the change depend on the input", "--collapse mean-gate"]);
    let collapse = [&export[..], &["--collapse", "mean-gate", "--calibrate", "train.jsonl"]].concat();
    let report = place.json(&collapse);
    let loss = |key: &str| report[key].as_f64().unwrap();
    // PEFT's files do not name the classes, which are numbered in their order.
    let text = std::fs::read_to_string(place.path("train.jsonl")).unwrap();
    let names = ["larger_did_not", "larger_did", "smaller_did_not", "smaller_did"];
    let number = |text: String, (name, number): (&str, &str)| text.replace(name, number);
    let numbered = names.into_iter().zip(["1", "0", "3", "2"]).fold(text, number);
    place.write("numbered.jsonl", &numbered);
    let measured = |adapter: &str| {
        let data = if adapter == "peft" { "numbered.jsonl" } else { "train.jsonl" };
        let args = ["eval", "--model", "model", "--data", data, "--device", "cpu"];
        let report = place.json(&[&args[..], &["--adapter", adapter]].concat());
        report["metrics"]["loss"].as_f64().unwrap()
    };
    assert!((loss("loss_before") - measured("run/adapter")).abs() < 1e-5);
    assert!((loss("loss_after") - measured("peft")).abs() < 1e-5);

    let one = trained("[method.mo_sara]\nshare = 0.2\nexperts = 1");
    assert!(one.path("run/peft").exists());
    let args = [&export[..], &["--collapse", "mean-gate", "--calibrate", "train.jsonl"]].concat();
    refused(&one, &args, &["nothing in this adapter depends on the input"]);
}

#[test]
fn taps_stores_what_is_active() {
    let place = trained("[method.taps]\nstrength = 0.2\ninitial_score = 0.13");
    let inspected = place.json(&["inspect", "run/adapter"]);
    let sites = inspected["sites"].as_array().unwrap();
    let active = |site: &&Value| site["active"].as_f64() == Some(1.0);
    let (all, changed) = (sites.len(), sites.iter().filter(active).count());
    assert!(0 < changed && changed < all, "some layers are active and some are not: {inspected}");
    let share = inspected["totals"]["active_share"].as_f64().unwrap();
    assert!((share - changed as f64 / all as f64).abs() < 1e-9, "{share}");
    let stored = super::model::stored(&place.path("run/adapter/adapter.safetensors"));
    let named = |last: &str| stored.keys().filter(|name| name.rsplit('.').next() == Some(last)).count();
    assert_eq!((named("delta"), named("score")), (changed, all));
    // What evaluation computes is what was stored.
    let summary: Value =
        serde_json::from_slice(&std::fs::read(place.path("run/summary.json")).unwrap()).unwrap();
    let args =
        ["eval", "--model", "model", "--adapter", "run/adapter", "--data", "valid.jsonl", "--device", "cpu"];
    let loss = place.json(&args)["metrics"]["loss"].as_f64().unwrap();
    assert!((loss - summary["last"]["loss"].as_f64().unwrap()).abs() < 1e-6);

    let shared = place.json(&["inspect", "run/adapter", "run/best"]);
    assert!(shared["shared_sites"].as_u64().unwrap() as usize <= all);
}

#[test]
fn bayesian_lora_reports_its_bits() {
    let place = trained("[method.bayesian_lora]\nrank = 4");
    let inspected = place.json(&["inspect", "run/adapter"]);
    let site = &inspected["sites"][0];
    for quantizer in ["base", "down", "scale", "up", "base_out", "down_out", "scale_out", "up_out", "out"] {
        let bits = site["bits"][quantizer].as_f64().unwrap();
        assert!([2.0, 4.0, 8.0, 16.0, 32.0].contains(&bits), "{quantizer}: {bits}");
    }
    assert!((1.0..=4.0).contains(&site["kept_rank"].as_f64().unwrap()));
    assert!((0.0..=1.0).contains(&inspected["totals"]["bit_operations"].as_f64().unwrap()));
    let merge = ["merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"];
    refused(&place, &merge, &["quantize_base = false", "quantize_activations = false"]);
}

#[test]
fn prilora_has_its_zeros() {
    let place = trained("[method.prilora]\nfirst_rank = 2\nlast_rank = 4\nprune_every = 100");
    let inspected = place.json(&["inspect", "run/adapter"]);
    for site in inspected["sites"].as_array().unwrap() {
        assert!((site["zero_share"].as_f64().unwrap() - 0.5).abs() < 1e-9, "{site}");
    }
    let ranks: Vec<u64> =
        inspected["sites"].as_array().unwrap().iter().map(|site| site["rank"].as_u64().unwrap()).collect();
    // 2, 2.67, 3.33, 4, rounded half up, query and value.
    assert_eq!(ranks, [2, 2, 3, 3, 3, 3, 4, 4]);
}

#[test]
fn the_learning_rate_is_the_methods_unless_it_is_said() {
    let place = Workplace::of_assets(40, 16);
    place.run_file("[method.lorta]", "epochs = 1");
    let done = place.sara_ok(&["train", "--config", "run.toml", "--device", "cpu", "--dry-run"]);
    let said = |done: &super::command::Done| format!("{}{}", done.stdout, done.stderr);
    assert!(said(&done).contains("the default of lorta"), "{done:?}");
    let args =
        ["train", "--config", "run.toml", "--device", "cpu", "--dry-run", "optimizer.learning_rate=1e-3"];
    assert!(!said(&place.sara_ok(&args)).contains("the default of"));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let place = Workplace::of_assets(40, 16);
    place.run_file("targets = [\"query\", \"value\"]\n[method.lora]", "epochs = 1");
    for (method, words) in [
        ("mo_sara={experts=0}", ["mo_sara.experts: 0", "1 or more"]),
        ("mo_sara={router_hidden=0}", ["mo_sara.router_hidden: 0", "1 or more"]),
        ("mo_sara={share=1.5}", ["mo_sara.share: 1.5", "0..=1"]),
        ("prilora={first_rank=0}", ["prilora.first_rank: 0", "1 or more"]),
        ("prilora={first_rank=500}", ["prilora.first_rank", "1..=128"]),
        ("prilora={prune_every=0}", ["prilora.prune_every: 0", "1 or more"]),
        ("prilora={prune_share=1.0}", ["prilora.prune_share: 1", "less than 1"]),
        ("melora={minis=3}", ["melora.minis: 3", "divisor"]),
        ("melora={minis=0}", ["melora.minis: 0", "1 or more"]),
        ("melora={rank=0}", ["melora.rank", "1..="]),
        ("bayesian_lora={strength=-1}", ["bayesian_lora.strength: -1", "from 0 on"]),
        ("bayesian_lora={rank=0}", ["bayesian_lora.rank: 0", "1 or more"]),
        ("taps={threshold=inf}", ["taps.threshold", "number"]),
        ("taps={strength=-0.5}", ["taps.strength: -0.5", "from 0 on"]),
        ("lorta={rank=0}", ["lorta.rank", "1"]),
        ("lora={ranks={kwery=2}}", ["lora.ranks: `kwery`", "`query`"]),
        ("lora={rank=\"a\"}", ["lora.rank", "invalid type"]),
    ] {
        let args = ["train", "--config", "run.toml", "--device", "cpu", &format!("method={{{method}}}")];
        refused(&place, &args, &words);
        assert!(!place.path("run").exists(), "{method}: something was written");
    }
    let args = ["train", "--config", "run.toml", "method={lorta={}}", "targets=[\"intermediate.dense\"]"];
    refused(&place, &args, &["128 -> 512", "target layers of the attention"]);
}

/// The demo is to show what a method is worth: each more than the head alone, and LoRA not at the end of the scale.
#[test]
fn the_demo_tells_the_methods_apart() {
    /// Parameters of the head.
    const HEAD: f64 = 17_028.0;
    let place = Workplace::of_assets(1, 1);
    let done = place.sara_ok(&["demo", "--out", "demo", "--device", "cpu", "--json"]);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |name: &str, key: &str| {
        let row = rows.iter().find(|row| row["method"] == name);
        row.unwrap_or_else(|| panic!("no row for {name}"))[key].as_f64().unwrap()
    };
    assert_eq!(rows.len(), 1 + MethodConfig::NAMES.len());
    let head = of("head only", "accuracy");
    for name in MethodConfig::NAMES {
        assert!(of(name, "accuracy") > head, "{name}: {}, the head alone {head}", of(name, "accuracy"));
        // All that is trained, the head too, in f32; of TAPS the changes that are not active may be left out.
        let changes = if *name == "taps" { 0.0 } else { of(name, "trainable") };
        assert!(of(name, "stored_bytes") > 4.0 * (HEAD + changes), "{name}");
    }
    assert!(of("lora", "accuracy") < 0.97);
    assert!(place.path("demo/runs/sara/adapter/adapter.safetensors").exists());
}

/// The same of the model that writes: without an adapter it solves nothing, and with each it solves some.
#[test]
fn the_demo_of_a_model_that_writes_tells_the_methods_apart() {
    let place = Workplace::of_assets(1, 1);
    let args = ["demo", "--task", "causal-lm", "--out", "demo", "--device", "cpu", "--json"];
    let report: Value = serde_json::from_str(&place.sara_ok(&args).stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(names, MethodConfig::NAMES);
    for row in rows {
        let [before, after] = ["exact_match_before", "exact_match"].map(|key| row[key].as_f64().unwrap());
        assert!(before < 0.05 && after > before + 0.1, "{}: {before}, then {after}", row["method"]);
        let answers = row["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 3);
        for answer in answers {
            let [prompt, before, after] =
                ["prompt", "before", "after"].map(|key| answer[key].as_str().unwrap());
            assert!(
                prompt.ends_with("? answer :") && after.contains(" , and ") && before != after,
                "{answer}"
            );
        }
    }
    assert!(rows[0]["exact_match"].as_f64().unwrap() < 0.97, "LoRA");
    assert!(place.path("demo/runs/sara/peft/adapter_config.json").exists());
}
