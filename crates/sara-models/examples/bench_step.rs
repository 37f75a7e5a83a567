//! Times the training step of an adapter on a checkpoint, beside the floor that its matrix products set.
//!
//! `cargo xtask bench-step --model DIR`; one JSON object on standard output.
#![expect(clippy::print_stdout, reason = "the output is the point")]

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Distribution, Tensor};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use clap::Parser;
use rand::Rng;
use sara_core::{MethodConfig, Role, Seed, Site, Targets};
use sara_models::architecture::Architecture;
use sara_models::classify::{Classify, Dataset, Gold, Item, Lengths, Report, classify};
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::Loaded;
use sara_models::encoder::config::EncoderConfig;
use sara_models::run::OptimizerConfig;
use sara_models::train::{Options, Trained, peak_memory_bytes};
use sara_ops::threads::awake;
use serde_json::json;

#[path = "../src/bin/sara/allocator.rs"]
mod allocator;

#[derive(Parser)]
struct Args {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// The method and its configuration, as JSON.
    #[arg(long, default_value = r#"{"lora":{"rank":8}}"#)]
    method: String,
    /// Module names, separated by commas.
    #[arg(long, default_value = "query,value")]
    targets: String,
    /// Examples of a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of an example.
    #[arg(long, default_value_t = 128)]
    seq: usize,
    /// Optimizer steps; the median counts.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    allocator::keep_memory();
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    // As the command line does it.
    awake(|| bench(&args))
}

fn bench(args: &Args) -> anyhow::Result<()> {
    let device = FlexDevice;
    let checkpoint = EncoderCheckpoint::open(&args.model)?;
    let config = &checkpoint.config;
    let names = args.targets.split(',').map(str::to_owned).collect();
    let targets = Targets::Named(names);
    let method: MethodConfig = serde_json::from_str(&args.method)?;
    let (adapter, _) = checkpoint.new_adapter(&method, &targets, Seed(0), &device)?;
    let Loaded { model, head, .. } = checkpoint.load_with_new_head::<Autodiff<Flex>>(2, Seed(0), &device)?;
    let optimizer =
        OptimizerConfig { batch_size: args.batch, max_steps: Some(args.steps), ..OptimizerConfig::default() };
    let options = Options { optimizer, shuffle: false, ..Options::default() };
    let data = random_data(config, args.batch, args.seq);
    let task = Classify { model: &model, train: &data, valid: None, options };
    let outcome = classify(&task, Trained::new(adapter, head), None, &mut ())?;
    let peak = peak_memory_bytes();

    let flops = step_flops(config, args.batch, args.seq);
    let rate = product_rate();
    let floor_ms = flops / rate * 1e3;
    println!(
        "{}",
        json!({
            "step_ms": outcome.step_ms,
            "peak_memory_bytes": peak,
            "tokens_per_second": outcome.tokens_per_second,
            "gflop": flops / 1e9,
            "product_gflop_per_second": rate / 1e9,
            "floor_ms": floor_ms,
            "of_floor": floor_ms / outcome.step_ms,
        })
    );
    Ok(())
}

/// Full sequences of random tokens: no padding, so that the work is known.
fn random_data(config: &EncoderConfig, rows: usize, seq: usize) -> Dataset {
    let mut rng = Seed(0).rng("bench");
    let ordinary = 5.min(config.vocab_size as u32 - 1)..config.vocab_size as u32;
    let mut item = |row: usize| Item {
        ids: (0..seq).map(|_| rng.random_range(ordinary.clone())).collect(),
        types: vec![0; seq],
        target: Gold::Class(row % 2),
    };
    let items = (0..rows).map(&mut item).collect();
    let tokens = Lengths { min: seq, p25: seq, p50: seq, p75: seq, p95: seq, max: seq };
    let report = Report {
        path: PathBuf::from("random tokens"),
        examples: rows,
        max_tokens: seq,
        tokens,
        ..Report::default()
    };
    Dataset { items, places: (0..rows).collect(), lines: (1..=rows).collect(), report }
}

/// Floating-point operations of the matrix products that a step of a classifier cannot do without.
///
/// Forward, the last block needs keys and values of every token, and the rest of the first one alone. Back, the weights are
/// frozen, so that each layer costs as much as forward, but nothing below the first block's projections is trained. The
/// adapters' own are a hundredth of it.
fn step_flops(config: &EncoderConfig, rows: usize, seq: usize) -> f64 {
    let (first, last) = (0, config.n_layers - 1);
    let of_linear = |linear: &sara_core::Target| {
        let Site { layer, role } = linear.site;
        let tokens =
            if layer == last && !matches!(role, Role::Key | Role::Value) { rows } else { rows * seq };
        let ways =
            if layer == first && matches!(role, Role::Query | Role::Key | Role::Value) { 1 } else { 2 };
        2.0 * (ways * tokens * linear.d_in * linear.d_out) as f64
    };
    // Two products forward and four back, for every query.
    let of_attention = |layer: usize| {
        let queries = if layer == last { rows } else { rows * seq };
        2.0 * (6 * queries * seq * config.hidden) as f64
    };
    config.linears().iter().map(of_linear).sum::<f64>() + (0..config.n_layers).map(of_attention).sum::<f64>()
}

/// Rate of one large product, in operations per second: the best of five.
fn product_rate() -> f64 {
    let n = 2048_u32;
    let random = || Tensor::<Flex, 2>::random([n as usize; 2], Distribution::Default, &FlexDevice);
    let (a, b) = (random(), random());
    let time = || {
        let started = Instant::now();
        let c = a.clone().matmul(b.clone());
        std::hint::black_box(c);
        started.elapsed().as_secs_f64()
    };
    2.0 * f64::from(n).powi(3) / (0..5).map(|_| time()).fold(f64::INFINITY, f64::min)
}
