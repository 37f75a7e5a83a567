//! `sara demo`: the whole job on a model and a task that the program brings along.

#[path = "demo/causal_lm.rs"]
mod causal_lm;
#[path = "demo/classify.rs"]
mod classify;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use sara_core::MethodConfig;
use sara_core::store::{replace_dir, write_file};
use sara_models::run::{Data, Device, Ended, Mode, OptimizerConfig, Prepared, Run, Summary, Trains};
use serde::Serialize;

use crate::console::{Console, table};
use crate::device::Compute;
use crate::progress::Shown;
use crate::train::show_plan;

/// Arguments of `sara demo`.
#[derive(Args)]
pub(crate) struct Demo {
    /// Where the model, the data and the runs go.
    #[arg(long, default_value = "sara-demo")]
    out: PathBuf,
    /// What the model is for.
    #[arg(long, value_enum, default_value = "classify")]
    task: Lesson,
}

/// What the built-in models are for.
#[derive(Clone, Copy, ValueEnum)]
enum Lesson {
    /// A RoBERTa that tells classes apart.
    Classify,
    /// A LLaMA that solves word problems.
    CausalLm,
}

/// A file that the program brings along, by the path it gets.
type File = (&'static str, &'static [u8]);

/// Marks a directory that a later demo may replace.
const MARK: &str = "made-by-sara-demo";
/// Whose ranks are shown, and whose adapter is handed over.
const SHOWN: &str = "sara";

impl Demo {
    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let started = Instant::now();
        let device = device.unwrap_or_default();
        match self.task {
            Lesson::Classify => classify::run(&self.out, device, console, started),
            Lesson::CausalLm => causal_lm::run(&self.out, device, console, started),
        }
    }
}

/// Writes the files, in place of those of an earlier demo.
fn unpack(out: &Path, files: &[File]) -> anyhow::Result<()> {
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
        files.iter().try_for_each(|(name, bytes)| write_file(&dir.join(name), bytes))
    })?;
    Ok(())
}

/// The run of one method in the demo's directory, with what is particular to the task in `base`.
fn prepare<F: Trains>(out: &Path, base: &Run, method: &MethodConfig) -> anyhow::Result<Prepared<F>> {
    let mut run = Run {
        model: out.join("model"),
        output: out.join("runs").join(method.name()),
        data: Data {
            train: out.join("train.jsonl"),
            valid: Some(out.join("valid.jsonl")),
            ..base.data.clone()
        },
        optimizer: OptimizerConfig { epochs: Some(5), ..base.optimizer.clone() },
        ..base.clone()
    };
    run.set_method(method)?;
    Ok(Prepared::new(run)?)
}

/// Trains every method by its defaults, one after the other; `ended` sees each at its end, and when it began.
fn train_all<F: Trains, B: Compute>(
    out: &Path,
    base: &Run,
    console: Console,
    device: &B::Device,
    mut ended: impl FnMut(&Summary, Instant) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for method in MethodConfig::all() {
        let started = Instant::now();
        let prepared = prepare::<F>(out, base, &method)?;
        let start = prepared.start::<B>(device)?;
        if method.name() == SHOWN {
            console.say(format!("\nranks of {SHOWN}\n{}\n", show_plan(&start.plan)));
        }
        let mut shown = Shown::new(console.quiet());
        match prepared.execute::<B>(start, Mode::default(), &mut shown, device)? {
            Ended::Finished(summary) => ended(&summary, started)?,
            Ended::Stopped(_) => bail!("the demo was stopped"),
        }
    }
    Ok(())
}

/// A line for each row, below the names of the columns.
fn table_of<R, const N: usize>(columns: [&str; N], rows: &[R], cells: impl Fn(&R) -> [String; N]) -> String {
    let lines = rows.iter().map(|row| cells(row).to_vec());
    table(&std::iter::once(columns.map(str::to_owned).to_vec()).chain(lines).collect::<Vec<_>>())
}

/// What a reader may type after the demo.
struct Next<'a> {
    /// The command that puts the adapter to work, which gets `--model` and `--adapter`, and its other arguments.
    at_work: [&'a str; 2],
    /// Models that the task is for.
    models: &'a str,
    /// A line of its data.
    line: &'a str,
    /// Tokens at which texts of it may be cut.
    max_tokens: usize,
}

/// What `--json` says.
#[derive(Serialize)]
struct Report<R> {
    rows: Vec<R>,
    adapter: PathBuf,
    peft: PathBuf,
}

/// What came out, how long it took, and what is next.
fn conclude<R: Serialize>(
    console: Console,
    out: &Path,
    rows: Vec<R>,
    started: Instant,
    next: &Next<'_>,
) -> anyhow::Result<()> {
    let Next { at_work: [command, arguments], models, line, max_tokens } = next;
    let run = out.join("runs").join(SHOWN);
    let (adapter, peft) = (run.join("adapter"), run.join("peft"));
    console.say(format!("adapter     {}", adapter.display()));
    console.say(format!("for PEFT    {}", peft.display()));
    console.say(format!("pictures    {}", run.join("*.svg").display()));
    console.say(format!("took        {:.0} s", started.elapsed().as_secs_f64()));
    console.say("\nnext, the adapter at work:");
    let (dir, from) = (out.display(), adapter.display());
    console.say(format!("  {command} --model {dir}/model --adapter {from} {arguments}"));
    console.say(format!("and with {models} of your own, and a file of {line} lines:"));
    console.say("  sara ranks --model YOUR_MODEL --share 0.05");
    console.say(format!(
        "  sara train --config {} model=YOUR_MODEL output=first-run data.train=YOUR.jsonl data.valid=YOUR.jsonl data.max_tokens={max_tokens}",
        run.join("run.toml").display()
    ));
    console.result(&Report { rows, adapter, peft })
}

/// Milliseconds since.
fn elapsed_ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
