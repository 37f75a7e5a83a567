//! The text side of a run file: overrides, and what serde says, in one line.

/// How an override is written.
fn usage() -> String {
    "write it as key=value or key.sub=value".to_owned()
}

/// The key of an override `key.sub=value`, and what its value may be, of which the first that fits the key is meant: as
/// TOML where it is that, a text, a list of texts, a whole number that is written with a fraction of zero.
pub(super) fn parts(entry: &str) -> Result<(&str, Vec<toml::Value>), String> {
    let (key, text) = entry.split_once('=').ok_or_else(usage)?;
    let is_name =
        |part: &str| part.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c)) && !part.is_empty();
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    let list =
        names.iter().all(|name| is_name(name)).then(|| names.into_iter().map(toml::Value::from).collect());
    let whole = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
    let whole = whole.map(|number| toml::Value::from(number as i64));
    let values = [Some(value_of(text)), Some(text.into()), list.map(toml::Value::Array), whole];
    let values = values.into_iter().flatten().collect();
    Ok((key, values))
}

/// Puts a value into the table of a run file.
pub(super) fn apply(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
    if key.split('.').any(|part| part.trim() != part || part.is_empty()) {
        return Err(usage());
    }
    let mut inner = table;
    for parent in parents.into_iter().flat_map(|parents| parents.split('.')) {
        let value = inner.entry(parent).or_insert_with(|| toml::Table::new().into());
        inner =
            value.as_table_mut().ok_or_else(|| format!("`{parent}` is a value, not a table; {}", usage()))?;
    }
    match key {
        "optimizer.epochs" => inner.remove("max_steps"),
        "optimizer.max_steps" => inner.remove("epochs"),
        _ => None,
    };
    inner.insert(last.to_owned(), value);
    Ok(())
}

fn value_of(text: &str) -> toml::Value {
    let parsed =
        toml::from_str::<toml::Table>(&format!("value = {text}")).ok().filter(|table| table.len() == 1);
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| text.into())
}

/// What serde says, in one line; of an unknown name, with the nearest of those that it lists.
pub(super) fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let kind = match message.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["unknown", "field"] => "key",
        ["unknown", "variant"] => "value",
        _ => return one_line(message),
    };
    let unknown = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    match known.iter().min_by_key(|name| edit_distance(unknown, name)) {
        Some(nearest) => {
            format!(
                "unknown {kind} `{unknown}`, the nearest is `{nearest}`; known here: {}",
                known.join(", ")
            )
        }
        None => format!("unknown {kind} `{unknown}`; none is known here"),
    }
}

pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Insertions, deletions and replacements of characters that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        row[0] = left;
        for (above, to) in row.iter_mut().skip(1).zip(b.chars()) {
            left = (diagonal + usize::from(from != to)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, left);
        }
    }
    row.last().copied().unwrap_or(0)
}
