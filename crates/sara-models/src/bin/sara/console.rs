//! Where words and results go: words to the reader, one JSON object to the script.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};

use serde::Serialize;

/// The terminal, or the script that called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    /// One JSON object goes to standard output, everything else to standard error.
    pub(crate) json: bool,
    /// Words are left out.
    pub(crate) quiet: bool,
    /// Words go to standard error.
    pub(crate) aside: bool,
}

impl Console {
    /// The same without words.
    pub(crate) fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// The same with words on standard error, where standard output is for a result.
    pub(crate) fn aside(self) -> Self {
        Self { aside: true, ..self }
    }

    /// A line for a reader.
    pub(crate) fn say(self, line: impl Display) {
        if self.quiet {
            return;
        }
        // A reader who has gone away is no reason to stop working.
        let _ = if self.aside { writeln!(stderr(), "{line}") } else { writeln!(stdout(), "{line}") };
    }

    /// What was decided on the way, one line each.
    pub(crate) fn notes(self, notes: &[String]) {
        for note in notes {
            self.say(format!("note        {note}"));
        }
    }

    /// The result of the command, for a script.
    pub(crate) fn result(self, result: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            writeln!(stdout(), "{}", serde_json::to_string(result)?)?;
        }
        Ok(())
    }
}

/// A table with left-aligned first column and right-aligned others.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        format!("  {}", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A count with separators: `294,912`.
pub(crate) fn count(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
