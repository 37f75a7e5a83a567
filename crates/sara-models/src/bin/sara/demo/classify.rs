//! The demo of a model that tells classes apart.

use std::path::Path;
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

use super::{File, Next, conclude, elapsed_ms, prepare, table_of, train_all, unpack};
use crate::console::{Console, count};
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
    let columns = ["method", "trainable", "accuracy", "stored bytes", "seconds"];
    let table = table_of(columns, &rows, |row: &Row| {
        [
            row.method.clone(),
            count(row.trainable),
            format!("{:.3}", row.accuracy),
            count(row.stored_bytes as usize),
            format!("{:.1}", row.elapsed_ms / 1e3),
        ]
    });
    console.say(format!("\n{table}"));
    console.say(
        "\ntrainable counts the adapter; each row trains a head of 17,028 besides, which an adapter's file holds",
    );
    let data = format!("--data {}/valid.jsonl --out logits.jsonl", out.display());
    let next = Next {
        at_work: ["sara predict", &data],
        models: "a RoBERTa or BERT",
        line: "{\"text\": ..., \"label\": ...}",
        max_tokens: 128,
    };
    conclude(console, out, rows, started, &next)
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
