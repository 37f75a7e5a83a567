//! What one would otherwise call: faer and nalgebra in this process, numpy and torch in one beside it; for a GPU torch
//! alone, on the same GPU and without TF32.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use faer::MatRef;
use nalgebra::DMatrix;
use sara_bench::kernels::Kernel;
use sara_bench::planted::Planted;
use tempfile::NamedTempFile;

/// nalgebra takes minutes for more.
const NALGEBRA_LIMIT: usize = 768;

/// Answers each line `file m n` by loading the matrix, and each line that names a function by the
/// milliseconds of a call. First it names the functions that are there.
const SERVER: &str = r#"
import sys, time
calls = {}
def say(text):
    print(text, flush=True)
on_gpu = sys.argv[1] == "gpu"
wait = lambda: None
try:
    import numpy
    if not on_gpu:
        calls["numpy svd"] = lambda: numpy.linalg.svd(a, full_matrices=False)
    import torch
    if not on_gpu or torch.cuda.is_available():
        calls["torch matmul"] = lambda: t @ t.T
        calls["torch svdvals"] = lambda: torch.linalg.svdvals(t)
        calls["torch svd_lowrank"] = lambda: torch.svd_lowrank(t, q=64, niter=2)
        if on_gpu:
            wait = torch.cuda.synchronize
            def tf32():
                torch.backends.cuda.matmul.allow_tf32 = True
                t @ t.T
                torch.backends.cuda.matmul.allow_tf32 = False
            calls["torch matmul, tf32"] = tf32
            for driver in ["gesvdj", "gesvd", "gesvda"]:
                calls["torch svd, " + driver] = lambda driver=driver: torch.linalg.svd(t, full_matrices=False, driver=driver)
        else:
            calls["torch svd"] = lambda: torch.linalg.svd(t, full_matrices=False)
except ImportError:
    pass
say("|".join(calls))
for line in sys.stdin:
    line = line.rstrip("\n")
    if line in calls:
        wait()
        start = time.perf_counter()
        calls[line]()
        wait()
        say(repr((time.perf_counter() - start) * 1e3))
    else:
        path, m, n = line.split("\t")
        a = numpy.fromfile(path, dtype="<f4").reshape(int(m), int(n))
        if "torch svdvals" in calls:
            t = torch.from_numpy(a)
            t = t.cuda() if on_gpu else t
        say("ready")
"#;

/// A function of another library.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rival {
    FaerSvd,
    FaerValues,
    NalgebraSvd,
    Python(&'static str),
}

impl Rival {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FaerSvd => "faer thin_svd",
            Self::FaerValues => "faer singular_values",
            Self::NalgebraSvd => "nalgebra svd",
            Self::Python(name) => name,
        }
    }
}

/// The rivals that are there.
pub(crate) struct Rivals {
    is_alone: bool,
    native: bool,
    python: Option<Python>,
}

struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    functions: Vec<String>,
    /// The matrix that it has loaded lies here.
    file: Option<NamedTempFile>,
}

impl Rivals {
    pub(crate) fn none() -> Self {
        Self { is_alone: true, native: false, python: None }
    }

    /// All that this machine has for its processor, or for its GPU; `SARA_PYTHON` names the interpreter.
    pub(crate) fn start(on_host: bool) -> Self {
        Self { is_alone: false, native: on_host, python: Python::start(on_host).ok() }
    }

    /// What could not be measured, for the reader.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let have = |part: &str| {
            self.python.as_ref().is_some_and(|python| python.functions.iter().any(|name| name.contains(part)))
        };
        let mut missing = Vec::new();
        if self.native && !have("numpy") {
            missing.push("numpy (not installed for the interpreter that SARA_PYTHON names, or python3)");
        }
        if !self.is_alone && !have("torch") {
            missing.push("torch (not installed for the interpreter that SARA_PYTHON names, or python3, or without this device)");
        }
        missing
    }

    /// Those of a kernel on a matrix whose shorter side is `n`.
    pub(crate) fn of(&self, kernel: Kernel, n: usize) -> Vec<Rival> {
        let all: &[Rival] = match kernel {
            Kernel::Product => &[Rival::Python("torch matmul"), Rival::Python("torch matmul, tf32")],
            Kernel::Svd => &[
                Rival::FaerSvd,
                Rival::NalgebraSvd,
                Rival::Python("numpy svd"),
                Rival::Python("torch svd"),
                Rival::Python("torch svd, gesvdj"),
                Rival::Python("torch svd, gesvd"),
                Rival::Python("torch svd, gesvda"),
            ],
            Kernel::Values => &[Rival::FaerValues, Rival::Python("torch svdvals")],
            Kernel::Fast | Kernel::Full => &[Rival::Python("torch svd_lowrank")],
            _ => &[],
        };
        let there = |rival: &&Rival| match rival {
            Rival::NalgebraSvd => self.native && n <= NALGEBRA_LIMIT,
            Rival::FaerSvd | Rival::FaerValues => self.native,
            Rival::Python(name) => {
                n >= 64
                    && self.python.as_ref().is_some_and(|python| python.functions.iter().any(|f| f == name))
            }
        };
        all.iter().filter(there).copied().collect()
    }

    /// Lets the process beside this one load the matrix.
    pub(crate) fn show(&mut self, planted: &Planted) -> Result<()> {
        self.python.as_mut().map_or(Ok(()), |python| python.load(planted))
    }

    /// Milliseconds of one call; `None` where the rival gave no result.
    pub(crate) fn time(&mut self, rival: Rival, planted: &Planted) -> Result<Option<f64>> {
        let (m, n) = (planted.m, planted.n);
        let a = MatRef::from_row_major_slice(&planted.values, m, n);
        let started = Instant::now();
        let done = match rival {
            Rival::FaerSvd => a.thin_svd().is_ok(),
            Rival::FaerValues => a.singular_values().is_ok(),
            Rival::NalgebraSvd => {
                let a = DMatrix::from_row_slice(m, n, &planted.values);
                a.try_svd(true, true, f32::EPSILON, 0).is_some()
            }
            Rival::Python(name) => {
                return self.python.as_mut().map(|python| python.time(name)).transpose();
            }
        };
        Ok(done.then(|| started.elapsed().as_secs_f64() * 1e3))
    }
}

impl Python {
    fn start(on_host: bool) -> Result<Self> {
        let interpreter = std::env::var_os("SARA_PYTHON").unwrap_or_else(|| "python3".into());
        let mut child = Command::new(interpreter)
            .args(["-c", SERVER, if on_host { "cpu" } else { "gpu" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("python has no standard input or output");
        };
        let mut python =
            Self { child, input, output: BufReader::new(output), functions: Vec::new(), file: None };
        python.functions = python.answer()?.split('|').map(str::to_owned).collect();
        Ok(python)
    }

    fn load(&mut self, planted: &Planted) -> Result<()> {
        if self.functions.iter().all(String::is_empty) {
            return Ok(());
        }
        let mut file = NamedTempFile::new()?;
        let bytes: Vec<u8> = planted.values.iter().flat_map(|x| x.to_le_bytes()).collect();
        file.write_all(&bytes)?;
        writeln!(self.input, "{}\t{}\t{}", file.path().display(), planted.m, planted.n)?;
        self.file = Some(file);
        self.answer().map(drop)
    }

    fn time(&mut self, function: &str) -> Result<f64> {
        writeln!(self.input, "{function}")?;
        self.answer()?.parse().context("python did not answer with a time")
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("python ended early");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It ends with its input; where it does not, the time that it takes is not ours.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
