//! `cargo xtask validate`: all checks, cheapest first.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{
    steps::{Steps, cargo, output},
    test::features,
    tidy::tidy,
};

/// A package, and those of this workspace that it may use.
const DIRECTION: [(&str, &[&str]); 5] = [
    ("sara-ops", &[]),
    ("sara-svd", &["sara-ops"]),
    ("sara-core", &["sara-ops", "sara-svd"]),
    ("sara-models", &["sara-core", "sara-ops", "sara-svd"]),
    ("sara-bench", &["sara-ops", "sara-svd"]),
];

/// The features that compile every backend into every crate.
const EVERY_BACKEND: &str = "sara-models/ndarray,sara-models/wgpu,sara-models/cuda,sara-core/ndarray,sara-core/wgpu,sara-bench/wgpu,sara-bench/cuda";

/// One profile for everything, so that dependencies are compiled once.
pub(crate) fn validate(root: &Path) -> Result<()> {
    let mut steps = Steps::new("validate");
    steps.command("format", cargo(root, ["fmt", "--all", "--check"]));
    steps.check("tidy", "cargo xtask tidy", || tidy(root));
    steps.check("dependency direction", "cargo xtask validate", || check_direction(root));
    steps.check("no autotune in tests", "cargo xtask validate", || check_autotune(root));

    // Every backend at once: they compile, and dependencies are compiled once.
    let every_backend = ["--workspace", "--locked", "--features", EVERY_BACKEND];
    let mut lints = cargo(root, ["clippy", "--release", "--all-targets"]);
    lints.args(every_backend).args(["--", "-D", "warnings"]);
    steps.command("lints, with every backend", lints);

    // The library alone, as another program has it.
    let mut library = cargo(root, ["check", "--release", "--locked", "--lib", "-p", "sara-models"]);
    library.args(["--no-default-features", "--features", "flex"]);
    steps.command("the library without the command", library);

    let mut doc = cargo(root, ["doc", "--release", "--no-deps"]);
    doc.args(every_backend).env("RUSTDOCFLAGS", "-D warnings");
    steps.command("documentation", doc);
    steps.finish()
}

/// `sara-ops <- sara-svd <- sara-core <- sara-models`, never the other way.
fn check_direction(root: &Path) -> Result<()> {
    for (package, allowed) in DIRECTION {
        let tree = ["tree", "--locked", "--all-features", "--prefix", "none", "-p", package];
        let tree = output(&mut cargo(root, tree))?;
        let mut used =
            tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("sara-"));
        if let Some(wrong) = used.find(|name| *name != package && !allowed.contains(name)) {
            bail!("{package} depends on {wrong}: see `cargo tree -p {package} -i {wrong}`");
        }
    }
    Ok(())
}

/// Autotune times every kernel for each new shape, which makes tests many times slower.
fn check_autotune(root: &Path) -> Result<()> {
    let without = |args: &[&str]| -> Result<()> {
        // Resolved features: `-e features` leaves out those that a feature of our own switches on.
        let tree = ["tree", "--locked", "--prefix", "none", "-f", "{p}|{f}"];
        let tree = output(cargo(root, tree).args(args))?;
        for (package, features) in
            tree.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|'))
        {
            if features.split(',').any(|feature| feature == "autotune") {
                bail!(
                    "{package} has autotune on in a test build: see `cargo tree -f '{{p}} {{f}}' {}`",
                    args.join(" ")
                );
            }
        }
        Ok(())
    };
    without(&["--workspace"])?;
    without(&["--workspace", "--features", &features(|_| true)])
}
