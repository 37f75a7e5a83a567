//! `cargo xtask bench`: how fast the decompositions are on a device, beside what one would otherwise call.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

mod picture;
mod rivals;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Parser, ValueEnum};
use sara_bench::kernels::Kernel;
use sara_bench::planted::Planted;
use sara_ops::threads::awake;
use sara_svd::SvdOps;
use serde::Serialize;

use crate::rivals::Rivals;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times each kernel on each size, alternately with its rivals, and prints medians.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// cpu, or a GPU backend that this was built with (`cargo xtask bench` builds the one that is named).
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Rows and columns of the matrices.
    #[arg(long, value_delimiter = ',', default_value = "64x64,768x768,3072x768,1024x1024,2048x2048")]
    sizes: Vec<String>,
    /// Kernels to run, by their names or a part of them; all by default.
    #[arg(long, value_delimiter = ',')]
    kernels: Vec<String>,
    /// Rounds; each runs every contender once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Without faer, nalgebra, numpy and torch.
    #[arg(long)]
    alone: bool,
    /// Write the table as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the times.
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
    Wgpu,
    Cuda,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    device: String,
    threads: usize,
    /// Of a product of two 2048 x 2048 matrices, in f32 as the decompositions have it, GFLOP/s.
    product_rate: f64,
    /// Of a matrix that is read and written, GB/s.
    copy_rate: f64,
    rows: Vec<Row>,
}

/// One kernel or rival on one size.
#[derive(Serialize)]
struct Row {
    size: String,
    kernel: &'static str,
    by: String,
    median_ms: f64,
    least_ms: f64,
    /// Of the values, relative to the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
    /// GFLOP/s in products, where it is known how many operations there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    product_rate: Option<f64>,
    /// GB/s of large matrices read or written by products, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_rate: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "--rounds 0 measures nothing: ask for at least 1");
    match arguments.device {
        #[cfg(feature = "flex")]
        Device::Cpu => awake(|| measure::<burn_flex::Flex>(arguments)),
        #[cfg(feature = "wgpu")]
        Device::Wgpu => measure::<burn_wgpu::Wgpu<f32, i32>>(arguments),
        #[cfg(feature = "cuda")]
        Device::Cuda => measure::<burn_cuda::Cuda<f32, i32>>(arguments),
        #[allow(unreachable_patterns, reason = "with every feature all devices are there")]
        _ => bail!("this was built without that device: build it with --features wgpu or cuda"),
    }
}

fn measure<B: SvdOps>(arguments: &Arguments) -> Result<()> {
    let sizes = arguments.sizes.iter().map(|size| parse(size)).collect::<Result<Vec<_>>>()?;
    let kernels: Vec<Kernel> = Kernel::ALL
        .into_iter()
        .filter(|kernel| {
            arguments.kernels.is_empty() || arguments.kernels.iter().any(|part| kernel.is_called(part))
        })
        .collect();
    ensure!(!kernels.is_empty(), "no kernel is called {}", arguments.kernels.join(" or "));
    let device = B::name(&B::Device::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (product_rate, copy_rate) = floors::<B>()?;
    println!("{device}, {threads} threads: products {product_rate:.0} GFLOP/s, copies {copy_rate:.1} GB/s\n");
    println!(
        "{:>11}  {:16} {:24} {:>10} {:>10} {:>9} {:>12} {:>10}",
        "size", "kernel", "by", "median ms", "least ms", "error", "of products", "of copies"
    );
    let on_host = matches!(arguments.device, Device::Cpu);
    let mut rivals = if arguments.alone { Rivals::none() } else { Rivals::start(on_host) };
    let mut report = Report { device, threads, product_rate, copy_rate, rows: Vec::new() };
    for (m, n) in sizes {
        let planted = Planted::pretrained(m, n, 0);
        rivals.show(&planted)?;
        for &kernel in kernels.iter().filter(|kernel| kernel.suits(m, n)) {
            for row in contest::<B>(&planted, kernel, &mut rivals, arguments.rounds)? {
                let share = |rate: Option<f64>, of: f64| {
                    rate.map_or(String::new(), |rate| format!("{:.0} %", 100.0 * rate / of))
                };
                let error = row.error.map_or(String::new(), |error| format!("{error:.1e}"));
                println!(
                    "{:>11}  {:16} {:24} {:>10.2} {:>10.2} {:>9} {:>12} {:>10}",
                    row.size,
                    row.kernel,
                    row.by,
                    row.median_ms,
                    row.least_ms,
                    error,
                    share(row.product_rate, product_rate),
                    share(row.byte_rate, copy_rate)
                );
                report.rows.push(row);
            }
        }
    }
    for missing in rivals.missing() {
        println!("not measured: {missing}");
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.svg {
        let picture = picture::times(&report);
        std::fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn parse(size: &str) -> Result<(usize, usize)> {
    let sides = size.split_once('x').and_then(|(m, n)| Some((m.parse().ok()?, n.parse().ok()?)));
    match sides {
        Some((m, n)) if m > 0 && n > 0 => Ok((m, n)),
        _ => bail!("the size {size} is not rows x columns: write it as 1024x768"),
    }
}

/// Before each contender: threads of OpenMP look for work for some milliseconds after the last.
const PAUSE: Duration = Duration::from_millis(30);

/// One kernel and its rivals in turn.
fn contest<B: SvdOps>(
    planted: &Planted,
    kernel: Kernel,
    rivals: &mut Rivals,
    rounds: usize,
) -> Result<Vec<Row>> {
    let a = planted.upload::<B>();
    let size = format!("{}x{}", planted.m, planted.n);
    let contenders = rivals.of(kernel, planted.m.min(planted.n));
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); contenders.len()];
    let outcome = kernel.run(a.clone()).map_err(|error| anyhow!("{size}, {}: {error}", kernel.name()))?; // warm
    for _ in 0..rounds {
        sync::<B>()?;
        sleep(PAUSE);
        let started = Instant::now();
        kernel.run(a.clone())?;
        ours.push(started.elapsed().as_secs_f64() * 1e3);
        for (rival, times) in contenders.iter().zip(&mut theirs) {
            sleep(PAUSE);
            if let Some(ms) = rivals.time(*rival, planted)? {
                times.push(ms);
            }
        }
    }
    let row = |by: &str, mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        Row {
            size: size.clone(),
            kernel: kernel.name(),
            by: by.to_owned(),
            median_ms: times[times.len() / 2],
            least_ms: times[0],
            error: None,
            product_rate: None,
            byte_rate: None,
        }
    };
    let ours = row("sara", ours);
    let rate = |count: Option<f64>| count.map(|count| count / ours.median_ms / 1e6);
    let (product_rate, byte_rate) = (rate(outcome.operations), rate(outcome.bytes));
    let error = (!outcome.values.is_empty()).then(|| planted.error(&outcome.values));
    let mut rows = vec![Row { error, product_rate, byte_rate, ..ours }];
    for (rival, times) in contenders.into_iter().zip(theirs) {
        if !times.is_empty() {
            rows.push(row(rival.name(), times));
        }
    }
    Ok(rows)
}

/// What the device can do at best: its rate at products and at copies.
fn floors<B: SvdOps>() -> Result<(f64, f64)> {
    const N: usize = 2048;
    let a = Planted { m: N, n: N, values: vec![0.5; N * N], spectrum: Vec::new() }.upload::<B>();
    Kernel::Product.run(a.clone()).map_err(|error| anyhow!("product: {error}"))?;
    let product = median(|| drop(Kernel::Product.run(a.clone())));
    let copy = median(|| drop((a.clone() * 1.5).slice([0..1, 0..1]).into_data()));
    sync::<B>()?;
    Ok((2.0 * (N * N * N) as f64 / product / 1e6, 8.0 * (N * N) as f64 / copy / 1e6))
}

fn median(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[3]
}

fn sync<B: SvdOps>() -> Result<()> {
    B::sync(&B::Device::default()).map_err(|error| anyhow!("{error}"))
}
