//! The example `decompose`, from file to file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Parser;
use nalgebra::DMatrix;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use sara_svd::Algorithm;
use tempfile::TempDir;

#[path = "../../examples/decompose.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod program;

use crate::matrices::{gaussian, oracle, planted, single, spectrum};
use program::{Arguments, Report};

fn run(directory: &Path, options: &[&str]) -> Result<Report, String> {
    let (input, output) = (directory.join("in.safetensors"), directory.join("out.safetensors"));
    let paths = [input.to_str().unwrap(), output.to_str().unwrap()];
    let arguments = Arguments::parse_from(["decompose"].iter().chain(&paths).chain(options));
    program::run(&arguments).map_err(|error| format!("{error:#}"))
}

/// A directory with these matrices, a vector that is none, and positions.
fn directory(matrices: &[(&str, &DMatrix<f64>)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, a) in matrices {
        let bytes = single(a).iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.insert((*name).to_owned(), (Dtype::F32, vec![a.nrows(), a.ncols()], bytes));
    }
    tensors.insert("bias".into(), (Dtype::F32, vec![3], vec![0; 12]));
    tensors.insert("positions".into(), (Dtype::I64, vec![1, 2], vec![0; 16]));
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(directory.path().join("in.safetensors"), serialize(views, None).unwrap()).unwrap();
    directory
}

/// The tensors of the output, as shape and values.
fn output(directory: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = fs::read(directory.join("out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &TensorView<'_>| {
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks::<4>().0.iter().map(|&x| f64::from(f32::from_le_bytes(x))).collect()
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), (view.shape().to_vec(), values(view)))).collect()
}

#[test]
fn factors_of_every_matrix_multiply_to_it() {
    let (tall, wide) = (gaussian(12, 7, 70), gaussian(5, 9, 71));
    let directory = directory(&[("tall", &tall), ("wide", &wide)]);
    for (method, algorithm) in
        [("auto", Algorithm::Gram), ("jacobi", Algorithm::Jacobi), ("randomized", Algorithm::Gram)]
    {
        let report = run(directory.path(), &["--method", method]).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["tensors"][0]["name"], "tall");
        assert_eq!(json["tensors"][1]["shape"], serde_json::json!([5, 9]));
        assert!(json["tensors"][0]["elapsed_ms"].as_f64().unwrap() >= 0.0);
        let written = output(directory.path());
        let names: Vec<&str> = written.keys().map(String::as_str).collect();
        assert_eq!(names, ["tall.s", "tall.u", "tall.vt", "wide.s", "wide.u", "wide.vt"]);
        for (line, a) in report.tensors.iter().zip([&tall, &wide]) {
            assert_eq!(line.method, algorithm);
            let factor = |part: &str| {
                let (shape, values) = &written[&format!("{}.{part}", line.name)];
                DMatrix::from_row_slice(shape[0], *shape.get(1).unwrap_or(&1), values)
            };
            let s = factor("s");
            for (found, expected) in s.iter().zip(oracle(a)) {
                assert!((found - expected).abs() <= line.error_bound, "{method}: {found}, not {expected}");
            }
            let again = factor("u") * DMatrix::from_diagonal(&s.column(0).into_owned()) * factor("vt");
            assert!((again - a).amax() < 1e-5, "{method}");
        }
    }
}

#[test]
fn a_rank_keeps_the_largest() {
    let a = planted(120, 100, &spectrum(100, |x| 1.0 - 0.99 * x.sqrt()), 72);
    let directory = directory(&[("a", &a)]);
    for (options, relative) in [
        (&["--rank", "6"][..], 1e-4),
        (&["--rank", "6", "--method", "randomized", "--accuracy", "fast"], 0.2),
    ] {
        let report = run(directory.path(), options).unwrap();
        assert_eq!(report.tensors[0].method, Algorithm::Randomized);
        let written = output(directory.path());
        assert_eq!(written["a.u"].0, [120, 6]);
        assert_eq!(written["a.vt"].0, [6, 100]);
        for (found, expected) in written["a.s"].1.iter().zip(oracle(&a)) {
            assert!((found - expected).abs() <= relative * expected, "{found}, not {expected}");
        }
    }
}

#[test]
fn what_is_refused_is_named_and_nothing_is_written() {
    let mut bad = gaussian(6, 5, 73);
    bad[(2, 3)] = f64::NAN;
    let directory = directory(&[("good", &gaussian(4, 4, 74)), ("layer.7.weight", &bad)]);
    for method in ["auto", "jacobi", "randomized"] {
        let error = run(directory.path(), &["--method", method]).err().unwrap();
        assert!(error.starts_with("layer.7.weight: the matrix holds NaN at row 2, column 3"), "{error}");
    }
    let error = run(directory.path(), &["--rank", "5"]).err().unwrap();
    assert!(error.contains("--rank 5 is more than a 4 x 4 matrix has"), "{error}");
    assert!(run(directory.path(), &["--rank", "0"]).err().unwrap().contains("at least 1"));
    fs::write(directory.path().join("in.safetensors"), b"nonsense").unwrap();
    let error = run(directory.path(), &[]).err().unwrap();
    assert!(error.contains("is not a safetensors file"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
