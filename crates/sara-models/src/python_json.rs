//! JSON as Python writes it: with `NaN` and `Infinity` as numbers, and with halves of surrogate pairs.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Reads a text, and says how many halves of surrogate pairs became U+FFFD. `NaN` is `null`, `Infinity` the
/// string of that name.
///
/// # Errors
/// What the parser says of the text as it stands.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<(T, usize)> {
    serde_json::from_str(text).map(|value| (value, 0)).or_else(|error| {
        let (plain, replaced) = plain(text);
        if plain == text { Err(error) } else { serde_json::from_str(&plain).map(|value| (value, replaced)) }
    })
}

/// The text with what JSON does not know in other words, and the number of halves of surrogate pairs.
fn plain(text: &str) -> (Cow<'_, str>, usize) {
    let mut made = String::with_capacity(text.len());
    let (mut rest, mut in_string, mut replaced) = (text, false, 0);
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\\' if in_string => {
                let (escape, halves) = escape(rest);
                made.push_str(if halves == 0 { escape } else { "\\ufffd" });
                replaced += halves;
                rest = &rest[escape.len()..];
                continue;
            }
            '"' => {
                in_string = !in_string;
                None
            }
            _ if in_string => None,
            _ => ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word)),
        };
        match taken {
            Some("NaN") => {
                made.push_str("null");
                rest = &rest[3..];
            }
            Some(word) => {
                made.extend(["\"", word, "\""]);
                rest = &rest[word.len()..];
            }
            None => {
                made.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    (made.into(), replaced)
}

/// The escape at the start of `rest`, and 1 where it is half of a surrogate pair.
fn escape(rest: &str) -> (&str, usize) {
    let unit = |at: usize| {
        let digits = rest.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    match (unit(0), unit(6)) {
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (&rest[..12], 0),
        (Some(0xd800..=0xdfff), _) => (&rest[..6], 1),
        _ => {
            let end = rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at);
            (&rest[..end], 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_python_writes_is_read() {
        let read = |text: &str| parse::<Value>(text).ok();
        assert_eq!(
            read("[NaN, -Infinity, Infinity, 1]"),
            Some((json!([null, "-Infinity", "Infinity", 1]), 0))
        );
        // Words inside a string are text, whatever stands outside.
        assert_eq!(read(r#"["\"NaN", NaN]"#), Some((json!(["\"NaN", null]), 0)));
        assert_eq!(
            read(r#"["a\ud83d", "\ude00\\ud83d"]"#),
            Some((json!(["a\u{fffd}", "\u{fffd}\\ud83d"]), 2))
        );
        assert_eq!(read(r#"["\ud83d\ude00", "\ud83d"]"#), Some((json!(["\u{1f600}", "\u{fffd}"]), 1)));
        assert_eq!(read("[NaN"), None);
        assert_eq!(read("{\"a\": nan}"), None);
    }
}
