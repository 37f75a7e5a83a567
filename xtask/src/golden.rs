//! `cargo xtask golden` and `interop`: the Python programs that stand beside the tests.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::steps::{Steps, output, run};

/// Loads an export with other people's libraries; makes no fixture.
const INTEROP: &str = "crates/sara-models/tests/golden/interop.py";

/// Runs every generator, which overwrites its fixtures.
pub(crate) fn write(root: &Path) -> Result<()> {
    generate(root)?.finish()
}

/// Runs every generator and fails where a committed fixture changes; the working tree must be clean there.
pub(crate) fn check(root: &Path) -> Result<()> {
    let changed = changed_fixtures(root)?;
    if !changed.is_empty() {
        bail!(
            "fixtures differ from the last commit, so there is nothing to compare with: commit or undo\n{changed}"
        );
    }
    let mut steps = generate(root)?;
    steps.check("fixtures as committed", "cargo xtask golden --check", || {
        let changed = changed_fixtures(root)?;
        if !changed.is_empty() {
            bail!("the generators now give something else in\n{changed}");
        }
        Ok(())
    });
    steps.finish()
}

pub(crate) fn interop(root: &Path, args: &[String]) -> Result<()> {
    if !run(python(root).arg(INTEROP).args(args))? {
        bail!("{INTEROP} failed");
    }
    Ok(())
}

fn generate(root: &Path) -> Result<Steps> {
    let mut steps = Steps::new("golden");
    for generator in generators(root)? {
        let name = generator.strip_prefix(root).unwrap_or(&generator).to_owned();
        let mut command = python(root);
        command.arg(&name);
        steps.command(&name.display().to_string(), command);
    }
    Ok(steps)
}

/// `crates/*/tests/golden/*.py`, sorted.
fn generators(root: &Path) -> Result<Vec<PathBuf>> {
    let crates = root.join("crates");
    let mut found = Vec::new();
    for package in fs::read_dir(&crates).with_context(|| format!("cannot read {}", crates.display()))? {
        let Ok(files) = fs::read_dir(package?.path().join("tests/golden")) else { continue };
        found.extend(files.flatten().map(|file| file.path()));
    }
    found.retain(|path| {
        path.extension().is_some_and(|extension| extension == "py") && !path.ends_with(INTEROP)
    });
    found.sort();
    Ok(found)
}

/// Changed, new and deleted files beside the generators, one a line.
fn changed_fixtures(root: &Path) -> Result<String> {
    let status = ["status", "--porcelain", "--untracked-files=all", "--", "crates/*/tests/golden"];
    output(Command::new("git").current_dir(root).args(status))
}

fn python(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("SARA_PYTHON").unwrap_or_else(|| "python3".into()));
    command.current_dir(root);
    command
}
