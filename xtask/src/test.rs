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

/// The features that put a backend under test. Of `sara-models` the training alone runs on wgpu: to build the command for
/// a GPU takes minutes.
pub(crate) const UNDER_TEST: &[(&str, &[&str])] = &[
    ("ndarray", &["sara-svd/ndarray", "sara-core/ndarray", "sara-models/ndarray"]),
    ("wgpu", &["sara-svd/wgpu", "sara-core/wgpu", "sara-models/test-wgpu"]),
    ("cuda", &["sara-svd/cuda"]),
];

/// What cargo is asked for: one build, since every other set of features compiles burn's crates again.
pub(crate) fn features(runs: impl Fn(&str) -> bool) -> String {
    let all = UNDER_TEST.iter().filter(|(backend, _)| runs(backend)).flat_map(|(_, features)| *features);
    all.copied().collect::<Vec<_>>().join(",")
}

pub(crate) fn test(root: &Path) -> Result<()> {
    let runtime = runtime_directory(root)?;
    let backends = probe();
    let mut steps = Steps::new("test");
    let missing = |backend: &str| backends.iter().any(|b| b.feature == backend && b.missing.is_some());
    let features = features(|backend| !missing(backend));
    let mut all = cargo(root, ["test", "--release", "--workspace", "--locked", "--features", &features]);
    all.env("XDG_RUNTIME_DIR", &runtime);
    let running: Vec<&str> = std::iter::once("flex")
        .chain(UNDER_TEST.iter().map(|(backend, _)| *backend).filter(|backend| !missing(backend)))
        .collect();
    steps.command(&format!("workspace, on {}", running.join(", ")), all);
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
