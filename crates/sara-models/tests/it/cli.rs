//! The command line as a contract: keys of the JSON objects, exit codes, one line for each error, nothing half-written.

use std::process::Command;

use serde_json::{Value, json};

use super::command::{Done, Workplace};
use super::model::{Stored, stored, write};

const LORA: &str = "[method.lora]\nrank = 2";
const TWO_STEPS: &str = "batch_size = 2\nmax_steps = 2";

/// A change of a file of the model, and what the error must say.
type Damage = (fn(&Workplace), &'static [&'static str]);

fn place() -> Workplace {
    let place = Workplace::of_fixture("roberta-cls3");
    place.run_file(LORA, TWO_STEPS);
    place
}

/// The command fails: code 1, one line, every word in it, and the same line without a backtrace asked for.
#[track_caller]
fn refused(place: &Workplace, args: &[&str], words: &[&str]) {
    let done = place.sara(args);
    assert_refused(&done, args, words);
    let mut quiet = Command::new("env");
    quiet.args(["-u", "RUST_BACKTRACE", env!("CARGO_BIN_EXE_sara")]).args(args);
    assert_eq!(place.run(quiet).stderr, done.stderr);
    assert!(!place.path("run").exists(), "{args:?} left an output directory");
    assert!(!place.path("out").exists(), "{args:?} left an output");
}

#[track_caller]
fn assert_refused(done: &Done, args: &[&str], words: &[&str]) {
    assert_eq!(done.code, Some(1), "{args:?}: {done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{args:?}: {}", done.stderr);
    assert!(done.stderr.starts_with("error: "), "{args:?}: {}", done.stderr);
    for word in words {
        assert!(done.stderr.contains(word), "{args:?} does not say `{word}`: {}", done.stderr);
    }
}

#[track_caller]
fn training_refused(place: &Workplace, overrides: &[&str], words: &[&str]) {
    refused(place, &[&["train", "--config", "run.toml"], overrides].concat(), words);
}

/// The keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn assert_keys(value: &Value, expected: &[&str]) {
    let keys = keys(value);
    for key in expected {
        assert!(keys.contains(key), "no `{key}` in {keys:?}");
    }
}

#[test]
fn json_objects_have_the_keys_of_the_contract() {
    let place = place();
    let params = place.json(&["params", "--model", "model", "--method", r#"{"lora":{"rank":2}}"#]);
    assert_keys(&params, &["trainable", "head", "total", "sites"]);
    assert_keys(&params["sites"][0], &["name", "d_in", "d_out", "rank", "trainable"]);
    assert_eq!(params["sites"][0]["name"], "roberta.encoder.layer.0.attention.self.query");

    let ranks = place.json(&["ranks", "--model", "model", "--share", "0.5"]);
    assert_keys(&ranks, &["share", "convention", "elapsed_ms", "sites"]);
    assert_keys(&ranks["sites"][0], &["name", "d_in", "d_out", "rank", "nuclear_norm", "spectral_norm"]);
    assert_eq!(ranks["sites"].as_array().unwrap().len(), 12, "all-linear");

    let train = place.json(&["train", "--config", "run.toml"]);
    let expected =
        ["output", "trainable", "steps", "step_ms", "tokens_per_second", "peak_memory_bytes", "best", "last"];
    assert_keys(&train, &expected);
    assert_keys(&train["last"], &["accuracy", "macro_f1", "loss"]);
    assert_eq!(
        (&train["steps"], &train["trainable"], &train["output"]),
        (&json!(2), &json!(512), &json!("run"))
    );
    for entry in [
        "adapter",
        "best",
        "checkpoints",
        "loss.svg",
        "metrics.jsonl",
        "peft",
        "ranks.svg",
        "run.toml",
        "summary.json",
    ] {
        assert!(place.path("run").join(entry).exists(), "no {entry}");
    }

    let eval = place.json(&["eval", "--model", "model", "--adapter", "run/adapter", "--data", "valid.jsonl"]);
    assert_keys(&eval, &["examples", "metrics"]);
    assert_eq!(eval["examples"], 4);
    assert_eq!(eval["metrics"]["accuracy"], train["last"]["accuracy"]);

    let merge = ["merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"];
    let merge = place.json(&merge);
    assert_keys(&merge, &["out", "sites"]);
    assert_keys(&merge["sites"][0], &["name", "frobenius_norm"]);
    assert_eq!(merge["sites"][0]["name"], "roberta.encoder.layer.0.attention.self.query");
}

/// A directory with a config.json and nothing else.
fn config_alone(hidden: usize, layers: usize, heads: usize) -> Workplace {
    let place = place();
    std::fs::create_dir(place.path("bare")).unwrap();
    let config = json!({
        "architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "vocab_size": 50265, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * hidden,
        "hidden_act": "gelu", "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
        "pad_token_id": 1
    });
    place.write("bare/config.json", &config.to_string());
    place
}

#[test]
fn params_need_a_config_alone() {
    let [base, large] = [config_alone(768, 12, 12), config_alone(1024, 24, 16)];
    for (place, method, trainable) in [
        (&base, r#"{"lora":{"rank":8}}"#, 294_912),
        (&large, r#"{"lora":{"rank":8}}"#, 786_432),
        (&base, r#"{"adalora":{"initial_rank":12}}"#, 442_656),
    ] {
        let args = ["params", "--model", "bare", "--method", method, "--targets", "query,value"];
        assert_eq!(place.json(&args)["trainable"], trainable, "{method}");
    }
    let args = ["params", "--model", "bare", "--method", r#"{"sara":{"share":0.05}}"#];
    refused(&base, &args, &["ranks of this method come from the weights", "no model.safetensors"]);
}

#[test]
fn damaged_models_are_refused() {
    fn weights(place: &Workplace, change: fn(&mut Stored)) {
        let path = place.path("model/model.safetensors");
        let mut tensors = stored(&path);
        change(&mut tensors);
        write(&tensors, &path);
    }
    const DENSE: &str = "roberta.encoder.layer.1.output.dense.weight";
    let cases: [Damage; 8] = [
        // Missing safetensors.
        (
            |place| std::fs::remove_file(place.path("model/model.safetensors")).unwrap(),
            &["no model.safetensors", "save the checkpoint as safetensors"],
        ),
        // Truncated safetensors.
        (
            |place| {
                let bytes = std::fs::read(place.path("model/model.safetensors")).unwrap();
                std::fs::write(place.path("model/model.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
            },
            &["model.safetensors", "not a whole safetensors file", "fetch or write it again"],
        ),
        // Header longer than the file.
        (
            |place| {
                let mut bytes = std::fs::read(place.path("model/model.safetensors")).unwrap();
                bytes[..8].copy_from_slice(&10_000_000_u64.to_le_bytes());
                std::fs::write(place.path("model/model.safetensors"), bytes).unwrap();
            },
            &["model.safetensors", "not a whole safetensors file"],
        ),
        // Wrong shape.
        (
            |place| weights(place, |tensors| tensors.get_mut(DENSE).unwrap().1.reverse()),
            &[DENSE, "expected [32, 48], found [48, 32]"],
        ),
        // A tensor missing.
        (
            |place| weights(place, |tensors| drop(tensors.remove(DENSE).unwrap())),
            &[DENSE, "missing, expected [32, 48]"],
        ),
        // A tensor unknown.
        (
            |place| {
                weights(place, |tensors| {
                    let copy = tensors[DENSE].clone();
                    tensors.insert("roberta.encoder.layer.2.extra.weight".to_owned(), copy);
                });
            },
            &["roberta.encoder.layer.2.extra.weight: unknown"],
        ),
        // A weight that is not a number.
        (
            |place| {
                weights(place, |tensors| {
                    tensors.get_mut(DENSE).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            &[DENSE, "1 of 1536 values are not finite"],
        ),
        // Unknown architecture.
        (
            |place| {
                let config = std::fs::read_to_string(place.path("model/config.json")).unwrap();
                place.write("model/config.json", &config.replace("\"roberta\"", "\"llamo\""));
            },
            &["config.json", "llamo", "roberta"],
        ),
    ];
    for (damage, words) in cases {
        let place = place();
        damage(&place);
        training_refused(&place, &[], words);
        refused(&place, &["eval", "--model", "model", "--data", "valid.jsonl"], words);
    }
}

#[test]
fn wrong_settings_are_refused() {
    let place = place();
    training_refused(
        &place,
        &["optimizer.lerning_rate=1"],
        &["unknown key `lerning_rate`", "nearest is `learning_rate`"],
    );
    training_refused(
        &place,
        &["targets=[\"qury\"]"],
        &["`qury` matches no linear layer", "query, key, value"],
    );
    training_refused(&place, &["method.lora.rank=0"], &["rank 0", "1..=32", "another rank"]);
    training_refused(&place, &["method.lora.rank=33"], &["rank 33", "1..=32", "another rank"]);
    training_refused(
        &place,
        &["model=nowhere"],
        &[
            "nowhere: there is no such directory",
            "no snapshot of nowhere in the hub's cache",
            "models--nowhere",
        ],
    );
    training_refused(
        &place,
        &["model=./no/such/model"],
        &["./no/such/model/config.json: does not exist", "Hugging Face checkpoint"],
    );
    for device in ["cuda", "wgpu"] {
        let words = [
            &format!("without the backend {device}"),
            &format!("--features {device}"),
            "choose another --device",
        ];
        training_refused(&place, &["--device", device], &words.map(|word| word as &str));
    }
    refused(&place, &["ranks", "--model", "model", "--share", "1.5"], &["share 1.5", "between 0 and 1"]);
    let words = ["unknown value `lorra`", "nearest is `lora`"];
    refused(&place, &["params", "--model", "model", "--method", r#"{"lorra":{}}"#], &words);
    refused(
        &place,
        &["params", "--model", "model", "--method", "lora"],
        &["write it as {\"lora\": {\"rank\": 8}}"],
    );

    place.run_file("[method.lorra]\nrank = 2", TWO_STEPS);
    training_refused(&place, &[], &words);
    place.run_file("[method.sara]\nshare = 1.5", TWO_STEPS);
    training_refused(&place, &[], &["share", "1.5", "0..=1"]);
    place.run_file("[method.adalora]\ninitial_steps = 5\ninitial_rank = 2\ntarget_rank = 1", TWO_STEPS);
    training_refused(&place, &[], &["adalora", "5"]);
    place.run_file("outpt = \"run\"\n[method.lora]", TWO_STEPS);
    training_refused(&place, &[], &["run.toml, line 3", "unknown key `outpt`", "nearest is `output`"]);
}

#[test]
fn bad_data_is_refused() {
    let place = place();
    let good = "{\"text\": \"good\", \"label\": \"positive\"}\n";
    for (line, words) in [
        (
            "{\"text\": \"good\", \"label\": \"angry\"}",
            ["line 2", "label `angry` is unknown", "negative, neutral, positive"],
        ),
        ("{\"text\": \"good\", ", ["line 2", "not a JSON object", "one object"]),
        (
            "{\"text\": \"<pad><pad>\", \"label\": \"neutral\"}",
            ["line 2", "no token of its own", "remove the line"],
        ),
    ] {
        place.write("bad.jsonl", &format!("{good}{line}\n"));
        training_refused(&place, &["data.train=bad.jsonl"], &[&["bad.jsonl"], &words[..]].concat());
        training_refused(&place, &["data.valid=bad.jsonl"], &[&["bad.jsonl"], &words[..]].concat());
    }
    place.write("bad.jsonl", "");
    training_refused(&place, &["data.train=bad.jsonl"], &["bad.jsonl: holds no examples", "at least one"]);
    let args = ["predict", "--model", "model", "--data", "bad.jsonl", "--out", "out"];
    refused(&place, &args, &["bad.jsonl: holds no examples"]);
    // Said once, although the file's name and the system's words are two errors, one inside the other.
    let done = place.sara(&["train", "--config", "run.toml", "data.train=none.jsonl"]);
    assert_refused(&done, &[], &["data.train = none.jsonl", "count from the working directory, /"]);
    assert_eq!(done.stderr.matches("No such file").count(), 1, "{}", done.stderr);
}

#[test]
fn the_tokenizer_of_another_model_is_refused() {
    let place = place();
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(place.path("model/tokenizer.json")).unwrap()).unwrap();
    for id in tokenizer["model"]["vocab"].as_object_mut().unwrap().values_mut() {
        // Past the special tokens, which are found by their text.
        if id.as_u64().unwrap() > 8 {
            *id = json!(id.as_u64().unwrap() + 50_000);
        }
    }
    place.write("model/tokenizer.json", &tokenizer.to_string());
    training_refused(
        &place,
        &[],
        &["train.jsonl, line 1: the token `", "has the id 50", "embedding has 320 rows", "another model's"],
    );
}

/// Layers that PEFT lists at rank 0 are left out, and whoever uses the adapter is told.
#[test]
fn what_an_import_decides_is_said_by_every_command() {
    let place = place();
    let adapter = super::model::fixture("peft-adalora-rank0");
    let adapter = adapter.to_str().unwrap();
    let bare = std::fs::read_to_string(place.path("run.toml")).unwrap().replace(LORA, "");
    place.write("bare.toml", &bare);
    for args in [
        &["eval", "--model", "model", "--adapter", adapter, "--data", "valid.jsonl"][..],
        &["predict", "--model", "model", "--adapter", adapter, "--data", "valid.jsonl", "--out", "logits"],
        &["merge", "--model", "model", "--adapter", adapter, "--out", "merged"],
        &["export", "--model", "model", "--adapter", adapter, "--to", "peft", "--out", "exported"],
        &["import", "--model", "model", "--from", adapter, "--out", "imported"],
        &["train", "--config", "bare.toml", &format!("init_adapter={adapter}")],
    ] {
        let done = place.sara_ok(args);
        assert!(done.stdout.contains("rank 0, not adapted"), "{args:?}: {}", done.stdout);
        assert!(!done.stdout.contains("is new"), "{args:?}: {}", done.stdout);
    }
}

#[test]
fn a_run_is_never_written_over() {
    let place = place();
    place.sara_ok(&["train", "--config", "run.toml"]);
    let adapter = std::fs::read(place.path("run/adapter/adapter.safetensors")).unwrap();
    let done = place.sara(&["train", "--config", "run.toml", "seed=1"]);
    assert_refused(&done, &["again"], &["run: holds something already", "another output", "--resume"]);
    let done = place.sara(&["train", "--config", "run.toml", "seed=1", "--resume"]);
    assert_refused(&done, &["resume"], &["seed = 0", "seed = 1", "own settings"]);
    assert!(std::fs::read(place.path("run/adapter/adapter.safetensors")).unwrap() == adapter);
}

/// What a full disk does, by a limit on the size of files: the write fails half-way.
#[cfg(unix)]
#[test]
fn a_failed_write_leaves_nothing_half_written() {
    let place = place();
    let limited = |blocks: usize, args: &str| {
        let mut shell = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {} {args}", env!("CARGO_BIN_EXE_sara"));
        shell.args(["-c", &script]);
        place.run(shell)
    };
    // Not even the run file can be written.
    assert_refused(&limited(0, "train --config run.toml"), &["limit 0"], &["run.toml", "large"]);
    assert!(!place.path("run").exists());
    // Four KiB: the run file fits, no tensors do.
    assert_refused(&limited(8, "train --config run.toml"), &["limit 8"], &["safetensors", "large"]);
    assert_eq!(
        place.entries("run"),
        ["inputs.json", "metrics.jsonl", "run.toml"],
        "left of a run that could not write"
    );

    let done = place.sara_ok(&["train", "--config", "run.toml", "output=whole"]);
    assert!(done.stderr.is_empty(), "{}", done.stderr);
    let before = place.entries(".");
    let merge = "merge --model model --adapter whole/adapter --out out";
    assert_refused(&limited(8, merge), &["merge"], &["large"]);
    assert_refused(
        &limited(0, "predict --model model --data valid.jsonl --out out"),
        &["predict"],
        &["out", "large"],
    );
    assert_refused(
        &limited(0, "export --model model --adapter whole/adapter --to peft --out out"),
        &["export"],
        &["large"],
    );
    assert_eq!(place.entries("."), before);
}

#[test]
fn wrong_usage_is_code_two() {
    let place = place();
    for args in [
        &["trian"][..],
        &["train"],
        &["ranks", "--model", "model", "--share", "many"],
        &["eval", "--device", "gpu"],
    ] {
        assert_eq!(place.sara(args).code, Some(2), "{args:?}");
    }
    assert_eq!(place.sara(&["--help"]).code, Some(0));
}
