//! Added and special tokens: which there are, out of four files that may contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::classes::{Class, NAMED};

/// Set on objects that came out of `special_tokens_map.json`, where all are tokens.
const OF_MAP: &str = "of_map";

/// A token as the files write it.
#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are those of the files")]
struct Token {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// The contrary of `special` where nothing is said.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

/// The tokens of a tokenizer beside its vocabulary.
#[derive(Debug)]
pub(super) struct Special {
    /// All that are to be added, in order.
    pub(super) added: Vec<AddedToken>,
    named: BTreeMap<&'static str, Token>,
}

impl Token {
    fn plain(content: &str, special: bool) -> Self {
        let content = content.to_owned();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special }
    }

    /// A string, or an object that says that it is a token.
    fn read(value: &Value, key: &str) -> Result<Option<Self>, String> {
        match value {
            Value::Null => Ok(None),
            Value::String(content) => Ok(Some(Self::plain(content, true))),
            Value::Object(fields) if fields.get("__type").is_some() || fields.contains_key(OF_MAP) => {
                let mut token = Self::object(value, key)?;
                token.special |= fields.contains_key(OF_MAP);
                Ok(Some(token))
            }
            other => Err(format!("{key} is {other}; write it as a string")),
        }
    }

    fn object(value: &Value, key: &str) -> Result<Self, String> {
        Self::deserialize(value).map_err(|error| format!("{key} is no token: {error}"))
    }

    fn into_added(self) -> AddedToken {
        let Self { content, single_word, lstrip, rstrip, normalized, special } = self;
        let normalized = normalized.unwrap_or(!special);
        AddedToken { content, single_word, lstrip, rstrip, normalized, special }
    }
}

impl Special {
    /// The content of a named token.
    pub(super) fn named(&self, key: &str) -> Option<&str> {
        self.named.get(key).map(|token| token.content.as_str())
    }

    /// Reads `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `tokenizer.json`; the second and
    /// third only where the first has no `added_tokens_decoder`, of which the last then loses its added tokens too.
    pub(super) fn read(
        class: Class,
        config: &Map<String, Value>,
        map: &Map<String, Value>,
        added: &Map<String, Value>,
        file: Option<&Value>,
    ) -> Result<Self, String> {
        let mut settings = config.clone();
        let is_empty = |value: Option<&Value>| match value {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(entries)) => entries.is_empty(),
            value => value.is_none_or(Value::is_null),
        };
        if is_empty(settings.get("extra_special_tokens"))
            && let Some(additional) = settings.shift_remove("additional_special_tokens")
        {
            settings.insert("extra_special_tokens".to_owned(), additional);
        }
        let mut own = Vec::new();
        for (key, value) in &settings {
            let is_own = key.ends_with("_token") && !NAMED.contains(&key.as_str());
            if let Some(content) = value.as_str().filter(|_| is_own) {
                own.push(Token::plain(content, true));
            }
        }
        if let Some(Value::Object(entries)) = settings.get("extra_special_tokens") {
            for (key, value) in entries {
                own.extend(Token::read(value, key)?);
            }
            settings.shift_remove("extra_special_tokens");
        }
        let decoder = if let Some(decoder) = config.get("added_tokens_decoder") {
            decoded(decoder)?
        } else {
            put_map(&mut settings, map);
            listed(&settings, added, file)?
        };
        if !settings.contains_key("extra_special_tokens")
            && let Some(additional) = settings.shift_remove("additional_special_tokens")
        {
            settings.insert("extra_special_tokens".to_owned(), additional);
        }
        let mut named = BTreeMap::new();
        for key in NAMED {
            let token = match settings.get(key) {
                Some(value) => Token::read(value, key)?,
                None => class.default_token(key).map(|content| Token::plain(content, true)),
            };
            named.extend(token.map(|token| (key, token)));
        }
        let padding = file.and_then(|file| file["padding"]["pad_token"].as_str());
        if let (Class::Generic, None, Some(pad)) = (class, settings.get("pad_token"), padding) {
            named.insert("pad_token", Token::plain(pad, true));
        }
        let mut extra = Vec::new();
        for value in settings.get("extra_special_tokens").and_then(Value::as_array).into_iter().flatten() {
            extra.extend(Token::read(value, "extra_special_tokens")?);
        }
        let of_file = file.filter(|_| class == Class::Generic).map_or_else(Vec::new, contents);
        let known: BTreeSet<String> =
            decoder.values().map(|token| token.content.clone()).chain(of_file).collect();
        let all_named: BTreeSet<&str> =
            named.values().chain(&own).map(|token| token.content.as_str()).collect();
        let in_order = NAMED.iter().filter_map(|key| named.get(key)).chain(&own).chain(&extra);
        let unknown = in_order.filter(|token| !known.contains(&token.content)).cloned();
        let added = decoder
            .values()
            .cloned()
            .chain(unknown)
            .map(|mut token| {
                // The class adds its special tokens itself, without what the files say of them.
                let is_special = all_named.contains(token.content.as_str())
                    || extra.iter().any(|extra| extra.content == token.content);
                if class == Class::Qwen2 && is_special {
                    token = Token { normalized: Some(false), ..Token::plain(&token.content, true) };
                }
                token.special |= all_named.contains(token.content.as_str());
                token.into_added()
            })
            .collect();
        Ok(Self { added, named })
    }
}

/// `added_tokens_decoder`, by id.
fn decoded(decoder: &Value) -> Result<BTreeMap<u64, Token>, String> {
    let entry = |(id, value): (&String, &Value)| {
        let number = id.parse().map_err(|_| format!("added_tokens_decoder has the id `{id}`, no number"))?;
        Ok((number, Token::object(value, "added_tokens_decoder")?))
    };
    decoder.as_object().into_iter().flatten().map(entry).collect()
}

/// What `special_tokens_map.json` says comes in place of what the configuration says.
fn put_map(settings: &mut Map<String, Value>, map: &Map<String, Value>) {
    for (key, value) in map {
        let mut value = value.clone();
        if key == "extra_special_tokens" {
            let mut all = settings.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            for token in value.as_array().into_iter().flatten() {
                if !all.contains(token) {
                    all.push(token.clone());
                }
            }
            value = all.into();
        } else if let Some(fields) = value.as_object_mut() {
            fields.insert(OF_MAP.to_owned(), true.into());
        }
        settings.insert(key.clone(), value);
    }
}

/// The tokens of `added_tokens.json`, and in their place those of `tokenizer.json` under the same ids.
fn listed(
    settings: &Map<String, Value>,
    added: &Map<String, Value>,
    file: Option<&Value>,
) -> Result<BTreeMap<u64, Token>, String> {
    let extra = settings.get("extra_special_tokens").and_then(Value::as_array);
    let special: BTreeSet<&str> = NAMED
        .iter()
        .filter_map(|key| settings.get(*key))
        .chain(extra.into_iter().flatten())
        .filter_map(|value| match value {
            Value::Object(fields) if fields.contains_key(OF_MAP) => {
                fields.get("content").and_then(Value::as_str)
            }
            value => value.as_str(),
        })
        .collect();
    let mut all = BTreeMap::new();
    for (content, id) in added {
        let id = id.as_u64().ok_or_else(|| format!("added_tokens.json gives `{content}` the id {id}"))?;
        all.insert(id, Token::plain(content, special.contains(content.as_str())));
    }
    if let Some(file) = file {
        for token in file["added_tokens"].as_array().into_iter().flatten() {
            let id = token["id"].as_u64().ok_or("tokenizer.json has an added token without an id")?;
            all.insert(id, Token::object(token, "added_tokens")?);
        }
    }
    Ok(all)
}

fn contents(file: &Value) -> Vec<String> {
    let tokens = file["added_tokens"].as_array().into_iter().flatten();
    tokens.filter_map(|token| token["content"].as_str().map(str::to_owned)).collect()
}
