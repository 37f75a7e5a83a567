//! `generation_config.json`: how the makers of a model want it to write.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use serde_json::{Map, Value};

use super::generate::Sampling;
use crate::architecture::CONFIG;
use crate::error::{Error, Result};
use crate::python_json;

/// What the files of a model say about writing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

const FILE: &str = "generation_config.json";

impl GenerationConfig {
    /// Reads `generation_config.json`, and where it does not say how a text ends, `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] where a file cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = object(&dir.join(FILE))?;
        let config = object(&dir.join(CONFIG))?;
        let wrong = |key: &str, value: &Value, expected: &str| {
            Error::format(&dir.join(FILE), format!("{key} is {value}; write {expected}"))
        };
        let number = |key: &'static str, default: f64| match file.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite() && *n >= 0.0)
                .ok_or_else(|| wrong(key, value, "a number")),
        };
        let eos = ends(&file).or_else(|| ends(&config)).unwrap_or_default();
        if file.get("do_sample").and_then(Value::as_bool) != Some(true) {
            let repetition_penalty = number("repetition_penalty", 1.0)?;
            return Ok(Self { eos, sampling: Sampling { repetition_penalty, ..Sampling::default() } });
        }
        // The library's own defaults, where sampling is asked for.
        let sampling = Sampling {
            temperature: number("temperature", 1.0)?,
            top_k: NonZeroUsize::new(number("top_k", 50.0)? as usize),
            top_p: number("top_p", 1.0)?,
            repetition_penalty: number("repetition_penalty", 1.0)?,
            seed: 0,
        };
        Ok(Self { eos, sampling })
    }
}

/// The tokens that end a text: one, or a list.
fn ends(config: &Map<String, Value>) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get("eos_token_id")? {
        Value::Null => None,
        Value::Array(ids) => Some(ids.iter().filter_map(id).collect()),
        one => Some(id(one).into_iter().collect()),
    }
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(Error::io(path)(error)),
    };
    let parsed = python_json::parse(&text);
    parsed.map(|(object, _)| object).map_err(|error| Error::format(path, error))
}
