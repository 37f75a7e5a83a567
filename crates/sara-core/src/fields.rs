//! A method's configuration out of a file: what is not given has the method's default, and an error names its field.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::methods::Method;

/// The name and the given fields of `{"NAME": {...}}`.
pub(crate) fn one_method<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(String, Map<String, Value>), D::Error> {
    let mut entries = Map::<String, Value>::deserialize(deserializer)?.into_iter();
    match (entries.next(), entries.next()) {
        (Some((name, Value::Object(given))), None) => Ok((name, given)),
        (Some((name, value)), None) => {
            Err(D::Error::custom(format!("{name}: expected its fields, found {value}")))
        }
        _ => Err(D::Error::custom("expected one method, as {\"NAME\": {...}}")),
    }
}

/// The configuration with the `given` fields in place of its defaults.
pub(crate) fn read<T: Method>(name: &str, given: Map<String, Value>) -> Result<T, String> {
    let Value::Object(defaults) = serde_json::to_value(T::default()).map_err(|error| error.to_string())?
    else {
        return Err(format!("the configuration of {name} has no fields"));
    };
    if let Some(unknown) = given.keys().find(|key| !defaults.contains_key(*key)) {
        let known: Vec<String> = defaults.keys().map(|key| format!("`{key}`")).collect();
        return Err(format!("unknown field `{unknown}`, expected one of {}", known.join(", ")));
    }
    let with = |given: Map<String, Value>| {
        let mut fields = defaults.clone();
        fields.extend(given);
        T::deserialize(Value::Object(fields))
    };
    with(given.clone()).map_err(|error| {
        // One after the other, so that the error names the field.
        let one = |(key, value): (String, Value)| {
            // JSON has no infinity and no NaN: they arrive as null.
            let is_null = value.is_null();
            with(Map::from_iter([(key.clone(), value)])).err().map(|error| {
                let problem = if is_null { "not a finite number".to_owned() } else { error.to_string() };
                (key, problem)
            })
        };
        match given.into_iter().find_map(one) {
            Some((key, error)) => format!("{name}.{key}: {error}"),
            None => format!("{name}: {error}"),
        }
    })
}
