//! How often bounds alone decide the ranks of a checkpoint, and whether they ever decide another rank than all
//! singular values do.
//!
//! `cargo run --release -p sara-svd --example decide -- MODEL.safetensors [--share 0.01,0.1]`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use clap::Parser;
use safetensors::tensor::{Dtype, SafeTensors};
use sara_svd::{Algorithm, Convention, Rule, host, spectrum_rank_by};

/// Decides the rank of every matrix of a safetensors file twice: from bounds, and from all singular values in f64.
#[derive(Parser)]
struct Arguments {
    /// The safetensors file.
    input: PathBuf,
    /// Shares of the sum of the singular values.
    #[arg(long, value_delimiter = ',', default_values_t = [0.01, 0.03, 0.05, 0.1, 0.2, 0.5])]
    share: Vec<f64>,
    /// Matrices with a longer side than this, such as word embeddings, are left out.
    #[arg(long, default_value_t = 8192)]
    longest: usize,
    /// Only matrices whose names contain this.
    #[arg(long, default_value = "")]
    name: String,
}

struct Matrix {
    name: String,
    shape: [usize; 2],
    values: Vec<f32>,
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
    let matrices = read(&arguments.input, arguments.longest, &arguments.name)?;
    ensure!(!matrices.is_empty(), "{} holds no such matrix in f32", arguments.input.display());
    let (mut decisions, mut by_bounds, mut wrong) = (0, 0, 0);
    let count = matrices.len();
    for matrix in matrices {
        let [m, n] = matrix.shape;
        let context = || matrix.name.clone();
        let spectrum = host::singular_values(&matrix.values, m, n).with_context(context)?;
        let a = Tensor::<Flex, 2>::from_data(TensorData::new(matrix.values, [m, n]), &FlexDevice);
        for &share in &arguments.share {
            for convention in [Convention::Reach, Convention::Floor] {
                let decided =
                    spectrum_rank_by(a.clone(), share, convention, Rule::Interval).with_context(context)?;
                let expected = host::rank_of(&spectrum, share, convention)?;
                decisions += 1;
                by_bounds += usize::from(decided.algorithm == Algorithm::Interval);
                if decided.rank != expected {
                    wrong += 1;
                    println!("{}, share {share}: {}, not {expected}", matrix.name, decided.rank);
                }
            }
        }
    }
    println!("{count} matrices, {decisions} decisions, {by_bounds} by bounds alone, {wrong} wrong");
    ensure!(wrong == 0, "bounds decided another rank than the spectrum");
    Ok(())
}

fn read(input: &Path, longest: usize, part: &str) -> Result<Vec<Matrix>> {
    let bytes = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{} is not a safetensors file", input.display()))?;
    let tensors = file.tensors().into_iter().filter(|(name, _)| name.contains(part));
    let matrix = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let &[m, n] = view.shape() else { return None };
        let values = view.data().as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
        let fits = view.dtype() == Dtype::F32 && m.max(n) <= longest;
        fits.then_some(Matrix { name, shape: [m, n], values })
    };
    Ok(tensors.filter_map(matrix).collect())
}
