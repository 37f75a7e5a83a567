//! `cargo xtask test`: every test on flex, then those over the backends on each one that this machine can run.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    backends::{Backend, probe},
    steps::{Steps, cargo},
};

/// Tests that run on more backends than flex, each backend in a feature of the same name.
pub(crate) struct Suite {
    pub(crate) package: &'static str,
    pub(crate) features: &'static [&'static str],
    /// Part of a test's name; all tests where empty.
    pub(crate) filter: &'static str,
}

pub(crate) const SUITES: &[Suite] =
    &[Suite { package: "sara-svd", features: &["flex", "ndarray", "wgpu", "cuda"], filter: "" }];

pub(crate) fn test(root: &Path) -> Result<()> {
    let runtime = runtime_directory(root)?;
    let backends = probe();
    let mut steps = Steps::new("test");

    let mut all = cargo(root, ["test", "--release", "--workspace", "--locked"]);
    all.env("XDG_RUNTIME_DIR", &runtime);
    steps.command("workspace on flex", all);

    for suite in SUITES {
        // One build with all of them: every other set of features compiles burn's crates again.
        let features: Vec<&str> = suite
            .features
            .iter()
            .copied()
            .filter(|feature| {
                !backends.iter().any(|backend| backend.feature == *feature && backend.missing.is_some())
            })
            .collect();
        let mut command = cargo(root, ["test", "--release", "--locked", "-p", suite.package, "--test", "it"]);
        command.env("XDG_RUNTIME_DIR", &runtime).args(["--features", &features.join(",")]);
        if !suite.filter.is_empty() {
            command.args(["--", suite.filter]);
        }
        let name = format!("{} on {}", suite.package, features.join(", "));
        steps.command(&name, command);
    }
    for Backend { feature, missing } in &backends {
        if let Some(why) = missing {
            steps.not_run(feature, why);
        }
    }
    steps.finish()
}

/// `XDG_RUNTIME_DIR`, which Vulkan drivers want: the user's, or one of our own.
fn runtime_directory(root: &Path) -> Result<PathBuf> {
    if let Some(path) = env::var_os("XDG_RUNTIME_DIR") {
        return Ok(path.into());
    }
    let path = root.join("target/runtime");
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
