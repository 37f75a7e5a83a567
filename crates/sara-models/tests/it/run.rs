//! The run file: defaults, overrides, errors of one line, and the way there and back.

use std::path::Path;

use sara_core::Targets;
use sara_models::data::Task;
use sara_models::run::{BackboneDropout, Device, Run};
use sara_models::train::schedule::Schedule;
use serde::{Deserialize, Serialize};

const LEAST: &str = r#"
model = "m"
output = "o"
[data]
train = "t.jsonl"
valid = "v.jsonl"
[method.sara]
share = 0.05
"#;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    Sara(Sara),
    MoSara(Sara),
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sara {
    share: f64,
    limit: Option<usize>,
    convention: String,
}

fn parse(text: &str, overrides: &[&str]) -> Result<Run, sara_models::Error> {
    Run::parse(text, "run.toml", &overrides.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn load(overrides: &[&str]) -> Result<Run, sara_models::Error> {
    parse(LEAST, overrides)
}

#[track_caller]
fn assert_error(text: &str, overrides: &[&str], expected: &str) {
    let found = parse(text, overrides).map_err(|error| error.to_string());
    assert_eq!(found, Err(expected.to_owned()));
}

#[test]
fn defaults_fill_what_is_not_said() {
    let run = load(&[]).unwrap();
    assert_eq!((run.task, run.device, run.seed, run.save_every), (Task::Classify, Device::Auto, 0, 200));
    assert_eq!(
        (run.threads, run.eval_every, &run.init_adapter, run.data.max_tokens),
        (None, None, &None, None)
    );
    assert_eq!(run.targets, None);
    assert_eq!(run.backbone_dropout, BackboneDropout::Rate(0.0));
    assert!(run.data.shuffle);
    let toml = run.to_toml().unwrap();
    let optimizer = toml.split("[optimizer]").nth(1).unwrap();
    assert_eq!(
        optimizer.trim(),
        "weight_decay = 0.0\nbetas = [0.9, 0.999]\nepsilon = 0.00000001\nwarmup_ratio = 0.06\n\
         schedule = \"linear\"\nclip_norm = 1.0\nbatch_size = 16\naccumulate = 1\nepochs = 3"
    );
}

#[test]
fn every_key_of_the_contract_is_read_and_written() {
    let text = r#"
model = "path/to/checkpoint"
output = "runs/first"
task = "regress"
device = "wgpu"
threads = 3
seed = 7
backbone_dropout = "checkpoint"
save_every = 50
eval_every = 25
init_adapter = "other"
targets = "all-linear"
[data]
train = "train.jsonl"
valid = "valid.jsonl"
max_tokens = 64
shuffle = false
[method.lora]
rank = 8
alpha = 16.5
names = ["a", "b"]
[optimizer]
learning_rate = 1
weight_decay = 0.01
betas = [0.8, 0.95]
epsilon = 1e-6
warmup_ratio = 0
schedule = "cosine"
clip_norm = inf
batch_size = 4
accumulate = 2
max_steps = 30
"#;
    let run = parse(text, &[]).unwrap();
    assert_eq!((run.task, run.device, run.threads, run.seed), (Task::Regress, Device::Wgpu, Some(3), 7));
    assert_eq!(
        (run.targets.clone(), run.backbone_dropout),
        (Some(Targets::AllLinear), BackboneDropout::Checkpoint)
    );
    assert_eq!(
        (run.save_every, run.eval_every, run.init_adapter.as_deref()),
        (50, Some(25), Some(Path::new("other")))
    );
    assert_eq!((run.data.max_tokens, run.data.shuffle), (Some(64), false));
    let optimizer = &run.optimizer;
    assert_eq!(
        (optimizer.schedule, optimizer.epochs, optimizer.max_steps),
        (Schedule::Cosine, None, Some(30))
    );
    assert_eq!((optimizer.batch_size, optimizer.accumulate), (4, 2));
    let adamw = optimizer.adamw();
    let floats = [optimizer.learning_rate(), adamw.weight_decay, adamw.beta1, adamw.beta2, adamw.epsilon];
    assert_eq!(floats.map(f64::to_bits), [1.0, 0.01, 0.8, 0.95, 1e-6].map(f64::to_bits));
    assert!(optimizer.clip_norm.is_infinite());
    assert_eq!(run.method["lora"]["names"][1], "b");
    assert_eq!(parse(&run.to_toml().unwrap(), &[]).unwrap(), run);
}

#[test]
fn steps_count_the_rest_of_an_epoch() {
    let run = load(&["optimizer.batch_size=4", "optimizer.accumulate=2", "optimizer.epochs=2"]).unwrap();
    // 17 examples are 5 micro-batches, which are 3 steps.
    assert_eq!((run.optimizer.steps_per_epoch(17), run.optimizer.total_steps(17)), (3, 6));
    assert_eq!(load(&["optimizer.max_steps=5"]).unwrap().optimizer.total_steps(17), 5);
    let rates: Vec<f64> =
        (0..3).map(|step| load(&["optimizer.warmup_ratio=0.5"]).unwrap().optimizer.rate(step, 4)).collect();
    assert_eq!(rates, [0.0, 2.5e-4, 5e-4]);
}

#[test]
fn overrides_are_toml_or_text() {
    let run = load(&[
        "seed=3",
        "device=cpu",
        "model=some/path=with equals",
        "targets=[\"key\", \"output\"]",
        "optimizer.learning_rate=1e-3",
        "method.sara.share=0.2",
        "data.max_tokens=32",
        "seed=4",
    ])
    .unwrap();
    assert_eq!((run.seed, run.device, run.data.max_tokens), (4, Device::Cpu, Some(32)));
    assert_eq!(run.model, Path::new("some/path=with equals"));
    assert_eq!(run.targets, Some(Targets::Named(vec!["key".into(), "output".into()])));
    assert_eq!(run.optimizer.learning_rate().to_bits(), 1e-3f64.to_bits());
    assert_eq!(run.method["sara"]["share"], 0.2);
    // The key tells what is meant.
    let run = load(&["output=7", "targets=query, value", "optimizer.epochs=3.0", "data.text=1"]).unwrap();
    assert_eq!((run.output.as_path(), run.optimizer.epochs), (Path::new("7"), Some(3)));
    assert_eq!(run.targets, Some(Targets::Named(vec!["query".into(), "value".into()])));
    assert_eq!(run.data.text.as_deref(), Some("1"));
    assert!(load(&["optimizer.epochs=2.5"]).is_err());
    let home = std::env::var("HOME").unwrap();
    assert_eq!(load(&["model=~/m"]).unwrap().model, Path::new(&home).join("m"));
    // A value cannot smuggle in a second key.
    assert_eq!(load(&["output=1\nseed = 9"]).unwrap().output, Path::new("1\nseed = 9"));
}

#[test]
fn an_override_of_the_length_replaces_the_other_measure() {
    let text = format!("{LEAST}[optimizer]\nepochs = 5\n");
    let run = parse(&text, &["optimizer.max_steps=9"]).unwrap();
    assert_eq!((run.optimizer.epochs, run.optimizer.max_steps), (None, Some(9)));
    assert_error(
        &format!("{text}max_steps = 4\n"),
        &[],
        "optimizer.max_steps = 4 beside optimizer.epochs = 5: expected one of the two; leave the other out",
    );
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_error(
        &LEAST.replace("output", "ouptut"),
        &[],
        "run.toml, line 3: unknown key `ouptut`, the nearest is `output`; known here: model, output, task, device, \
         threads, seed, backbone_dropout, dtype, gradient_checkpointing, save_every, eval_every, init_adapter, targets, data, method, optimizer",
    );
    assert_error(
        &LEAST.replace("valid =", "validation ="),
        &[],
        "run.toml, line 6: unknown key `validation`, the nearest is `valid`; known here: train, valid, valid_share, \
         format, text, text_pair, label, labels, label_separator, packing, train_on, max_tokens, shuffle",
    );
    assert_error(
        LEAST,
        &["seed=1", "optimizer.learning_rat=1"],
        "override `optimizer.learning_rat=1`: unknown key `learning_rat`, the nearest is `learning_rate`; known here: \
         learning_rate, head_learning_rate, weight_decay, betas, epsilon, warmup_ratio, schedule, clip_norm, \
         batch_size, accumulate, epochs, max_steps",
    );
    assert_error(
        &format!("task = \"regres\"{LEAST}"),
        &[],
        "run.toml, line 1: unknown value `regres`, the nearest is `regress`; known here: classify, regress, multi-label, causal-lm",
    );
}

#[test]
fn wrong_types_are_one_line() {
    assert_error(
        &LEAST.replace("\"o\"", "3"),
        &[],
        "run.toml, line 3: invalid type: integer `3`, expected path string",
    );
    assert_error(LEAST, &["seed=-1"], "override `seed=-1`: invalid value: integer `-1`, expected u64");
    for wrong in ["backbone_dropout=true", "backbone_dropout=off"] {
        let problem = "expected a number from 0 to less than 1 or \"checkpoint\"";
        assert_error(LEAST, &[wrong], &format!("override `{wrong}`: {problem}"));
    }
    assert_error(
        LEAST,
        &["targets={query = 1}"],
        "override `targets={query = 1}`: expected a list of names such as [\"query\", \"value\"] or \"all-linear\"",
    );
    for broken in ["seed = \n", "seed = 1\nseed = 2\n", "[data\n"] {
        let message = parse(broken, &[]).unwrap_err().to_string();
        assert!(message.starts_with("run.toml, line ") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn overrides_have_one_form() {
    let usage = "write it as key=value or key.sub=value";
    for wrong in ["seed", "=3", "data.=3", " seed=3"] {
        assert_error(LEAST, &[wrong], &format!("override `{wrong}`: {usage}"));
    }
    assert_error(LEAST, &["seed.x=3"], "override `seed.x=3`: invalid type: map, expected u64");
    assert_error(
        LEAST,
        &["model.x=3"],
        &format!("override `model.x=3`: `model` is a value, not a table; {usage}"),
    );
}

#[test]
fn values_out_of_range_say_what_is_expected() {
    for (wrong, expected) in [
        ("model=", "model = \"\": expected the directory of a Hugging Face checkpoint"),
        (
            "data.valid=",
            "data.valid = \"\": expected a file of validation examples; leave it out to keep a share of the others apart",
        ),
        (
            "data.valid_share=0.2",
            "data.valid_share = 0.2: expected a share above 0 and below 1, where data.valid is left out",
        ),
        ("data.train=-", "data.train = \"-\": expected a file, since a run reads it again to go on"),
        ("targets=[]", "targets = []: expected names such as [\"query\", \"value\"], or \"all-linear\""),
        (
            "backbone_dropout=1",
            "backbone_dropout = 1: expected a number from 0 to less than 1, or \"checkpoint\"",
        ),
        ("save_every=0", "save_every = 0: expected 1 or more"),
        ("optimizer.batch_size=0", "optimizer.batch_size = 0: expected 1 or more"),
        ("optimizer.accumulate=0", "optimizer.accumulate = 0: expected 1 or more"),
        ("optimizer.max_steps=0", "optimizer.max_steps = 0: expected 1 or more"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate = 0: expected a finite number above 0"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate = inf: expected a finite number above 0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate = NaN: expected a finite number above 0"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay = -0.1: expected a finite number, 0 or more"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas[1] = 1: expected a number from 0 to less than 1"),
        (
            "optimizer.warmup_ratio=6",
            "optimizer.warmup_ratio = 6: expected a share of the steps, from 0 to 1",
        ),
        ("optimizer.clip_norm=0", "optimizer.clip_norm = 0: expected a number above 0, or inf"),
        (
            "method.lora.rank=8",
            "method = [\"lora\", \"sara\"]: expected exactly one method, as a table [method.NAME]",
        ),
    ] {
        assert_error(LEAST, &[wrong], expected);
    }
    let without = LEAST.split("[method").next().unwrap();
    assert_error(without, &[], "method = []: expected exactly one method, as a table [method.NAME]");
    assert_error(without, &["method.sara=1"], "method.sara = 1: expected a table [method.NAME]");
}

#[test]
fn the_method_is_read_strictly_and_written_resolved() {
    let mut run = load(&[]).unwrap();
    let method: Method = run.method().unwrap();
    assert_eq!(method, Method::Sara(Sara { share: 0.05, ..Sara::default() }));
    run.set_method(&method).unwrap();
    let toml = run.to_toml().unwrap();
    assert!(toml.contains("[method.sara]\nshare = 0.05\nconvention = \"\"\n"), "{toml}");
    assert_eq!(parse(&toml, &[]).unwrap().method::<Method>().unwrap(), method);

    let error = |key: &str| load(&[key]).unwrap().method::<Method>().unwrap_err().to_string();
    assert_eq!(
        error("method.sara.sahre=1"),
        "[method.sara]: unknown key `sahre`, the nearest is `share`; known here: share, limit, convention"
    );
    assert_eq!(error("method.sara.share=half"), "[method.sara]: invalid type: string \"half\", expected f64");
    let error =
        parse(&LEAST.replace("method.sara", "method.mosara"), &[]).unwrap().method::<Method>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "[method.mosara]: unknown value `mosara`, the nearest is `mo_sara`; known here: sara, mo_sara"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Run::load(Path::new("no/such/run.toml"), &[]).unwrap_err().to_string();
    assert!(error.starts_with("no/such/run.toml: "), "{error}");
}
