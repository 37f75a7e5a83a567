//! Chat templates: a conversation as the text that a model was trained on, and which of it the assistant says.
//!
//! Rendered as transformers 5 renders them: Jinja with loop controls, `{% generation %}`, Python's methods and spellings.

mod python;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::Environment;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::python_json;
use crate::tokenizer::Tokens;

/// A checkpoint's chat templates.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file that an error names.
    path: PathBuf,
    environment: Environment<'static>,
    /// Whether the template that is used without tools, and the one with them, mark what the assistant says.
    marks: BTreeMap<String, bool>,
    /// What each special token is called in a template, and its text.
    tokens: Map<String, Value>,
}

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// What the assistant says, in bytes.
    pub said: Vec<Range<usize>>,
    /// Whether the template itself says so; else the turns were compared.
    pub is_marked: bool,
}

/// Whether a text ends with what comes before an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After the last turn.
    Turn,
    /// Where the assistant is to answer.
    Prompt,
}

const SETTINGS: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const FILE: &str = "chat_template.jinja";
const FURTHER: &str = "additional_chat_templates";
const DEFAULT: &str = "default";
const WITH_TOOLS: &str = "tool_use";

/// Stand for the ends of what the assistant says while a text is made; no text has them.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

impl ChatTemplate {
    /// The templates of a checkpoint's directory: the files `chat_template.jinja` and `additional_chat_templates/*.jinja`,
    /// else `chat_template` in `tokenizer_config.json`; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Template`] where a file cannot be read, or is no template.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let settings = object(&dir.join(SETTINGS))?;
        let (path, sources) = sources(dir, &settings)?;
        if sources.is_empty() {
            return Ok(None);
        }
        let wrong = |problem: String| Error::Template { path: path.clone(), problem };
        let mut environment = python::environment().map_err(|error| wrong(python::one_line(&error)))?;
        let mut marks = BTreeMap::new();
        for (name, source) in sources {
            let (source, is_marked) = python::with_calls(&source);
            marks.insert(name.clone(), is_marked);
            environment.add_template_owned(name, source).map_err(|error| wrong(python::one_line(&error)))?;
        }
        let tokens = tokens(&settings, &object(&dir.join(MAP))?);
        Ok(Some(Self { path, environment, marks, tokens }))
    }

    /// The text of a conversation; `variables` are what else the template is given.
    ///
    /// # Errors
    /// [`Error::Template`] where there is nothing to render, or the template refuses.
    pub fn text(&self, messages: &[Value], variables: &Map<String, Value>, ending: Ending) -> Result<String> {
        Ok(self.render(messages, variables, ending)?.0)
    }

    /// The text of a conversation, and what the assistant says of it: what the template marks, else what each of its turns
    /// adds to the text before it.
    ///
    /// # Errors
    /// [`Error::Template`] where the template refuses, passes over a turn, or where a turn changes earlier text.
    pub fn conversation(&self, messages: &[Value], variables: &Map<String, Value>) -> Result<Rendered> {
        let (text, said) = self.render(messages, variables, Ending::Turn)?;
        self.check_said(messages, &text)?;
        let is_marked = self.marks[self.chosen(variables)?];
        if is_marked {
            return Ok(Rendered { text, said, is_marked });
        }
        let mut said = Vec::new();
        for (turn, message) in messages.iter().enumerate() {
            if message["role"] != "assistant" {
                continue;
            }
            if turn == 0 {
                return Err(
                    self.wrong("has nothing before a first turn of the assistant; begin with another turn")
                );
            }
            let before = self.text(&messages[..turn], variables, Ending::Prompt)?;
            let after = self.text(&messages[..=turn], variables, Ending::Turn)?;
            if !after.starts_with(&before) || !text.starts_with(&after) {
                let problem = format!(
                    "changes earlier text with a later turn (turn {}), so that it cannot be told what the assistant says; mark it \
                     with {{% generation %}}",
                    turn + 1
                );
                return Err(self.wrong(&problem));
            }
            said.push(before.len()..after.len());
        }
        Ok(Rendered { text, said, is_marked })
    }

    /// The name of the template that is used.
    fn chosen(&self, variables: &Map<String, Value>) -> Result<&'static str> {
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        if self.marks.len() > 1 && has_tools && self.marks.contains_key(WITH_TOOLS) {
            return Ok(WITH_TOOLS);
        }
        if self.marks.contains_key(DEFAULT) {
            return Ok(DEFAULT);
        }
        Err(self.wrong("has several templates, and none of them is called default; name one so"))
    }

    /// The text, and what is marked in it.
    fn render(
        &self,
        messages: &[Value],
        variables: &Map<String, Value>,
        ending: Ending,
    ) -> Result<(String, Vec<Range<usize>>)> {
        if messages.is_empty() {
            return Err(self.wrong("is given a conversation without a turn; write one"));
        }
        let messages: Vec<Value> = messages.iter().map(prepared).collect();
        let mut all = Map::new();
        all.insert("messages".to_owned(), Value::Array(messages));
        all.insert("tools".to_owned(), Value::Null);
        all.insert("documents".to_owned(), Value::Null);
        all.insert("add_generation_prompt".to_owned(), json!(ending == Ending::Prompt));
        all.extend(self.tokens.clone());
        all.extend(variables.clone());
        if Value::Object(all.clone()).to_string().contains(MARKS) {
            return Err(
                self.wrong("is given the characters U+FDD0 or U+FDD1, which no text has; remove them")
            );
        }
        let template = self.environment.get_template(self.chosen(variables)?);
        let rendered = template.and_then(|template| template.render(python::value(&Value::Object(all))));
        let text = rendered.map_err(|error| self.wrong(&python::one_line(&error)))?;
        Ok(unmarked(&text))
    }

    /// Whether every turn is in the text: a template may pass over a role that it does not know.
    fn check_said(&self, messages: &[Value], text: &str) -> Result<()> {
        for (turn, message) in messages.iter().enumerate() {
            // What the assistant says may be changed on purpose: templates leave its reasoning out.
            let Some(content) = message["content"].as_str().filter(|_| message["role"] != "assistant") else {
                continue;
            };
            let content = content.trim();
            let escaped = Value::String(content.to_owned()).to_string();
            if !text.contains(content) && !text.contains(escaped.trim_matches('"')) {
                let role = message["role"].as_str().unwrap_or("(none)");
                let problem =
                    format!("passes over turn {}, whose role is {role}; use a role that it knows", turn + 1);
                return Err(self.wrong(&problem));
            }
        }
        Ok(())
    }

    fn wrong(&self, problem: &str) -> Error {
        Error::Template { path: self.path.clone(), problem: problem.to_owned() }
    }
}

impl Rendered {
    /// Which of the text's tokens the assistant says: those within a span that the template marks, whole or in part; where
    /// turns were compared, those that end in what a turn has added.
    pub fn trained(&self, tokens: &Tokens) -> Vec<bool> {
        let is_in = |&(start, end): &(usize, usize)| {
            self.said.iter().any(|said| {
                end > said.start && if self.is_marked { start < said.end } else { end <= said.end }
            })
        };
        tokens.spans.iter().map(is_in).collect()
    }
}

/// The text without marks, and what stood between them, the inner first.
fn unmarked(text: &str) -> (String, Vec<Range<usize>>) {
    let (mut plain, mut open, mut said) = (String::with_capacity(text.len()), Vec::new(), Vec::new());
    for c in text.chars() {
        if c == MARKS[0] {
            open.push(plain.len());
        } else if c == MARKS[1] {
            said.extend(open.pop().map(|start| start..plain.len()));
        } else {
            plain.push(c);
        }
    }
    (plain, said)
}

/// A turn as templates get it: nothing where nothing is said, and what was thought under both names.
fn prepared(message: &Value) -> Value {
    let Value::Object(message) = message else { return message.clone() };
    let mut own: Map<String, Value> = message.clone();
    own.retain(|_, value| !value.is_null());
    let thought =
        ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(|key| own.get(key).cloned());
    let Some(thought) = thought else { return Value::Object(own) };
    let mut all = Map::new();
    all.insert("thinking".to_owned(), thought.clone());
    all.extend(own);
    all.insert("reasoning_content".to_owned(), thought);
    Value::Object(all)
}

/// Templates by name, and the file that they come from.
fn sources(dir: &Path, settings: &Map<String, Value>) -> Result<(PathBuf, BTreeMap<String, String>)> {
    let mut sources = BTreeMap::new();
    let file = dir.join(FILE);
    if file.exists() {
        sources.insert(DEFAULT.to_owned(), fs::read_to_string(&file).map_err(Error::io(&file))?);
    }
    let further = dir.join(FURTHER);
    for entry in fs::read_dir(&further).into_iter().flatten() {
        let path = entry.map_err(Error::io(&further))?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        if let (Some("jinja"), Some(name)) = (path.extension().and_then(|end| end.to_str()), name) {
            sources.insert(name, fs::read_to_string(&path).map_err(Error::io(&path))?);
        }
    }
    if !sources.is_empty() {
        return Ok((file, sources));
    }
    let path = dir.join(SETTINGS);
    let wrong = |found: &Value| {
        let problem =
            format!("chat_template is {found}; write a template, or a list of templates with names");
        Error::Template { path: path.clone(), problem }
    };
    match settings.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => _ = sources.insert(DEFAULT.to_owned(), source.clone()),
        Some(Value::Array(list)) => {
            for entry in list {
                let (Some(name), Some(source)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                    return Err(wrong(entry));
                };
                sources.insert(name.to_owned(), source.to_owned());
            }
        }
        Some(Value::Object(named)) => {
            for (name, source) in named {
                let source = source.as_str().ok_or_else(|| wrong(source))?;
                sources.insert(name.clone(), source.to_owned());
            }
        }
        Some(other) => return Err(wrong(other)),
    }
    Ok((path, sources))
}

/// Special tokens by the names that templates use.
fn tokens(settings: &Map<String, Value>, map: &Map<String, Value>) -> Map<String, Value> {
    let mut tokens = Map::new();
    let mut put = |key: &str, value: &Value, needs_type: bool| {
        let content = match value {
            Value::String(content) => Some(content.as_str()),
            Value::Object(fields) if fields.contains_key("__type") || !needs_type => {
                value["content"].as_str()
            }
            _ => None,
        };
        if let Some(content) = content {
            tokens.insert(key.to_owned(), json!(content));
        }
    };
    for (key, value) in settings.iter().filter(|(key, _)| key.ends_with("_token")) {
        put(key, value, true);
    }
    if let Some(Value::Object(extra)) = settings.get("extra_special_tokens") {
        for (key, value) in extra {
            put(key, value, true);
        }
    }
    if !settings.contains_key("added_tokens_decoder") {
        for (key, value) in map.iter().filter(|(key, _)| key.ends_with("_token")) {
            put(key, value, false);
        }
    }
    tokens
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(Error::io(path)(error)),
    };
    python_json::parse(&text).map(|(object, _)| object).map_err(|error| Error::format(path, error))
}
