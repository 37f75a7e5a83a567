//! `cargo xtask golden` and `interop`: the Python programs that stand beside the tests.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::steps::{Steps, run};

/// Loads an export with other people's libraries; makes no fixture.
const INTEROP: &str = "crates/sara-models/tests/golden/interop.py";

/// Runs every generator. Each overwrites its fixtures or, with `--check` among `args`, compares with them.
pub(crate) fn golden(root: &Path, args: &[String]) -> Result<()> {
    let mut steps = Steps::new("golden");
    for generator in generators(root)? {
        let name = generator.strip_prefix(root).unwrap_or(&generator);
        let mut command = python(root);
        command.arg(name).args(args);
        steps.command(&name.display().to_string(), command);
    }
    steps.finish()
}

pub(crate) fn interop(root: &Path, args: &[String]) -> Result<()> {
    if !run(python(root).arg(INTEROP).args(args))? {
        bail!("{INTEROP} failed");
    }
    Ok(())
}

/// The programs among `crates/*/tests/golden/*.py`, in the order of their names.
fn generators(root: &Path) -> Result<Vec<PathBuf>> {
    let crates = root.join("crates");
    let mut found = Vec::new();
    for package in fs::read_dir(&crates).with_context(|| format!("cannot read {}", crates.display()))? {
        let Ok(files) = fs::read_dir(package?.path().join("tests/golden")) else { continue };
        found.extend(files.flatten().map(|file| file.path()));
    }
    let is_program = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("__main__"));
    found.retain(|path| {
        path.extension().is_some_and(|extension| extension == "py") && !path.ends_with(INTEROP)
    });
    found.retain(is_program);
    found.sort();
    Ok(found)
}

fn python(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("SARA_PYTHON").unwrap_or_else(|| "python3".into()));
    command.current_dir(root);
    command
}
