//! Rows of Apache Parquet, as the Hugging Face hub serves them.

use std::collections::BTreeMap;

use bytes::Bytes;
use parquet::file::metadata::FileMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::rows::{Content, Line, Row};

/// Where `datasets` keeps what it knows of the columns.
const METADATA: &str = "huggingface";
/// What pandas calls an index without a name.
const INDEX: &str = "__index_level_0__";

/// The rows of a file in memory; a column of class indices has the classes' names where the file tells them.
pub(super) fn rows(bytes: Vec<u8>) -> Line<Content> {
    let wrong = |error: &dyn std::error::Error| {
        let cause = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        format!("is not a Parquet file that can be read: {cause}; write it again, or as JSON lines")
    };
    let reader = SerializedFileReader::new(Bytes::from(bytes)).map_err(|error| wrong(&error))?;
    let metadata = reader.metadata().file_metadata();
    let classes = class_names(metadata);
    let columns = metadata.schema().get_fields().iter().map(|field| field.name().to_owned());
    let columns = columns.filter(|name| name != INDEX).collect();
    let mut content = Content { columns, ..Content::default() };
    for (line, row) in (1..).zip(reader.get_row_iter(None).map_err(|error| wrong(&error))?) {
        let row = row.map_err(|error| wrong(&error))?;
        let fields = row
            .get_column_iter()
            .filter(|(name, _)| *name != INDEX)
            .map(|(name, field)| match classes.get(name) {
                Some(names) => named(&field.to_json_value(), names),
                None => Ok(field.to_json_value()),
            })
            .collect::<Line<_>>()
            .map_err(|problem| format!("row {line}: {problem}"))?;
        content.rows.push(Row { line, fields });
    }
    let named: Vec<&str> = classes.keys().map(String::as_str).collect();
    if !named.is_empty() {
        content
            .notes
            .push(format!("names of the classes in {} are those of the file's metadata", named.join(", ")));
    }
    Ok(content)
}

/// The names of the classes of each column that has such.
fn class_names(metadata: &FileMetaData) -> BTreeMap<String, Vec<String>> {
    let text = metadata.key_value_metadata().into_iter().flatten().find(|entry| entry.key == METADATA);
    let known: Value =
        text.and_then(|entry| serde_json::from_str(entry.value.as_deref()?).ok()).unwrap_or_default();
    let names = |feature: &Value| -> Option<Vec<String>> {
        // A list of classes has the names one level further down.
        let names = feature["names"].as_array().or_else(|| feature["feature"]["names"].as_array())?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let features = known["info"]["features"].as_object();
    features
        .into_iter()
        .flatten()
        .filter_map(|(column, feature)| Some((column.clone(), names(feature)?)))
        .collect()
}

/// The name of a class by its index, of a list each; -1 is what `datasets` writes for no label.
fn named(field: &Value, names: &[String]) -> Line<Value> {
    match field {
        Value::Array(fields) => {
            fields.iter().map(|field| named(field, names)).collect::<Line<_>>().map(Value::Array)
        }
        Value::Number(number) if number.as_i64() == Some(-1) => Ok(Value::Null),
        Value::Number(number) => {
            let name = number.as_u64().and_then(|index| names.get(index as usize));
            let name = name.ok_or_else(|| format!("class {number} is none of the {} named", names.len()))?;
            Ok(Value::String(name.clone()))
        }
        other => Ok(other.clone()),
    }
}
