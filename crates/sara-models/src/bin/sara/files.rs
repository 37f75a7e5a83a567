//! The files that commands share: data to read, and where results go without harm to anything that is there.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use sara_core::store::write_file;
use sara_models::data::{Columns, Format, Rows};
use sara_models::hub::locate;

/// A data file and how to read it.
#[derive(Args)]
pub(crate) struct DataFile {
    /// The data: jsonl, json, csv, tsv, parquet or txt; `-` is the standard input.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// How it is written; by its name or content by default.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Which of its columns are read.
    #[command(flatten)]
    pub(crate) columns: Columns,
}

impl DataFile {
    /// Its rows.
    pub(crate) fn rows(&self) -> sara_models::Result<Rows> {
        Rows::read(&self.data, self.format)
    }
}

/// Where a result goes.
#[derive(Args)]
pub(crate) struct Out {
    /// Where it goes; must not be there yet.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Replace what an earlier run of this command wrote there.
    #[arg(long)]
    overwrite: bool,
}

impl Out {
    /// Whether it is the standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        self.out == Path::new("-")
    }

    /// Whether the file may be written, as [`check_file`] says.
    pub(crate) fn check_file(&self, read: &[&Path]) -> anyhow::Result<()> {
        if self.is_stdout() { Ok(()) } else { check_file(&self.out, "--out", self.overwrite, read) }
    }

    /// Whether the directory may be written: it is new, or may be overwritten and holds `mark`, as this command's own
    /// results do.
    pub(crate) fn check_dir(&self, read: &[&Path], mark: &str) -> anyhow::Result<()> {
        let shown = self.out.display();
        let Ok(found) = std::fs::metadata(&self.out) else { return Ok(()) };
        check_apart(&self.out, "--out", read)?;
        ensure!(
            self.overwrite,
            "{shown}: is there already; choose another --out, or replace it with --overwrite"
        );
        ensure!(
            found.is_dir() && self.out.join(mark).exists(),
            "{shown}: is not what this command writes, for it holds no {mark}; choose another --out"
        );
        Ok(())
    }

    /// Writes the file, whole or not at all, or the standard output.
    pub(crate) fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.is_stdout() {
            return std::io::stdout().lock().write_all(bytes).context("the standard output");
        }
        Ok(write_file(&self.out, bytes)?)
    }
}

/// Refuses a file that is there, unless it may be overwritten, and one that is read, or is a file of what is read.
pub(crate) fn check_file(out: &Path, option: &str, overwrite: bool, read: &[&Path]) -> anyhow::Result<()> {
    let shown = out.display();
    let Ok(found) = std::fs::metadata(out) else {
        return match out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) if !parent.is_dir() => bail!("{}: is no directory; make it first", parent.display()),
            _ => Ok(()),
        };
    };
    ensure!(!found.is_dir(), "{shown}: is a directory; name a file in it");
    check_apart(out, option, read)?;
    // What is no plain file is written into, so nothing is lost.
    ensure!(
        !found.is_file() || overwrite,
        "{shown}: is there already; choose another {option}, or replace it with --overwrite"
    );
    Ok(())
}

/// Refuses a place that is one of those read, is within one or has one within it.
fn check_apart(out: &Path, option: &str, read: &[&Path]) -> anyhow::Result<()> {
    let shown = out.display();
    // By where it is, and by where a link there points to.
    let parent = out.parent().and_then(|parent| parent.canonicalize().ok());
    let by_name = parent.zip(out.file_name()).map(|(parent, name)| parent.join(name));
    let own: Vec<PathBuf> = out.canonicalize().ok().into_iter().chain(by_name).collect();
    for path in read {
        let located = locate(path).unwrap_or_else(|_| path.to_path_buf());
        let Ok(other) = located.canonicalize() else { continue };
        ensure!(
            !own.iter().any(|own| own.starts_with(&other) || other.starts_with(own)),
            "{shown}: holds or belongs to {}, which is read; choose another {option}",
            path.display()
        );
    }
    Ok(())
}
