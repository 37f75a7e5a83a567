//! The demo of a model that tells classes apart.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn_autodiff::Autodiff;
use sara_core::methods::lora::LoraConfig;
use sara_core::{AnyAdapter, MethodConfig, Seed, Targets};
use sara_models::classify::{Classify, classify};
use sara_models::encoder::Loaded;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::{Device, OptimizerConfig, Prepared, Run};
use sara_models::train::{Options, Trained};
use serde::Serialize;

use super::{File, elapsed_ms, handed_over, prepare, say_results, train_all, unpack};
use crate::console::{Console, count, table};
use crate::device::{Compute, Job, dispatch};

const FILES: [File; 6] = [
    ("model/config.json", include_bytes!("../../../../assets/model/config.json")),
    ("model/model.safetensors", include_bytes!("../../../../assets/model/model.safetensors")),
    ("model/tokenizer.json", include_bytes!("../../../../assets/model/tokenizer.json")),
    ("model/tokenizer_config.json", include_bytes!("../../../../assets/model/tokenizer_config.json")),
    ("train.jsonl", include_bytes!("../../../../assets/train.jsonl")),
    ("valid.jsonl", include_bytes!("../../../../assets/valid.jsonl")),
];

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    adapter: PathBuf,
    peft: PathBuf,
}

#[derive(Serialize)]
struct Row {
    method: String,
    trainable: usize,
    accuracy: f64,
    stored_bytes: u64,
    elapsed_ms: f64,
}

pub(super) fn run(out: &Path, device: Device, console: Console, started: Instant) -> anyhow::Result<()> {
    unpack(out, &FILES)?;
    console.say(format!(
        "unpacked    a RoBERTa of 0.8 million parameters and 2,600 sentences into {}",
        out.display()
    ));
    console.say("task        who acts, the larger or the smaller animal, and did it? (4 classes)");
    let rows = dispatch(device, console, Methods { out, console })?;
    let heading = ["method", "trainable", "accuracy", "stored bytes", "seconds"].map(str::to_owned).to_vec();
    let row = |row: &Row| {
        vec![
            row.method.clone(),
            count(row.trainable),
            format!("{:.3}", row.accuracy),
            count(row.stored_bytes as usize),
            format!("{:.1}", row.elapsed_ms / 1e3),
        ]
    };
    let lines: Vec<_> = std::iter::once(heading).chain(rows.iter().map(row)).collect();
    console.say(format!("\n{}", table(&lines)));
    console.say(
        "\ntrainable counts the adapter; each row trains a head of 17,028 besides, which an adapter's file holds",
    );
    let [adapter, peft] = handed_over(out);
    say_results(console, &[adapter.clone(), peft.clone()], started);
    console.say("\nnext, the adapter at work:");
    let (dir, from) = (out.display(), adapter.display());
    console.say(format!(
        "  sara predict --model {dir}/model --adapter {from} --data {dir}/valid.jsonl --out logits.jsonl"
    ));
    console
        .say("and with a RoBERTa or BERT of your own, and a file of {\"text\": ..., \"label\": ...} lines:");
    console.say("  sara ranks --model YOUR_MODEL --share 0.05");
    console.say(format!(
        "  sara train --config {} model=YOUR_MODEL output=first-run data.train=YOUR.jsonl data.valid=YOUR.jsonl data.max_tokens=128",
        adapter.with_file_name("run.toml").display()
    ));
    console.result(&Report { rows, adapter, peft })
}

struct Methods<'a> {
    out: &'a Path,
    console: Console,
}

impl Job for Methods<'_> {
    type Output = Vec<Row>;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Vec<Row>> {
        let Self { out, console } = self;
        let base = Run {
            targets: Some(Targets::Named(vec!["query".into(), "value".into()])),
            optimizer: OptimizerConfig { batch_size: 32, ..OptimizerConfig::default() },
            ..Run::default()
        };
        let first = prepare::<EncoderConfig>(out, &base, &MethodConfig::Lora(LoraConfig::default()))?;
        let mut rows = vec![head_only::<B>(&first, device)?];
        console.say(finished(&rows[0]));
        train_all::<EncoderConfig, B>(out, &base, console, device, |summary, started| {
            let accuracy = summary.last.as_ref().and_then(|last| last.value("accuracy"));
            let row = Row {
                method: summary.method.clone(),
                trainable: summary.trainable,
                accuracy: accuracy.unwrap_or(f64::NAN),
                stored_bytes: summary.stored_bytes,
                elapsed_ms: elapsed_ms(started),
            };
            console.say(finished(&row));
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }
}

fn finished(row: &Row) -> String {
    format!("trained     {}: accuracy {:.3} in {:.1} s", row.method, row.accuracy, row.elapsed_ms / 1e3)
}

/// The frozen model with nothing but a head: what the adapters are worth.
fn head_only<B: Compute>(prepared: &Prepared, device: &B::Device) -> anyhow::Result<Row> {
    let started = Instant::now();
    let Prepared { run, checkpoint, answer, train, valid, .. } = prepared;
    let Loaded { model, head, .. } =
        checkpoint.load::<Autodiff<B>>(answer.n_labels(), Seed(run.seed), device)?;
    let options = Options { seed: run.seed, optimizer: run.optimizer.clone(), ..Options::default() };
    let trained = Trained::new(None::<AnyAdapter<Autodiff<B>>>, head);
    let task = Classify { model: &model, train, valid: Some(valid), options };
    let outcome = classify(&task, trained, None, &mut ())?;
    let accuracy = outcome.last.and_then(|metrics| metrics.value("accuracy")).unwrap_or(f64::NAN);
    let (method, elapsed_ms) = ("head only".to_owned(), elapsed_ms(started));
    Ok(Row { method, trainable: 0, accuracy, stored_bytes: 0, elapsed_ms })
}
