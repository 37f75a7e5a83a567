//! `cargo xtask validate`: all checks, cheapest first.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{
    steps::{Steps, cargo, output},
    test::SUITES,
    tidy::tidy,
};

/// A package, and those of this workspace that it may use.
const DIRECTION: [(&str, &[&str]); 3] =
    [("sara-svd", &[]), ("sara-core", &["sara-svd"]), ("sara-models", &["sara-core", "sara-svd"])];

/// One profile for everything, so that dependencies are compiled once.
pub(crate) fn validate(root: &Path) -> Result<()> {
    let mut steps = Steps::new("validate");
    steps.command("format", cargo(root, ["fmt", "--all", "--check"]));
    steps.check("tidy", "cargo xtask tidy", || tidy(root));
    steps.check("dependency direction", "cargo xtask validate", || check_direction(root));
    steps.check("no autotune in tests", "cargo xtask validate", || check_autotune(root));

    let deny_warnings = ["--", "-D", "warnings"];
    let mut all = cargo(root, ["clippy", "--release", "--workspace", "--all-targets", "--locked"]);
    all.args(deny_warnings);
    steps.command("lints", all);

    let backends = ["-p", "sara-models", "--features", "ndarray,wgpu,cuda"];
    let mut every_backend = cargo(root, ["clippy", "--release", "--all-targets", "--locked"]);
    every_backend.args(backends).args(deny_warnings);
    steps.command("lints with every backend", every_backend);

    let mut doc = cargo(root, ["doc", "--release", "--workspace", "--no-deps", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    steps.command("documentation", doc);
    steps.finish()
}

/// `sara-svd <- sara-core <- sara-models`, never the other way.
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
    for suite in SUITES {
        without(&["-p", suite.package, "--features", &suite.features.join(",")])?;
    }
    without(&["-p", "sara-models", "--features", "ndarray,wgpu,cuda"])
}
