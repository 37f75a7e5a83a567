//! `sara`: adapt a pretrained model from the command line.

#![expect(clippy::print_stderr, reason = "a command speaks to its terminal")]

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[path = "sara/adapter.rs"]
mod adapter;
#[path = "sara/allocator.rs"]
mod allocator;
#[path = "sara/console.rs"]
mod console;
#[path = "sara/demo.rs"]
mod demo;
#[path = "sara/device.rs"]
mod device;
#[path = "sara/doctor.rs"]
mod doctor;
#[path = "sara/eval.rs"]
mod eval;
#[path = "sara/export.rs"]
mod export;
#[path = "sara/files.rs"]
mod files;
#[path = "sara/generate.rs"]
mod generate;
#[path = "sara/import.rs"]
mod import;
#[path = "sara/inspect.rs"]
mod inspect;
#[path = "sara/merge.rs"]
mod merge;
#[path = "sara/params.rs"]
mod params;
#[path = "sara/predict.rs"]
mod predict;
#[path = "sara/progress.rs"]
mod progress;
#[path = "sara/ranks.rs"]
mod ranks;
#[path = "sara/train.rs"]
mod train;

use console::Console;
use sara_models::run::Device;

/// Adapt a pretrained model: pick ranks, train an adapter, hand it over.
#[derive(Parser)]
#[command(name = "sara", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand understands.
#[derive(Args, Clone, Copy)]
struct Global {
    /// Where to compute.
    #[arg(long, global = true, value_enum)]
    device: Option<Device>,
    /// Threads of the CPU; all of them by default.
    #[arg(long, global = true)]
    threads: Option<std::num::NonZeroUsize>,
    /// Print one JSON object on standard output, and everything else on standard error.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show it all on a built-in model: ranks, training, a table of methods, the exported adapter.
    Demo(demo::Demo),
    /// The rank of each layer, from the singular values of its weight.
    Ranks(ranks::Ranks),
    /// Count trainable parameters, from config.json alone where the method allows it.
    Params(params::Params),
    /// Train an adapter as a run file says.
    Train(train::Train),
    /// Measure a model, with or without an adapter, on labelled data.
    Eval(eval::Eval),
    /// Write what a model says about each line.
    Predict(predict::Predict),
    /// Let a model write.
    Generate(generate::Generate),
    /// Fold an adapter into the weights and write the checkpoint.
    Merge(merge::Merge),
    /// Write an adapter in another program's format.
    Export(export::Export),
    /// Make a native adapter of a PEFT one.
    Import(import::Import),
    /// What a model, adapter or run directory holds.
    Inspect(inspect::Inspect),
    /// What this program can compute on, here.
    Doctor,
}

fn main() -> ExitCode {
    allocator::keep_memory();
    let Cli { global, command } = Cli::parse();
    let console = Console { json: global.json, quiet: false, aside: global.json };
    if let Err(error) = run(global, command, console) {
        // One line, whatever RUST_BACKTRACE says: the chain of causes, outermost first, none said twice.
        let mut line = error.to_string();
        for cause in error.chain().skip(1).map(ToString::to_string) {
            if !line.ends_with(&cause) {
                line = format!("{line}: {cause}");
            }
        }
        eprintln!("error: {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(global: Global, command: Command, console: Console) -> anyhow::Result<()> {
    if let Some(threads) = global.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    let device = global.device;
    match command {
        Command::Demo(command) => command.run(device, console),
        Command::Ranks(command) => command.run(device, console),
        Command::Params(command) => command.run(device, console),
        Command::Train(command) => command.run(device, console),
        Command::Eval(command) => command.run(device, console),
        Command::Predict(command) => command.run(device, console),
        Command::Generate(command) => command.run(device, console),
        Command::Merge(command) => command.run(device, console),
        Command::Export(command) => command.run(device, console),
        Command::Import(command) => command.run(device, console),
        Command::Inspect(command) => command.run(console),
        Command::Doctor => doctor::run(console),
    }
}
