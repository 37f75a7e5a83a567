//! `sara demo`: the whole job on a model and a task that the program brings along.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, ensure};
use burn_autodiff::Autodiff;
use clap::Args;
use sara_core::methods::lora::LoraConfig;
use sara_core::store::{replace_dir, write_file};
use sara_core::{AnyAdapter, MethodConfig, Seed, Targets};
use sara_models::classify::{Classify, classify};
use sara_models::encoder::Loaded;
use sara_models::run::{Data, Device, Ended, Mode, OptimizerConfig, Prepared, Run};
use sara_models::train::{Options, Trained};
use serde::Serialize;

use crate::console::{Console, count, table};
use crate::device::{Compute, Job, dispatch};
use crate::progress::Shown;
use crate::train::show_plan;

/// Arguments of `sara demo`.
#[derive(Args)]
pub(crate) struct Demo {
    /// Where the model, the data and the runs go.
    #[arg(long, default_value = "sara-demo")]
    out: PathBuf,
}

/// What the program brings along, by the path it gets.
const FILES: [(&str, &[u8]); 6] = [
    ("model/config.json", include_bytes!("../../../assets/model/config.json")),
    ("model/model.safetensors", include_bytes!("../../../assets/model/model.safetensors")),
    ("model/tokenizer.json", include_bytes!("../../../assets/model/tokenizer.json")),
    ("model/tokenizer_config.json", include_bytes!("../../../assets/model/tokenizer_config.json")),
    ("train.jsonl", include_bytes!("../../../assets/train.jsonl")),
    ("valid.jsonl", include_bytes!("../../../assets/valid.jsonl")),
];
/// Marks a directory that a later demo may replace.
const MARK: &str = "made-by-sara-demo";
/// Whose ranks are shown, and whose adapter is handed over.
const SHOWN: &str = "sara";

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

impl Demo {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let started = Instant::now();
        unpack(&self.out)?;
        console.say(format!(
            "unpacked    a RoBERTa of 0.8 million parameters and 2,600 sentences into {}",
            self.out.display()
        ));
        console.say("task        who acts, the larger or the smaller animal, and did it? (4 classes)");
        let report = dispatch(device.unwrap_or_default(), console, DemoJob { out: &self.out, console })?;
        let heading =
            ["method", "trainable", "accuracy", "stored bytes", "seconds"].map(str::to_owned).to_vec();
        let row = |row: &Row| {
            vec![
                row.method.clone(),
                count(row.trainable),
                format!("{:.3}", row.accuracy),
                count(row.stored_bytes as usize),
                format!("{:.1}", row.elapsed_ms / 1e3),
            ]
        };
        console.say(format!(
            "\n{}",
            table(&std::iter::once(heading).chain(report.rows.iter().map(row)).collect::<Vec<_>>())
        ));
        console.say("\ntrainable counts the adapter; each row trains a head of 17,028 besides, which an adapter's file holds");
        let (out, adapter) = (self.out.display(), report.adapter.display());
        console.say(format!("adapter     {adapter}"));
        console.say(format!("for PEFT    {}", report.peft.display()));
        console.say(format!("pictures    {}", report.adapter.with_file_name("*.svg").display()));
        console.say(format!("took        {:.0} s", started.elapsed().as_secs_f64()));
        console.say("\nnext, the adapter at work:");
        console.say(format!(
            "  sara predict --model {out}/model --adapter {adapter} --data {out}/valid.jsonl --out logits.jsonl"
        ));
        console.say(
            "and with a RoBERTa or BERT of your own, and a file of {\"text\": ..., \"label\": ...} lines:",
        );
        console.say("  sara ranks --model YOUR_MODEL --share 0.05");
        console.say(format!(
            "  sara train --config {} model=YOUR_MODEL output=first-run data.train=YOUR.jsonl data.valid=YOUR.jsonl data.max_tokens=128",
            report.adapter.with_file_name("run.toml").display()
        ));
        console.result(&report)
    }
}

/// Writes the files, in place of those of an earlier demo.
fn unpack(out: &Path) -> anyhow::Result<()> {
    let taken = out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !taken || out.join(MARK).exists(),
        "{}: holds something that is no demo; choose another --out",
        out.display()
    );
    replace_dir(out, |dir| {
        let model = dir.join("model");
        std::fs::create_dir(&model).map_err(|source| sara_core::Error::io(&model, source))?;
        write_file(&dir.join(MARK), b"")?;
        FILES.iter().try_for_each(|(name, bytes)| write_file(&dir.join(name), bytes))
    })?;
    Ok(())
}

struct DemoJob<'a> {
    out: &'a Path,
    console: Console,
}

impl Job for DemoJob<'_> {
    type Output = Report;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Report> {
        let Self { out, console } = self;
        let prepare = |method: &MethodConfig| {
            let mut run = Run {
                model: out.join("model"),
                output: out.join("runs").join(method.name()),
                targets: Some(Targets::Named(vec!["query".into(), "value".into()])),
                data: Data {
                    train: out.join("train.jsonl"),
                    valid: Some(out.join("valid.jsonl")),
                    ..Data::default()
                },
                optimizer: OptimizerConfig { batch_size: 32, epochs: Some(5), ..OptimizerConfig::default() },
                ..Run::default()
            };
            run.set_method(method)?;
            anyhow::Ok(Prepared::new(run)?)
        };
        let mut rows = vec![head_only::<B>(&prepare(&MethodConfig::Lora(LoraConfig::default()))?, device)?];
        console.say(finished(&rows[0]));
        for method in MethodConfig::all() {
            let started = Instant::now();
            let prepared = prepare(&method)?;
            let start = prepared.start::<B>(device)?;
            if method.name() == SHOWN {
                console.say(format!("\nranks of {SHOWN}\n{}\n", show_plan(&start.plan)));
            }
            let mut shown = Shown::new(console.quiet());
            let ended = prepared.execute::<B>(start, Mode::default(), &mut shown, device)?;
            let Ended::Finished(summary) = ended else { bail!("the demo was stopped") };
            rows.push(Row {
                method: method.name().to_owned(),
                trainable: summary.trainable,
                accuracy: summary.last.as_ref().and_then(|last| last.value("accuracy")).unwrap_or(f64::NAN),
                stored_bytes: summary.stored_bytes,
                elapsed_ms: started.elapsed().as_secs_f64() * 1e3,
            });
            console.say(rows.last().map(finished).unwrap_or_default());
        }
        let shown = out.join("runs").join(SHOWN);
        Ok(Report { rows, adapter: shown.join("adapter"), peft: shown.join("peft") })
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
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    Ok(Row { method: "head only".to_owned(), trainable: 0, accuracy, stored_bytes: 0, elapsed_ms })
}
