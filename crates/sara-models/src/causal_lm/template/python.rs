//! Jinja as Python has it: its methods, its spelling of values, its JSON, and the library's own functions.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::MARKS;

/// The function that a `{% generation %}` block calls.
const GENERATION: &str = "__generation";

/// What the library renders its templates in.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(|out, _, value| {
        if !value.is_undefined() {
            out.write_str(&spelled(value))?;
        }
        Ok(())
    });
    environment.add_filter("tojson", |value: Value, arguments: Rest<Value>, kwargs: Kwargs| {
        to_json(&value, &arguments, &kwargs)
    });
    environment.add_filter("string", |value: Value| spelled(&value));
    environment.add_function("raise_exception", |message: Value| raise(&message));
    environment.add_function("strftime_now", now);
    environment.add_function(GENERATION, |state: &mut State<'_, '_>, kwargs: Kwargs| {
        let caller: Value = kwargs.get("caller")?;
        let body = caller.call(state, &[])?;
        Ok::<_, Error>(Value::from_safe_string(format!("{}{body}{}", MARKS[0], MARKS[1])))
    });
    Ok(environment)
}

/// The template with `{% generation %}` blocks as calls, and whether it has any.
pub(super) fn with_calls(source: &str) -> (String, bool) {
    let mut rest = source.replace("\r\n", "\n");
    let mut changed = String::with_capacity(rest.len());
    let mut found = false;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = rest[start + 2..start + length].to_owned();
        let inner = tag.trim_matches(['-', '+']).trim();
        let call = match inner {
            "generation" => Some(format!("call {GENERATION}()")),
            "endgeneration" => Some("endcall".to_owned()),
            _ => None,
        };
        changed.push_str(&rest[..start + 2]);
        match call {
            Some(call) => {
                found = true;
                changed.push_str(&tag.replacen(inner, &format!(" {call} "), 1));
            }
            None => changed.push_str(&tag),
        }
        changed.push_str("%}");
        rest = rest[start + length + 2..].to_owned();
    }
    changed.push_str(&rest);
    (changed, found)
}

/// What went wrong, in one line: what the template itself says, where it says something.
pub(super) fn one_line(error: &Error) -> String {
    let mut cause = error;
    while let Some(inner) = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<Error>())
    {
        cause = inner;
    }
    let message = match cause.detail() {
        Some(detail) if cause.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        _ => cause.to_string(),
    };
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match error.line() {
        Some(line) => format!("fails in line {line} of the template: {message}"),
        None => format!("fails: {message}"),
    }
}

fn raise(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, spelled(message)))
}

/// The time of the clock, as Python's `strftime` writes it.
fn now(format: &str) -> Result<String, Error> {
    let wrong = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(wrong)
}

/// A value as Python's `str` writes it.
fn spelled(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.to_string(),
        _ => represented(value),
    }
}

/// A value as Python's `repr` writes it.
fn represented(value: &Value) -> String {
    let list = |open: char, close: char| {
        let items = value.try_iter().into_iter().flatten().map(|item| represented(&item));
        format!("{open}{}{close}", items.collect::<Vec<_>>().join(", "))
    };
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => list('[', ']'),
        ValueKind::Map => {
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", represented(&key), represented(&item))
            };
            let entries = value.try_iter().into_iter().flatten().map(entry);
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// A string in quotes, in double ones where it has single ones alone.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => _ = write!(quoted, "\\x{:02x}", c as u32),
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    float(f64::try_from(value.clone()).unwrap_or(f64::NAN))
}

/// The same of one with a fraction.
fn float(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let exponent = if float == 0.0 { 0 } else { exponent(float) };
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let scientific = format!("{float:e}");
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

/// A number that Python writes with an exponent and Jinja in full.
#[derive(Debug)]
struct Scientific(f64);

impl Object for Scientific {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&float(self.0))
    }
}

/// What a template is given of JSON.
pub(super) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Array(items) => Value::from(items.iter().map(value).collect::<Vec<Value>>()),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, field)| (key.clone(), value(field))))
        }
        serde_json::Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(number) if float(number).contains('e') => Value::from_object(Scientific(number)),
            number => Value::from(number),
        },
        other => Value::from(Serde(other)),
    }
}

/// The power of ten of its first digit.
fn exponent(float: f64) -> i32 {
    format!("{float:e}").split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0)
}

/// `json.dumps`, with the options that the library's filter has.
fn to_json(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<Value, Error> {
    let option = |place: usize, name: &str| -> Result<Value, Error> {
        match arguments.get(place) {
            Some(value) => Ok(value.clone()),
            None => Ok(kwargs.get::<Option<Value>>(name)?.unwrap_or_default()),
        }
    };
    let ascii = option(0, "ensure_ascii")?.is_true();
    let indent = match option(1, "indent")? {
        indent if indent.is_undefined() || indent.is_none() => None,
        indent => match usize::try_from(indent.clone()) {
            Ok(width) => Some(" ".repeat(width)),
            Err(_) => Some(indent.to_string()),
        },
    };
    let separators = option(2, "separators")?;
    let separator = |place: usize, default: &str| match separators.get_item_by_index(place) {
        Ok(own) if !own.is_undefined() => own.to_string(),
        _ => default.to_owned(),
    };
    let item = separator(0, if indent.is_some() { "," } else { ", " });
    let sorted = option(3, "sort_keys")?.is_true();
    kwargs.assert_all_used()?;
    let json = Json { ascii, indent, item, key: separator(1, ": "), sorted };
    let mut text = String::new();
    json.write(&mut text, value, 0)?;
    Ok(Value::from(text))
}

/// How JSON is written.
struct Json {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&match number(value).as_str() {
                "nan" => "NaN".to_owned(),
                "inf" => "Infinity".to_owned(),
                "-inf" => "-Infinity".to_owned(),
                number => number.to_owned(),
            }),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(out, depth, ['[', ']'], &items, |out, item| self.write(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.list(out, depth, ['{', '}'], &keys, |out, key| {
                    let name = match key.kind() {
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                        ValueKind::Number => number(key),
                        _ => key.to_string(),
                    };
                    self.string(out, &name);
                    out.push_str(&self.key);
                    self.write(out, &value.get_item(key)?, depth + 1)
                })?;
            }
            _ if value.downcast_object_ref::<Scientific>().is_some() => out.push_str(&value.to_string()),
            kind => {
                let problem = format!("a value of kind {kind} has no form in JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        out: &mut String,
        depth: usize,
        [open, close]: [char; 2],
        items: &[Value],
        write: impl Fn(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                out.push_str(&self.item);
            }
            line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 => _ = write!(out, "\\u{:04x}", c as u32),
                c if self.ascii && !c.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
