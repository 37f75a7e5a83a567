//! Decomposes every matrix of a safetensors file.
//!
//! `cargo run --release -p sara-svd --example decompose -- IN.safetensors OUT.safetensors [options]`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use sara_ops::threads::awake;
use sara_svd::{Accuracy, Algorithm, Svd, SvdOps, Way, randomized_svd, svd_by};
use serde::Serialize;

/// Large buffers come back from it at once, not page by page from the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Writes `NAME.u`, `NAME.s` and `NAME.vt` in f32 for every tensor `NAME` of two dimensions but positions and masks.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// The safetensors file to read.
    input: PathBuf,
    /// The safetensors file to write; not touched where a tensor is refused.
    output: PathBuf,
    /// `auto` is the fastest accurate method of the device, or randomized where --rank leaves much out.
    #[arg(long, value_enum, default_value = "auto")]
    method: Choice,
    /// Number of singular values and vectors to keep; all by default.
    #[arg(long)]
    rank: Option<usize>,
    /// `full`: values to 1e-4 of themselves; `fast`: what `torch.svd_lowrank` computes. For the randomized method.
    #[arg(long, value_enum, default_value = "full")]
    accuracy: Level,
    /// cpu, or a GPU backend that this program was built with.
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Choice {
    Auto,
    Jacobi,
    Randomized,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    Fast,
    Full,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
    Wgpu,
    Cuda,
}

/// What was done, as `--json` prints it.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) tensors: Vec<Line>,
}

/// One tensor.
#[derive(Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
    pub(crate) method: Algorithm,
    /// Without reading and writing.
    pub(crate) elapsed_ms: f64,
    /// Of the absolute error of every value.
    pub(crate) error_bound: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).and_then(|report| print(&report, arguments.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads, decomposes and writes.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    ensure!(arguments.rank != Some(0), "--rank 0 keeps nothing: ask for at least 1");
    match arguments.device {
        #[cfg(feature = "flex")]
        Device::Cpu => awake(|| decompose_file::<burn_flex::Flex>(arguments)),
        #[cfg(feature = "wgpu")]
        Device::Wgpu => decompose_file::<burn_wgpu::Wgpu<f32, i32>>(arguments),
        #[cfg(feature = "cuda")]
        Device::Cuda => decompose_file::<burn_cuda::Cuda<f32, i32>>(arguments),
        #[allow(unreachable_patterns, reason = "with every feature all devices are there")]
        device => {
            let name =
                device.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let feature = if name == "cpu" { "flex" } else { &name };
            bail!("this program was built without the device {name}: build it with --features {feature}")
        }
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    for line in &report.tensors {
        let method = serde_json::to_value(line.method)?;
        println!(
            "{}  {} x {}  {}  {:.1} ms  values within {:.1e}",
            line.name,
            line.shape[0],
            line.shape[1],
            method.as_str().unwrap_or_default(),
            line.elapsed_ms,
            line.error_bound
        );
    }
    Ok(())
}

fn decompose_file<B: SvdOps>(arguments: &Arguments) -> Result<Report> {
    let input = &arguments.input;
    let bytes = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| anyhow::anyhow!("{} is not a safetensors file: {error}", input.display()))?;
    let mut names: Vec<&str> = file.names();
    names.sort_unstable();
    let mut report = Report { tensors: Vec::new() };
    let mut factors = BTreeMap::new();
    for name in names {
        let view = file.tensor(name)?;
        let &[m, n] = view.shape() else { continue };
        if let dtype @ (Dtype::I64 | Dtype::I32 | Dtype::BOOL) = view.dtype() {
            // Positions and masks, which checkpoints have beside the weights.
            eprintln!("left out: {name}, which holds {dtype:?} and so no weights");
            continue;
        }
        let a = upload::<B>(&view, [m, n]).with_context(|| name.to_owned())?;
        let started = Instant::now();
        let svd = decompose(arguments, a).with_context(|| name.to_owned())?;
        B::sync(&B::Device::default()).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        let Svd { u, s, vt, report: how } = svd;
        report.tensors.push(Line {
            name: name.to_owned(),
            shape: [m, n],
            method: how.algorithm,
            elapsed_ms,
            error_bound: how.error_bound,
        });
        factors.insert(format!("{name}.u"), Factor::new(u));
        factors.insert(format!("{name}.s"), Factor::new(s));
        factors.insert(format!("{name}.vt"), Factor::new(vt));
    }
    write(&arguments.output, &factors)?;
    Ok(report)
}

/// The decomposition that the arguments ask for.
fn decompose<B: SvdOps>(arguments: &Arguments, a: Tensor<B, 2>) -> Result<Svd<B>> {
    const SEED: u32 = 0;
    let [m, n] = a.dims();
    let limit = m.min(n);
    let k = arguments.rank.unwrap_or(limit);
    ensure!(k <= limit, "--rank {k} is more than a {m} x {n} matrix has: at most {limit}");
    let accuracy = match arguments.accuracy {
        Level::Fast => Accuracy::Fast { iterations: 2 },
        Level::Full => Accuracy::Full,
    };
    Ok(match arguments.method {
        Choice::Randomized if limit > 0 => randomized_svd(a, k, accuracy, SEED)?,
        Choice::Auto if k < limit => randomized_svd(a, k, accuracy, SEED)?,
        Choice::Auto | Choice::Randomized => svd_by(a, Way::Auto)?,
        Choice::Jacobi => svd_by(a, Way::Jacobi)?.truncate(k),
    })
}

fn upload<B: Backend>(view: &TensorView<'_>, shape: [usize; 2]) -> Result<Tensor<B, 2>> {
    let data = match view.dtype() {
        Dtype::F32 => TensorData::new(numbers(view.data(), f32::from_le_bytes), shape),
        Dtype::F64 => TensorData::new(numbers(view.data(), f64::from_le_bytes), shape),
        Dtype::F16 => TensorData::new(numbers(view.data(), |b| half::f16::from_le_bytes(b).to_f32()), shape),
        Dtype::BF16 => {
            TensorData::new(numbers(view.data(), |b| half::bf16::from_le_bytes(b).to_f32()), shape)
        }
        other => bail!("cannot decompose a tensor of type {other:?}: cast it to f32, f64, f16 or bf16 first"),
    };
    let dtype = data.dtype;
    Ok(Tensor::from_data(data, (&B::Device::default(), dtype)))
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| number(chunk)).collect()
}

/// A tensor of f32 as bytes.
struct Factor {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Factor {
    fn new<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Self {
        let shape = tensor.dims().to_vec();
        let data = tensor.into_data().convert_dtype(DType::F32);
        Self { shape, bytes: data.iter::<f32>().flat_map(f32::to_le_bytes).collect() }
    }
}

/// Writes under a temporary name first, so that a full disk leaves nothing half-written.
fn write(path: &Path, factors: &BTreeMap<String, Factor>) -> Result<()> {
    let views = factors
        .iter()
        .map(|(name, factor)| Ok((name, TensorView::new(Dtype::F32, factor.shape.clone(), &factor.bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let bytes = serialize(views, None)?;
    let temporary = path.with_extension("partial");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write {}", path.display()))
}
