//! Rows of a table: separated by commas, semicolons or tabs, with or without quotes, as spreadsheets write them.

use serde_json::Value;

use super::decode::Decoded;
use super::rows::{Content, Line, Lines, Row};
use super::{LISTED, listed};

/// What may separate fields, with its name.
const SEPARATORS: [(char, &str); 3] = [(',', "commas"), (';', "semicolons"), ('\t', "tabs")];
/// Names of columns that tell which separator is meant.
const TELLING: [&str; 3] = ["text", "text_pair", "label"];

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    separator: char,
    /// What ends a record: `\r` alone in files of old, else `\n`, with a `\r` before it or not.
    line_end: char,
    /// Whether a field that begins with a double quote goes on to the next one.
    quotes: bool,
}

/// Whether a text may be a table with a header.
pub(super) fn has_header(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    SEPARATORS.iter().any(|(separator, _)| first.split(*separator).any(is_telling))
        || SEPARATORS.iter().filter(|(separator, _)| first.contains(*separator)).count() == 1
}

/// The records of a table, of which the first line names the columns.
pub(super) fn rows(Decoded { text, mut notes }: Decoded, prefers_tabs: bool) -> Lines<Content> {
    let text = text.trim_end_matches(['\n', '\r']);
    let (told, body) = told_separator(text);
    let first_line = 1 + usize::from(body.len() < text.len());
    let line_end = line_end(body);
    let separator = match told {
        Some(separator) => separator,
        None => separator_of(body, line_end, prefers_tabs).map_err(|problem| (first_line, problem))?,
    };
    let mut layout = Layout { separator, line_end, quotes: true };
    if separator == '\t' && !body.is_empty() {
        layout.quotes = needs_quotes(body, layout);
        if layout.quotes {
            notes.push("fields in double quotes are read without them".to_owned());
        }
    }
    let usual = if prefers_tabs { '\t' } else { ',' };
    if separator != usual
        && let Some((_, name)) = SEPARATORS.iter().find(|(known, _)| *known == separator)
    {
        notes.push(format!("fields are separated by {name}"));
    }
    let (columns, rows) = records(body, layout, first_line)?;
    Ok(Content { columns, rows, notes })
}

fn records(body: &str, layout: Layout, first_line: usize) -> Lines<(Vec<String>, Vec<Row>)> {
    let (mut rest, mut line) = (body, first_line);
    let mut columns: Option<Vec<String>> = None;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let at = |problem| (line, problem);
        let (mut fields, next) = record(rest, layout).map_err(at)?;
        match &columns {
            None => columns = Some(fields),
            Some(columns) => {
                let is_blank = fields == [""];
                // Separators without anything between them at the end of a line are no fields.
                while fields.len() > columns.len() && fields.last().is_some_and(String::is_empty) {
                    fields.pop();
                }
                if fields.len() != columns.len() && !is_blank {
                    return Err(at(wrong_number(fields.len(), columns, layout)));
                }
                let mut fields: Vec<Value> = fields.into_iter().map(Value::from).collect();
                fields.resize(columns.len(), "".into());
                rows.push(Row { line, fields });
            }
        }
        line += rest[..rest.len() - next.len()].matches(layout.line_end).count();
        rest = next;
    }
    Ok((columns.unwrap_or_default(), rows))
}

fn wrong_number(found: usize, columns: &[String], layout: Layout) -> String {
    let (expected, names) = (columns.len(), listed(columns.iter().map(String::as_str), LISTED));
    let remedy = match layout.separator {
        '\t' => "a field cannot hold a tab",
        ';' => "put a field that holds a semicolon in double quotes",
        _ => "put a field that holds a comma in double quotes",
    };
    format!("has {found} fields for {expected} columns ({names}); {remedy}")
}

/// The separator that a first line `sep=;` tells, as spreadsheets write it, and the rest.
fn told_separator(text: &str) -> (Option<char>, &str) {
    let Some(told) = text.strip_prefix("sep=").or_else(|| text.strip_prefix("\"sep=")) else {
        return (None, text);
    };
    let Some(separator) = told.chars().next().filter(|c| SEPARATORS.iter().any(|(known, _)| known == c))
    else {
        return (None, text);
    };
    match told[separator.len_utf8()..].trim_start_matches('"').split_once('\n') {
        Some((rest, body)) if rest.trim_end().is_empty() => (Some(separator), body),
        _ => (None, text),
    }
}

/// `\r` where the first record ends with one that no `\n` follows.
fn line_end(body: &str) -> char {
    let mut quoted = false;
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\n' if !quoted => return '\n',
            // Some programs write two of them before a line feed.
            '\r' if !quoted => {
                while chars.next_if_eq(&'\r').is_some() {}
                return if chars.peek() == Some(&'\n') { '\n' } else { '\r' };
            }
            _ => {}
        }
    }
    '\n'
}

/// The separator of the header: the only one there, or that between columns of known names.
fn separator_of(body: &str, line_end: char, prefers_tabs: bool) -> Line<char> {
    let header = outside_quotes(body, line_end);
    let present: Vec<(char, &str)> =
        SEPARATORS.into_iter().filter(|(separator, _)| header.contains(*separator)).collect();
    let told = |separator: char| header.split(separator).filter(|name| is_telling(name)).count();
    match present.as_slice() {
        [] if prefers_tabs => Ok('\t'),
        [] => Ok(','),
        [(separator, _)] => Ok(*separator),
        _ if prefers_tabs && header.contains('\t') => Ok('\t'),
        several => {
            let most = several.iter().map(|(separator, _)| told(*separator)).max().unwrap_or(0);
            let mut best = several.iter().filter(|(separator, _)| told(*separator) == most);
            if let (Some((separator, _)), None) = (best.next(), best.next()) {
                Ok(*separator)
            } else {
                let names: Vec<&str> = several.iter().map(|(_, name)| *name).collect();
                Err(format!(
                    "names its columns with {} between them; begin the file with a line such as sep=;",
                    names.join(" and ")
                ))
            }
        }
    }
}

/// The first record with what stands in quotes left in, but no separator in it.
fn outside_quotes(body: &str, line_end: char) -> String {
    let mut quoted = false;
    let mut header = String::new();
    for c in body.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c == line_end && !quoted => break,
            c if quoted && SEPARATORS.iter().any(|(separator, _)| *separator == c) => {}
            c => header.push(c),
        }
    }
    header
}

/// Whether fields between tabs are quoted: every field that begins with a quote ends with one, and the header has
/// quotes or a field needs them.
///
/// Many files between tabs know no quotes, and texts in them begin with one.
fn needs_quotes(body: &str, layout: Layout) -> bool {
    let tabs = |line: &str| line.matches('\t').count();
    let columns = tabs(body.lines().next().unwrap_or_default());
    // As it stands every line has its fields: then what looks quoted need not be.
    let is_whole = body.lines().all(|line| line.is_empty() || tabs(line) == columns);
    let mut rest = body;
    let mut needed = body.starts_with('"');
    while !rest.is_empty() {
        let Ok((fields, next)) = record(rest, layout) else { return false };
        let taken = &rest[..rest.len() - next.len()];
        let has_doubled = taken.contains("\"\"") && fields.iter().any(|field| field.contains('"'));
        let has_breaks = fields.iter().any(|field| field.contains(['\t', '\n', '\r']));
        needed |= has_doubled && !has_breaks || has_breaks && !is_whole;
        rest = next;
    }
    needed
}

/// Splits the first record off a table: its fields, and what follows.
///
/// Stricter than the crate `csv`, which takes an open quote and the rest of the file for one long text.
fn record(content: &str, layout: Layout) -> Line<(Vec<String>, &str)> {
    let mut fields = Vec::new();
    let mut rest = content;
    loop {
        let (field, next) = match rest.strip_prefix('"').filter(|_| layout.quotes) {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest, layout),
        };
        fields.push(field);
        if let Some(next) = next.strip_prefix(layout.separator) {
            rest = next;
            continue;
        }
        let after = if layout.line_end == '\r' { next } else { next.trim_start_matches('\r') };
        return match after.strip_prefix(layout.line_end) {
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

fn plain_field(rest: &str, layout: Layout) -> (String, &str) {
    let end = rest.find([layout.separator, layout.line_end]).unwrap_or(rest.len());
    let (field, rest) = rest.split_at(end);
    // A carriage return before it belongs to the line end.
    let field = if rest.starts_with('\n') { field.trim_end_matches('\r') } else { field };
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

/// Whether a name, without quotes and spaces around it, tells that its separator is meant.
fn is_telling(name: &str) -> bool {
    let bare = name.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\u{feff}');
    TELLING.contains(&bare.to_ascii_lowercase().as_str())
}
