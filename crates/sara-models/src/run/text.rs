//! The text side of a run file: overrides, and what serde says, in one line.

/// Puts one `key.sub=value` into the table of a run file.
pub(super) fn apply(table: &mut toml::Table, entry: &str) -> Result<(), String> {
    let usage = || "write it as key=value or key.sub=value".to_owned();
    let (key, text) = entry.split_once('=').ok_or_else(usage)?;
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
    inner.insert(last.to_owned(), value_of(text));
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
