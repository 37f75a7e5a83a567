//! Reading examples from JSON lines, CSV and TSV.

use std::path::Path;

use sara_core::nearest::nearest;
use serde_json::{Map, Value};

use super::{Example, Examples, Label, Task};
use crate::error::{Error, Result};

const KEYS: [&str; 3] = ["text", "text_pair", "label"];

/// What is wrong with a line and what to do about it.
type Line<T> = std::result::Result<T, String>;
/// The same with the number of the line.
type Lines<T> = std::result::Result<T, (usize, String)>;

/// Reads the examples of a `.jsonl`, `.csv` or `.tsv` file.
///
/// JSON lines are objects with `text` and perhaps `text_pair` and `label`. CSV and TSV have a header line that
/// names these columns; a field of CSV may stand in double quotes, TSV knows no quoting. A byte-order mark,
/// CRLF line ends and empty lines at the end are tolerated.
///
/// For [`Task::Classify`] a whole number is the index of a class (in JSON only without quotes) and any other
/// string its name; for [`Task::Regress`] numbers are values. JSON's `null` and an empty field are no label.
///
/// # Errors
/// [`Error::Data`] for the first line that cannot be used; [`Error::EmptyData`], [`Error::DataFormat`] and
/// [`Error::Io`] for the file as a whole.
pub fn read(path: &Path, task: Task) -> Result<Examples> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let parse = match extension.to_ascii_lowercase().as_str() {
        "jsonl" => json_lines,
        "csv" => |content: &str, task| table(content, task, Table::Csv),
        "tsv" => |content: &str, task| table(content, task, Table::Tsv),
        _ => return Err(Error::DataFormat { path: path.to_owned() }),
    };
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let content = utf8(&bytes).and_then(|content| parse(content, task));
    let list = content.map_err(|(line, problem)| Error::Data { path: path.to_owned(), line, problem })?;
    if list.is_empty() {
        return Err(Error::EmptyData { path: path.to_owned() });
    }
    Ok(Examples { path: path.to_owned(), list })
}

/// The text of a file without its byte-order mark and the white space at its end.
fn utf8(bytes: &[u8]) -> Lines<&str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map(|content| content.trim_end_matches(['\n', '\r'])).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
        (line, "is not UTF-8; convert the file to UTF-8".to_owned())
    })
}

fn json_lines(content: &str, task: Task) -> Lines<Vec<Example>> {
    content
        .lines()
        .enumerate()
        .map(|(index, text)| json_example(text, task, index + 1).map_err(|problem| (index + 1, problem)))
        .collect()
}

fn json_example(text: &str, task: Task, line: usize) -> Line<Example> {
    if text.trim().is_empty() {
        return Err("is empty; remove it".to_owned());
    }
    let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        // The parser counts lines too, and sees but this one.
        let cause = error.to_string().replace(" at line 1 column ", " at column ");
        format!("is not a JSON object: {cause}; write one object, {{\"text\": \"...\"}}, per line")
    })?;
    if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(unknown("key", key));
    }
    let mut string = |key: &str| match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("`{key}` is {other}; write it as a string")),
    };
    let text = string("text")?.ok_or("has no `text`; add \"text\": \"...\"")?;
    let text_pair = string("text_pair")?;
    let label = json_label(object.remove("label").unwrap_or_default(), task)?;
    Ok(Example { text, text_pair, label, line })
}

fn json_label(label: Value, task: Task) -> Line<Option<Label>> {
    match (task, label) {
        (_, Value::Null) => Ok(None),
        (Task::Classify, Value::String(name)) => Ok(Some(Label::Name(name))),
        (Task::Classify, Value::Number(number)) => index(&number.to_string()).map(Some),
        (Task::Regress, Value::Number(number)) => value(&number.to_string()).map(Some),
        (Task::Classify, other) => Err(format!(
            "label {other} is neither a class's name nor its index; write a string or a whole number"
        )),
        (Task::Regress, other) => Err(not_a_value(&other.to_string())),
    }
}

fn table_label(field: &str, task: Task) -> Line<Option<Label>> {
    match task {
        _ if field.is_empty() => Ok(None),
        Task::Regress => value(field).map(Some),
        Task::Classify if field.parse::<f64>().is_ok_and(f64::is_finite) => index(field).map(Some),
        Task::Classify => Ok(Some(Label::Name(field.to_owned()))),
    }
}

fn index(number: &str) -> Line<Label> {
    number.parse().map(Label::Index).map_err(|_| {
        format!(
            "label {number} is no class; classes are names or whole numbers from 0, an unknown label is left out, \
             numbers to predict are for task = \"regress\""
        )
    })
}

fn value(number: &str) -> Line<Label> {
    match number.parse::<f64>() {
        // Training sees the value in single precision, in which it must be finite too.
        Ok(value) if (value as f32).is_finite() => Ok(Label::Value(value)),
        _ => Err(not_a_value(number)),
    }
}

fn not_a_value(label: &str) -> String {
    format!("label {label} is not a finite number; names are for task = \"classify\"")
}

fn unknown(kind: &str, word: &str) -> String {
    let meant = nearest(word, KEYS).unwrap_or_default();
    format!("unknown {kind} `{word}`, the nearest is `{meant}`; known here: {}", KEYS.join(", "))
}

/// How a table separates its fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Csv,
    Tsv,
}

fn table(content: &str, task: Task, kind: Table) -> Lines<Vec<Example>> {
    let mut rest = content;
    let mut line = 1;
    let mut columns = None;
    let mut examples = Vec::new();
    while !rest.is_empty() {
        let at = |problem| (line, problem);
        let (fields, next) = record(rest, kind).map_err(at)?;
        match &columns {
            None => columns = Some(header(fields).map_err(at)?),
            Some(_) if fields == [""] => return Err(at("is empty; remove it".to_owned())),
            Some(columns) if fields.len() != columns.len() => {
                let (found, expected, columns) = (fields.len(), columns.len(), columns.join(", "));
                let remedy = match kind {
                    Table::Csv => "put a field that holds a comma in double quotes",
                    Table::Tsv => "a field cannot hold a tab",
                };
                return Err(at(format!("has {found} fields for {expected} columns ({columns}); {remedy}")));
            }
            Some(columns) => examples.push(table_example(columns, fields, task, line).map_err(at)?),
        }
        line += rest[..rest.len() - next.len()].matches('\n').count();
        rest = next;
    }
    Ok(examples)
}

/// Checks the names of the columns.
fn header(names: Vec<String>) -> Line<Vec<String>> {
    if let Some(name) = names.iter().find(|name| !KEYS.contains(&name.as_str())) {
        return Err(unknown("column", name));
    }
    if let Some(name) = KEYS.iter().find(|key| names.iter().filter(|name| name == key).count() > 1) {
        return Err(format!("names the column `{name}` twice; keep one of them"));
    }
    if !names.iter().any(|name| name == "text") {
        return Err("has no column `text`; the first line must name the columns".to_owned());
    }
    Ok(names)
}

fn table_example(columns: &[String], fields: Vec<String>, task: Task, line: usize) -> Line<Example> {
    let mut example = Example { text: String::new(), text_pair: None, label: None, line };
    for (column, field) in columns.iter().zip(fields) {
        match column.as_str() {
            "text" => example.text = field,
            "text_pair" => example.text_pair = Some(field),
            _ => example.label = table_label(&field, task)?,
        }
    }
    Ok(example)
}

/// Splits the first record off a table: its fields, and what follows.
///
/// Stricter than the crate `csv`, which takes an open quote and the rest of the file for one long text.
fn record(content: &str, kind: Table) -> Line<(Vec<String>, &str)> {
    let separator = if kind == Table::Csv { ',' } else { '\t' };
    let mut fields = Vec::new();
    let mut rest = content;
    loop {
        let (field, next) = match rest.strip_prefix('"').filter(|_| kind == Table::Csv) {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest, separator),
        };
        fields.push(field);
        if let Some(next) = next.strip_prefix(separator) {
            rest = next;
            continue;
        }
        return match next.strip_prefix("\r\n").or_else(|| next.strip_prefix('\n')) {
            Some(next) => Ok((fields, next)),
            None if next.is_empty() => Ok((fields, next)),
            None => {
                let number = fields.len();
                Err(format!(
                    "field {number} goes on after its closing quote; write each quote inside it twice"
                ))
            }
        };
    }
}

fn plain_field(rest: &str, separator: char) -> (String, &str) {
    let (field, rest) = rest.split_at(rest.find([separator, '\n']).unwrap_or(rest.len()));
    // The carriage return of CRLF belongs to the line end.
    let field = if rest.starts_with('\n') { field.strip_suffix('\r').unwrap_or(field) } else { field };
    (field.to_owned(), rest)
}

/// The text up to the closing quote, `""` read as `"`, and what follows.
fn quoted_field(mut rest: &str) -> Line<(String, &str)> {
    let mut field = String::new();
    loop {
        let (text, next) = rest.split_once('"').ok_or("opens a quote that is never closed; close it")?;
        field.push_str(text);
        match next.strip_prefix('"') {
            None => return Ok((field, next)),
            Some(next) => {
                field.push('"');
                rest = next;
            }
        }
    }
}
