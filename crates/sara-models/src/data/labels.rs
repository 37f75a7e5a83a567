//! A column of labels, read as a whole: how one is written may depend on the others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::rows::{Line, Lines};
use super::{Label, Task, listed};

/// How many names a note lists.
const LISTED: usize = 5;

/// The labels of fields, each with the line it stands on, and what was assumed. `null` and a blank field are no label.
pub(super) fn labels(fields: &[(usize, &Value)], task: Task) -> Lines<(Vec<Option<Label>>, Vec<String>)> {
    if task == Task::Regress {
        let value = |&(line, field): &(usize, &Value)| value(field).map_err(|problem| (line, problem));
        return Ok((fields.iter().map(value).collect::<Result<_, _>>()?, Vec::new()));
    }
    let written = |&(line, field): &(usize, &Value)| name(field).map_err(|problem| (line, problem));
    let written = fields.iter().map(written).collect::<Result<Vec<Option<String>>, _>>()?;
    let spaced = written.iter().flatten().filter(|name| name.trim() != name.as_str()).count();
    let mut names: Vec<Option<String>> =
        written.into_iter().map(|name| name.map(|name| name.trim().to_owned())).collect();
    let mut notes = Vec::new();
    if spaced > 0 {
        notes.push(format!("spaces around {spaced} labels cut"));
    }
    let all = |is_so: fn(&str) -> bool| names.iter().flatten().all(|name| is_so(name));
    if all(|name| whole(name).is_some()) {
        // Where a number is missing in a column, programs write the others with a fraction of zero.
        let fractions = names.iter().flatten().filter(|name| whole(name) != Some(name)).count();
        if fractions > 0 {
            notes.push(format!("{fractions} whole numbers with a fraction of zero are read without it"));
        }
        names.iter_mut().flatten().for_each(|name| *name = whole(name).unwrap_or(name).to_owned());
    } else if all(|name| ["true", "false"].contains(&name.to_lowercase().as_str())) {
        names.iter_mut().flatten().for_each(|name| *name = name.to_lowercase());
    }
    notes.extend(same_but_for_case(names.iter().flatten()));
    Ok((names.into_iter().map(|name| name.map(Label::Name)).collect(), notes))
}

/// The name of a class as it is written.
fn name(field: &Value) -> Line<Option<String>> {
    match field {
        Value::Null => Ok(None),
        Value::String(name) => Ok(Some(name.clone()).filter(|name| !name.trim().is_empty())),
        Value::Number(_) | Value::Bool(_) => Ok(Some(field.to_string())),
        other => Err(format!("label {other} is no class; write a string, a number, true or false")),
    }
}

fn value(field: &Value) -> Line<Option<Label>> {
    let text = match field {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    match text.parse::<f64>() {
        // Training sees the value in single precision, in which it must be finite too.
        Ok(value) if (value as f32).is_finite() => Ok(Some(Label::Value(value))),
        _ => {
            let label = if field.is_string() { text } else { field.to_string() };
            Err(format!("label {label} is not a finite number; names are for task = \"classify\""))
        }
    }
}

/// A whole number as it is written, without a fraction of zero.
fn whole(name: &str) -> Option<&str> {
    let (number, fraction) = name.split_once('.').unwrap_or((name, ""));
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_whole && fraction.bytes().all(|byte| byte == b'0')).then_some(number)
}

/// A note of names that differ in case alone.
fn same_but_for_case<'a>(names: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut spellings: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        spellings.entry(name.to_lowercase()).or_default().insert(name);
    }
    let pairs: Vec<String> = spellings
        .into_values()
        .filter(|spellings| spellings.len() > 1)
        .map(|spellings| Vec::from_iter(spellings).join(" and "))
        .collect();
    let pairs_listed = listed(pairs.iter().map(String::as_str), LISTED);
    (!pairs.is_empty())
        .then(|| format!("labels that differ in case alone are classes of their own: {pairs_listed}"))
}
