//! A data file as rows of fields, whatever its format.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{decode, json, table};
use crate::error::{Error, Result};

/// How a data file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object on each line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// A table whose first line names its columns, separated by commas, semicolons or tabs.
    Csv,
    /// The same, separated by tabs where that is possible.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// A text on each line.
    Txt,
}

/// The rows of a file, every one with a field for each column.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The file; `-` is the standard input.
    pub path: PathBuf,
    /// Names of the columns, as they stand in the file.
    pub columns: Vec<String>,
    /// The rows, in the order of the file.
    pub rows: Vec<Row>,
    /// What was assumed in reading, for the reader.
    pub notes: Vec<String>,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The line on which it begins, counted from 1; in a file without lines its number.
    pub line: usize,
    /// A field for each column; `null` where the row has none. Fields of a table are strings.
    pub fields: Vec<Value>,
}

/// What is wrong with a line and what to do about it.
pub(super) type Line<T> = std::result::Result<T, String>;
/// The same with the number of the line.
pub(super) type Lines<T> = std::result::Result<T, (usize, String)>;

/// Rows without the file that they come from.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
}

impl Format {
    /// By the ending of a file's name.
    fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "parquet" => Some(Self::Parquet),
            "txt" => Some(Self::Txt),
            _ => None,
        }
    }

    /// By what the file begins with.
    fn of_content(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"PAR1") {
            return Some(Self::Parquet);
        }
        // What is wrong with the letters is said where they are read.
        let Ok(decode::Decoded { text, .. }) = decode::decode(bytes, true) else { return Some(Self::Csv) };
        match text.trim_start().chars().next()? {
            '{' => Some(Self::Jsonl),
            '[' => Some(Self::Json),
            _ => table::has_header(&text).then_some(Self::Csv),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
            Self::Txt => "txt",
        })
    }
}

impl Rows {
    /// Reads a file, `-` being the standard input, as `format`, else by the ending of its name, else by its content.
    ///
    /// # Errors
    /// [`Error::Data`] for the first line that cannot be read; [`Error::EmptyData`], [`Error::DataFormat`] and
    /// [`Error::Io`] for the file as a whole.
    pub fn read(path: &Path, format: Option<Format>) -> Result<Self> {
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(Error::io(path))?;
        } else {
            bytes = std::fs::read(path).map_err(Error::io(path))?;
        }
        let format = format.or_else(|| Format::of_name(path)).or_else(|| Format::of_content(&bytes));
        let format = match format {
            Some(format) => format,
            None if bytes.iter().all(u8::is_ascii_whitespace) => {
                return Err(Error::EmptyData { path: path.to_owned() });
            }
            None => return Err(Error::DataFormat { path: path.to_owned() }),
        };
        let read = match format {
            Format::Parquet => parquet(bytes),
            Format::Jsonl | Format::Json => decode::decode(&bytes, false).and_then(json::rows),
            Format::Csv | Format::Tsv => {
                decode::decode(&bytes, true).and_then(|decoded| table::rows(decoded, format == Format::Tsv))
            }
            Format::Txt => decode::decode(&bytes, true).map(plain),
        };
        let Content { columns, rows, notes } =
            read.map_err(|(line, problem)| Error::Data { path: path.to_owned(), line, problem })?;
        if rows.is_empty() {
            return Err(Error::EmptyData { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), columns, rows, notes })
    }
}

/// A text on each line, blank ones between them too: they keep their place.
fn plain(decoded: decode::Decoded) -> Content {
    let text = decoded.text.trim_end_matches(['\n', '\r']);
    let row = |(line, text): (usize, &str)| Row { line, fields: vec![text.into()] };
    let rows = if text.is_empty() { Vec::new() } else { (1..).zip(text.lines()).map(row).collect() };
    Content { columns: vec!["text".to_owned()], rows, notes: decoded.notes }
}

#[cfg(feature = "parquet")]
fn parquet(bytes: Vec<u8>) -> Lines<Content> {
    super::parquet::rows(bytes).map_err(|problem| (1, problem))
}

#[cfg(not(feature = "parquet"))]
fn parquet(_bytes: Vec<u8>) -> Lines<Content> {
    Err((
        1,
        "this program was built without Parquet; build it with --features parquet, or write JSON lines"
            .into(),
    ))
}
