//! Rows of JSON: an object a line, or one array of objects.

use serde_json::{Map, Value};

use super::decode::Decoded;
use super::rows::{Content, Line, Lines, Row};
use crate::python_json;

/// The objects of a file; a key that a row does not have is `null` there.
pub(super) fn rows(Decoded { text, notes }: Decoded) -> Lines<Content> {
    let objects = if text.trim_start().starts_with('[') { elements(&text)? } else { lines(&text) };
    let mut content = Content { notes, ..Content::default() };
    let (mut replaced, mut blank) = (0, 0);
    for (line, text) in objects {
        if text.trim().is_empty() {
            blank += 1;
            continue;
        }
        let (object, surrogates) = object(text).map_err(|problem| (line, problem))?;
        replaced += surrogates;
        let mut fields = vec![Value::Null; content.columns.len()];
        for (key, value) in object {
            if let Some(place) = content.columns.iter().position(|column| *column == key) {
                fields[place] = value;
            } else {
                content.columns.push(key);
                fields.push(value);
            }
        }
        content.rows.push(Row { line, fields });
    }
    for row in &mut content.rows {
        row.fields.resize(content.columns.len(), Value::Null);
    }
    if blank > 0 {
        content.notes.push(format!("{blank} blank lines left out"));
    }
    if replaced > 0 {
        content.notes.push(format!("{replaced} halves of surrogate pairs replaced by U+FFFD"));
    }
    Ok(content)
}

fn lines(text: &str) -> Vec<(usize, &str)> {
    (1..).zip(text.trim_end().lines()).collect()
}

/// The object in `text`, and how many halves of surrogate pairs were replaced.
fn object(text: &str) -> Line<(Map<String, Value>, usize)> {
    python_json::parse(text).map_err(|error| {
        // The parser counts lines too; of an object on one line it sees but the first.
        let cause = error.to_string().replace(" at line 1 column ", " at column ");
        format!("is not a JSON object: {cause}; write one object, {{\"text\": \"...\"}}, per line")
    })
}

/// The elements of an array, each with the line on which it begins.
fn elements(text: &str) -> Lines<Vec<(usize, &str)>> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let (mut line, mut begun, mut closed) = (1, None::<(usize, usize)>, false);
    let mut found = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            line += 1;
        }
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        if closed {
            if !byte.is_ascii_whitespace() {
                return Err((line, "goes on after the array; write one array of objects".to_owned()));
            }
            continue;
        }
        if depth == 1 && begun.is_none() && !byte.is_ascii_whitespace() && !b",]".contains(&byte) {
            begun = Some((line, at));
        }
        in_string = byte == b'"';
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_out_of_place = depth == 1 && byte == b',' && begun.is_none() || depth == 0 && byte != b']';
        if is_out_of_place && at > 0 && !(depth == 0 && byte.is_ascii_whitespace()) {
            return Err((
                line,
                format!("has a `{}` out of place; write one array of objects", char::from(byte)),
            ));
        }
        let ends = depth == 1 && byte == b',' || depth == 0;
        if ends && let Some((line, start)) = begun.take() {
            found.push((line, text[start..at].trim_end()));
        }
        closed = depth == 0 && byte == b']';
    }
    if closed { Ok(found) } else { Err((line, "ends within the array; copy the file again".to_owned())) }
}
