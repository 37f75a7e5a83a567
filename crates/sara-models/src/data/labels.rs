//! A column of labels, read as a whole: how one is written may depend on the others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::rows::{Line, Lines};
use super::{Label, Task, listed, shown};

/// How many names a note lists.
const LISTED: usize = 5;

/// The labels of fields, each with the line it stands on, and what was assumed. `null` and a blank field are no label.
///
/// `separator` stands between the names of several labels in one field.
pub(super) fn labels(
    fields: &[(usize, &Value)],
    task: Task,
    separator: &str,
) -> Lines<(Vec<Option<Label>>, Vec<String>)> {
    match task {
        Task::Classify => {
            let mut read = each(fields, name)?;
            let notes = tidy(read.iter_mut().flatten().collect());
            Ok((read.into_iter().map(|name| name.map(Label::Name)).collect(), notes))
        }
        Task::MultiLabel => {
            let mut read = each(fields, |field| names(field, separator))?;
            let mut notes = tidy(read.iter_mut().flatten().flatten().collect());
            let blank = fields.iter().filter(|(_, field)| field.is_string() && is_blank(field)).count();
            if blank > 0 {
                let none = format!("`{separator}` alone, or [] in JSON, says that no class applies");
                notes.push(format!("{blank} blank fields are no label; {none}"));
            }
            Ok((read.into_iter().map(|names| names.map(Label::Names)).collect(), notes))
        }
        Task::CausalLm => Ok((vec![None; fields.len()], Vec::new())),
        Task::Regress => {
            let read = each(fields, values)?;
            let mut sizes =
                fields.iter().zip(&read).filter_map(|((line, _), read)| Some((line, read.as_ref()?.len())));
            let size = sizes.next().map_or(0, |(_, size)| size);
            if let Some((&line, other)) = sizes.find(|(_, other)| *other != size) {
                return Err((
                    line,
                    format!("label has {other} numbers, and those before it {size}; give as many"),
                ));
            }
            Ok((read.into_iter().map(|values| values.map(Label::Values)).collect(), Vec::new()))
        }
    }
}

/// The labels of several columns, one for each class or each number; a row without any field has none.
pub(super) fn labels_of_columns(
    names: &[&str],
    columns: &[Vec<(usize, &Value)>],
    task: Task,
) -> Lines<Vec<Option<Label>>> {
    let rows = columns.first().map_or(0, Vec::len);
    let label = |row: usize| -> Lines<Option<Label>> {
        let cells = || names.iter().zip(columns).map(|(name, column)| (*name, column[row]));
        if cells().all(|(_, (_, field))| is_blank(field)) {
            return Ok(None);
        }
        let wrong = |name: &str, (line, field): (usize, &Value), expected: &str| {
            (line, format!("column {} is {field}; write {expected}", shown(name)))
        };
        if task == Task::Regress {
            let value = |(name, (line, field)): (&str, (usize, &Value))| match value(field) {
                Ok(Some(value)) => Ok(value),
                _ => Err(wrong(name, (line, field), "a finite number")),
            };
            return Ok(Some(Label::Values(cells().map(value).collect::<Result<_, _>>()?)));
        }
        let mut apply = Vec::new();
        for (name, (line, field)) in cells() {
            let text = field.as_str().map_or_else(|| field.to_string(), |text| text.trim().to_lowercase());
            match text.as_str() {
                "1" | "1.0" | "true" => apply.push(name.to_owned()),
                "0" | "0.0" | "false" => {}
                _ => return Err(wrong(name, (line, field), "0 or 1")),
            }
        }
        Ok(Some(Label::Names(apply)))
    };
    (0..rows).map(label).collect()
}

fn each<T>(fields: &[(usize, &Value)], read: impl Fn(&Value) -> Line<T>) -> Lines<Vec<T>> {
    fields.iter().map(|&(line, field)| read(field).map_err(|problem| (line, problem))).collect()
}

/// Writes the names of a column in one way, and says what was changed.
fn tidy(mut names: Vec<&mut String>) -> Vec<String> {
    let mut notes = Vec::new();
    let mut spaced = 0;
    for name in &mut names {
        if name.trim() != name.as_str() {
            **name = String::from(name.trim());
            spaced += 1;
        }
    }
    if spaced > 0 {
        notes.push(format!("spaces around {spaced} labels cut"));
    }
    let all = |is_so: fn(&str) -> bool| names.iter().all(|name| is_so(name));
    if all(|name| whole(name).is_some()) {
        // Where a number is missing in a column, programs write the others with a fraction of zero.
        let fractions = names.iter().filter(|name| whole(name) != Some(name.as_str())).count();
        if fractions > 0 {
            notes.push(format!("{fractions} whole numbers with a fraction of zero are read without it"));
        }
        for name in &mut names {
            **name = String::from(whole(name).unwrap_or(name));
        }
    } else if all(|name| ["true", "false"].contains(&name.to_lowercase().as_str())) {
        for name in &mut names {
            **name = name.to_lowercase();
        }
    }
    notes.extend(same_but_for_case(names.iter().map(|name| name.as_str())));
    notes
}

fn is_blank(field: &Value) -> bool {
    field.is_null() || field.as_str().is_some_and(|text| text.trim().is_empty())
}

/// The name of a class as it is written.
fn name(field: &Value) -> Line<Option<String>> {
    match field {
        _ if is_blank(field) => Ok(None),
        Value::String(name) => Ok(Some(name.clone())),
        Value::Number(_) | Value::Bool(_) => Ok(Some(field.to_string())),
        Value::Array(_) => {
            Err(format!("label {field} is a list, not a class; lists are for task = \"multi-label\""))
        }
        other => Err(format!("label {other} is no class; write a string, a number, true or false")),
    }
}

/// The names of all classes that apply: a list, or names between separators.
fn names(field: &Value, separator: &str) -> Line<Option<Vec<String>>> {
    let fields = match field {
        _ if is_blank(field) => return Ok(None),
        Value::String(text) => {
            let names = text.split(separator).map(str::trim).filter(|name| !name.is_empty());
            return Ok(Some(names.map(str::to_owned).collect()));
        }
        Value::Array(fields) => fields.as_slice(),
        other => std::slice::from_ref(other),
    };
    let names = fields.iter().filter_map(|field| name(field).transpose()).collect::<Line<Vec<_>>>()?;
    // Names that a list repeats are none: such a list has a place for each class.
    let is_flag = |name: &String| ["0", "1", "0.0", "1.0", "true", "false"].contains(&name.as_str());
    let different: BTreeSet<&String> = names.iter().collect();
    if different.len() < names.len() && names.iter().all(is_flag) {
        return Err(format!(
            "label {field} has a 0 or 1 for each class; write the names of those that apply, or a column for each \
             class (labels)"
        ));
    }
    Ok(Some(names))
}

/// A number, or a list of numbers.
fn values(field: &Value) -> Line<Option<Vec<f64>>> {
    let Value::Array(fields) = field else { return Ok(value(field)?.map(|value| vec![value])) };
    let one = |each: &Value| {
        value(each)?.ok_or_else(|| format!("label {field} has a gap; write a number for each output"))
    };
    let values = fields.iter().map(one).collect::<Line<Vec<_>>>()?;
    Ok(Some(values).filter(|values| !values.is_empty()))
}

fn value(field: &Value) -> Line<Option<f64>> {
    if is_blank(field) {
        return Ok(None);
    }
    let text = field.as_str().map_or_else(|| field.to_string(), |text| text.trim().to_owned());
    // Training sees the value in single precision, in which it must be finite too.
    match text.parse::<f64>().ok().filter(|value| (*value as f32).is_finite()) {
        Some(value) => Ok(Some(value)),
        None => Err(format!("label {text} is not a finite number; names are for task = \"classify\"")),
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
fn same_but_for_case<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
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
