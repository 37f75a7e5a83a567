//! What a line of a file of texts holds.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::data::{LISTED, Rows, listed};
use crate::error::{Error, Result};

/// The examples of a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// The file.
    pub path: PathBuf,
    /// Each with the line on which it begins; `None` where a row holds nothing.
    pub list: Vec<(usize, Option<Example>)>,
    /// What was assumed in reading them.
    pub notes: Vec<String>,
}

/// One example.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// A text, of which every token is learned.
    Text(String),
    /// A text of which the completion is learned.
    Prompt {
        /// What is given.
        prompt: String,
        /// What is to follow.
        completion: String,
    },
    /// A conversation, of which the assistant's turns are learned.
    Chat {
        /// Its turns, each an object with `role` and `content`.
        messages: Vec<Value>,
        /// What else the template is given: tools, documents.
        variables: Map<String, Value>,
    },
}

/// The names of the columns that hold examples.
const COLUMNS: [&str; 4] = ["text", "prompt", "completion", "messages"];

impl Examples {
    /// Reads rows with `text`, with `prompt` and `completion`, or with `messages`, and for these what else stands there.
    ///
    /// # Errors
    /// [`Error::Columns`] where none of these is a column, [`Error::Data`] for a row that is of two kinds, or of half a
    /// one.
    pub fn of_rows(rows: &Rows) -> Result<Self> {
        let place = |name: &str| rows.columns.iter().position(|column| column.trim() == name);
        let places = COLUMNS.map(place);
        if places.iter().all(Option::is_none) {
            let names = listed(rows.columns.iter().map(String::as_str), LISTED);
            let problem = format!(
                "has no column `text`, `prompt` and `completion`, or `messages`; its columns are {names}; rename one"
            );
            return Err(Error::Columns { path: rows.path.clone(), problem });
        }
        let mut notes = rows.notes.clone();
        let others = |place: &usize| !places.contains(&Some(*place));
        let left_out: Vec<&str> =
            (0..rows.columns.len()).filter(others).map(|place| rows.columns[place].as_str()).collect();
        if places[3].is_none() && !left_out.is_empty() {
            notes.push(format!("columns left out: {}", listed(left_out.into_iter(), LISTED)));
        }
        let mut list = Vec::with_capacity(rows.rows.len());
        for row in &rows.rows {
            let field = |place: Option<usize>| place.map_or(&Value::Null, |place| &row.fields[place]);
            let variables = || {
                let named = (0..rows.columns.len()).filter(others).map(|place| (place, &row.fields[place]));
                let given = named.filter(|(_, field)| !field.is_null());
                given.map(|(place, field)| (rows.columns[place].clone(), field.clone())).collect()
            };
            let example = example(places.map(field), variables).map_err(|problem| Error::Data {
                path: rows.path.clone(),
                line: row.line,
                problem,
            })?;
            list.push((row.line, example));
        }
        Ok(Self { path: rows.path.clone(), list, notes })
    }

    pub(super) fn problem(&self, line: usize, problem: String) -> Error {
        Error::Data { path: self.path.clone(), line, problem }
    }
}

fn example(
    [text, prompt, completion, messages]: [&Value; 4],
    variables: impl Fn() -> Map<String, Value>,
) -> std::result::Result<Option<Example>, String> {
    let string = |name: &str, field: &Value| match field {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        other => Err(format!("`{name}` is {other}; write it as a string")),
    };
    let chat = match messages {
        Value::Null => None,
        Value::Array(turns) => Some(Example::Chat { messages: turns.clone(), variables: variables() }),
        other => return Err(format!("`messages` is {other}; write a list of turns")),
    };
    let text = string("text", text)?.filter(|text| !text.trim().is_empty());
    let pair = (string("prompt", prompt)?, string("completion", completion)?);
    match (text, pair, chat) {
        (None, (None, None), None) => Ok(None),
        (Some(text), (None, None), None) => Ok(Some(Example::Text(text))),
        (None, (Some(prompt), Some(completion)), None) => Ok(Some(Example::Prompt { prompt, completion })),
        // What a prompt was taken from, in data that have both.
        (None, (_, None), Some(chat)) => Ok(Some(chat)),
        (None, (Some(_), None), None) => Err("has a prompt and no completion; write both".to_owned()),
        (None, (None, Some(_)), None) => Err("has a completion and no prompt; write both".to_owned()),
        _ => Err("has more than one of text, prompt with completion, and messages; leave all but one out"
            .to_owned()),
    }
}
