//! The files that commands share: data to read, and where results go without harm to anything that is there.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use sara_core::store::write_file;
use sara_models::data::{Columns, Format, Rows};

/// A data file and how to read it.
#[derive(Args)]
pub(crate) struct DataFile {
    /// The data: jsonl, json, csv, tsv, parquet or txt; `-` is the standard input.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// How it is written; by its name or content by default.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Name of the column with the text.
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// Name of the column with the second text.
    #[arg(long, value_name = "COLUMN")]
    text_pair: Option<String>,
    /// Name of the column with the label.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
}

impl DataFile {
    /// Its rows.
    pub(crate) fn rows(&self) -> sara_models::Result<Rows> {
        Rows::read(&self.data, self.format)
    }

    /// The columns that are read.
    pub(crate) fn columns(&self) -> Columns {
        let Self { text, text_pair, label, .. } = self;
        Columns { text: text.clone(), text_pair: text_pair.clone(), label: label.clone() }
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

    /// Refuses a file that is there, unless it may be overwritten, and one that is read, or is a file of what is read.
    pub(crate) fn check_file(&self, read: &[&Path]) -> anyhow::Result<()> {
        if self.is_stdout() {
            return Ok(());
        }
        let Ok(found) = std::fs::metadata(&self.out) else { return self.check_parent() };
        let shown = self.out.display();
        ensure!(!found.is_dir(), "{shown}: is a directory; name a file in it");
        self.check_apart(read)?;
        // What is no plain file is written into, so nothing is lost.
        ensure!(
            !found.is_file() || self.overwrite,
            "{shown}: is there already; choose another --out, or replace it with --overwrite"
        );
        Ok(())
    }

    /// The same for a directory, which may be overwritten where it holds `mark`, as this command's own results do.
    pub(crate) fn check_dir(&self, read: &[&Path], mark: &str) -> anyhow::Result<()> {
        let shown = self.out.display();
        let Ok(found) = std::fs::metadata(&self.out) else { return Ok(()) };
        self.check_apart(read)?;
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

    fn check_parent(&self) -> anyhow::Result<()> {
        let parent = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
        match parent {
            Some(parent) if !parent.is_dir() => bail!("{}: is no directory; make it first", parent.display()),
            _ => Ok(()),
        }
    }

    /// Refuses a place that is one of those read, is within one or has one within it.
    fn check_apart(&self, read: &[&Path]) -> anyhow::Result<()> {
        let shown = self.out.display();
        let Ok(own) = self.out.canonicalize() else { return Ok(()) };
        for path in read {
            let Ok(other) = path.canonicalize() else { continue };
            ensure!(
                !own.starts_with(&other) && !other.starts_with(&own),
                "{shown}: holds or belongs to {}, which is read; choose another --out",
                path.display()
            );
        }
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
