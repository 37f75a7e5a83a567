//! The project's own tasks, run as `cargo xtask TASK`: tests, checks, data, goldens.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

mod backends;
mod debian_sections;
mod golden;
mod random;
mod steps;
mod test;
mod tidy;
mod validate;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use steps::{cargo, run};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all tests, on every backend this machine can run
    Test,
    /// Run all checks, cheapest first: format, tidy, dependency direction, lints, documentation
    Validate,
    /// Check what no compiler checks: file names and sizes, headings, links
    Tidy,
    /// Build a data set from what this machine already has
    #[command(subcommand)]
    Data(Data),
    /// Run the Python generators of the golden fixtures (`SARA_PYTHON` names the interpreter)
    ///
    /// With `--check` they leave the fixtures alone and fail where they now make something else.
    Golden(Passed),
    /// Load what sara exported with the Python libraries that users have
    Interop(Passed),
    /// Make a model and the data that `sara demo` has built in (`--task classify` or `--task causal-lm`)
    Pretrain(Passed),
    /// Time the decompositions on a device, beside faer, nalgebra, numpy and torch
    Bench(Passed),
    /// Time a training step
    BenchStep(Passed),
}

#[derive(Subcommand)]
enum Data {
    /// Sort Debian packages into 16 archive sections by their description
    DebianSections {
        /// Directory for `train.jsonl` and `valid.jsonl`
        #[arg(long)]
        out: PathBuf,
        /// Seed of the draw of packages
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

#[derive(Args)]
struct Passed {
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Test => test::test(root),
        Task::Validate => validate::validate(root),
        Task::Tidy => tidy::tidy(root),
        Task::Data(Data::DebianSections { out, seed }) => debian_sections::write(&out, seed),
        Task::Golden(Passed { args }) => golden::golden(root, &args),
        Task::Interop(Passed { args }) => golden::interop(root, &args),
        Task::Pretrain(Passed { args }) => example(root, "pretrain", &args),
        Task::Bench(Passed { args }) => bench(root, &args),
        Task::BenchStep(Passed { args }) => example(root, "bench_step", &args),
    }
}

/// The workspace's directory.
fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Runs sara-bench, built for the device that the arguments name.
fn bench(root: &Path, args: &[String]) -> Result<()> {
    let named = |device: &str| args.iter().any(|arg| arg.split('=').any(|part| part == device));
    let features: Vec<&str> = ["wgpu", "cuda"].into_iter().filter(|device| named(device)).collect();
    let run_bench =
        ["run", "--release", "--locked", "-p", "sara-bench", "--features", &features.join(","), "--"];
    // It keeps its memory, as the command `sara` does.
    if !run(cargo(root, run_bench).args(args).env("MIMALLOC_PURGE_DELAY", "-1"))? {
        bail!("the bench failed");
    }
    Ok(())
}

/// Runs an example of sara-models.
fn example(root: &Path, name: &str, args: &[String]) -> Result<()> {
    let run_example = ["run", "--release", "--locked", "-p", "sara-models", "--example", name, "--"];
    if !run(cargo(root, run_example).args(args))? {
        bail!("the example {name} failed");
    }
    Ok(())
}
