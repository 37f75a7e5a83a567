//! Data files as people have them: what is read, what is said of it, and every message where it cannot be.

use std::path::{Path, PathBuf};

use encoding::{latin_1, utf_16};
use sara_models::Error;
use sara_models::data::{Columns, Example, Examples, Format, Label, Rows, Task, read};
use serde_json::{Value, json};

mod encoding {
    /// Every character as one byte.
    pub(super) fn latin_1(text: &str) -> Vec<u8> {
        text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    }

    /// Two bytes for each character, with a mark or without.
    pub(super) fn utf_16(text: &str, marked: bool, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mark = marked.then_some(0xfeff);
        mark.into_iter().chain(text.encode_utf16()).flat_map(bytes).collect()
    }
}

fn with_file<T>(name: &str, content: impl AsRef<[u8]>, read: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    read(&path)
}

fn read_as(name: &str, content: impl AsRef<[u8]>, task: Task) -> Result<Examples, Error> {
    with_file(name, content, |path| read(path, task))
}

/// The examples of a file for a classifier.
fn classify(name: &str, content: impl AsRef<[u8]>) -> Examples {
    read_as(name, content, Task::Classify).unwrap()
}

/// Its texts, second texts and labels.
fn contents(examples: &Examples) -> Vec<(&str, Option<&str>, Option<&str>)> {
    let label = |example: &Example| match &example.label {
        None => None,
        Some(Label::Name(name)) => Some(name.clone()),
        Some(other) => panic!("{other:?} is no class"),
    };
    // Kept for as long as the examples are, so that tests can write plain strings.
    examples
        .list
        .iter()
        .map(|example| {
            let label: Option<&'static str> = label(example).map(|name| &*name.leak());
            (example.text.as_str(), example.text_pair.as_deref(), label)
        })
        .collect()
}

fn labels(examples: &Examples) -> Vec<Option<&str>> {
    contents(examples).into_iter().map(|(_, _, label)| label).collect()
}

/// The message of the error about this file, without the directory.
fn message(name: &str, content: impl AsRef<[u8]>, task: Task) -> String {
    let message = read_as(name, content, task).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message[message.find(name).expect("the message names the file")..].to_owned()
}

fn named(text: Option<&str>, text_pair: Option<&str>, label: Option<&str>) -> Columns {
    let [text, text_pair, label] = [text, text_pair, label].map(|name| name.map(str::to_owned));
    Columns { text, text_pair, label, ..Columns::default() }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables").join(name)
}

#[test]
fn json_lines_keep_text_pair_label_and_line() {
    let content = "\u{feff}{\"text\": \"a \\n\\u00e9\", \"label\": \"good\"}\r\n\
                   {\"label\": 2, \"text\": \"b\", \"text_pair\": \"c\"}\r\n\r\n\
                   {\"text\": \"c\", \"label\": null, \"text_pair\": \"\"}\r\n\r\n";
    let examples = classify("x.jsonl", content);
    assert_eq!(
        contents(&examples),
        [("a \n\u{e9}", None, Some("good")), ("b", Some("c"), Some("2")), ("c", None, None)]
    );
    assert_eq!(examples.list.iter().map(|example| example.line).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(examples.notes, ["1 blank lines left out"]);
}

#[test]
fn json_is_read_as_python_writes_it() {
    let array =
        "[\n {\"text\": \"a, ]\\\"}\", \"label\": NaN},\n {\"text\": \"b\\ud83d\",\n  \"label\": \"x\"}\n]\n";
    for name in ["x.json", "x.jsonl"] {
        let examples = classify(name, array);
        assert_eq!(contents(&examples), [("a, ]\"}", None, None), ("b\u{fffd}", None, Some("x"))]);
        assert_eq!(examples.list[1].line, 3);
        assert_eq!(examples.notes, ["1 halves of surrogate pairs replaced by U+FFFD"]);
    }
    assert_eq!(contents(&classify("x.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}")).len(), 2, "lines");
    assert_eq!(
        message("x.json", "[{\"text\": \"a\"},\n{\"text\": \"b\"", Task::Classify),
        "x.json, line 2: ends within the array; copy the file again"
    );
    assert!(
        message("x.json", "[{\"text\": \"a\"},\n3]", Task::Classify)
            .starts_with("x.json, line 2: is not a JSON")
    );
    for wrong in ["[{\"text\": \"a\"}}]", "[{\"text\": \"a\"},,{\"text\": \"b\"}]"] {
        assert!(message("x.json", wrong, Task::Classify).contains("out of place"), "{wrong}");
    }
    assert!(message("x.json", "[{\"text\": \"a\"}]\n[]", Task::Classify).contains("line 2: goes on after"));
}

#[test]
fn csv_knows_quotes_and_counts_lines_by_the_file() {
    let content =
        "\u{feff}label,text,text_pair\r\ngood,\"a, \"\"b\"\"\r\nc\",d\r\n7,plain 5\" disk,\r\n,x,y\r\n\r\n";
    let examples = classify("x.csv", content);
    assert_eq!(
        contents(&examples),
        [
            ("a, \"b\"\r\nc", Some("d"), Some("good")),
            ("plain 5\" disk", None, Some("7")),
            ("x", Some("y"), None)
        ]
    );
    assert_eq!(examples.list.iter().map(|example| example.line).collect::<Vec<_>>(), [2, 4, 5]);
    assert!(examples.notes.is_empty(), "{:?}", examples.notes);
}

#[test]
fn separators_are_those_of_the_header() {
    let expected = [("a, b", None, Some("good")), ("c", None, Some("bad"))];
    for (name, content, note) in [
        ("x.csv", "text;label\na, b;good\nc;bad\n", "fields are separated by semicolons"),
        ("x.csv", "text\tlabel\na, b\tgood\nc\tbad\n", "fields are separated by tabs"),
        ("x.tsv", "text;label\r\na, b;good\r\nc;bad\r\n", "fields are separated by semicolons"),
        ("x.csv", "sep=;\r\ntext;label\r\na, b;good\r\nc;bad", "fields are separated by semicolons"),
        // The column `a,b` tells nothing, `text` does.
        ("x.csv", "text;a,b;label\na, b;;good\nc;;bad\n", "fields are separated by semicolons"),
    ] {
        let examples = classify(name, content);
        assert_eq!(contents(&examples), expected, "{content}");
        assert_eq!(examples.notes[0], note);
    }
    assert_eq!(contents(&classify("x.tsv", "text\tlabel\na, b\tgood\nc\tbad\n")), expected);
    assert_eq!(
        contents(&classify("x.csv", "text,label\r\r\n\"a, b\",good\r\r\nc,bad\r\r\n")),
        expected,
        "CR CR LF"
    );
    assert_eq!(contents(&classify("x.csv", "text,label\r\"a, b\",good\rc,bad\r")), expected, "CR alone");
    assert_eq!(
        message("x.csv", "one;two,three\n1;2,3\n", Task::Classify),
        "x.csv, line 1: names its columns with commas and semicolons between them; begin the file with a line such as sep=;"
    );
}

#[test]
fn quotes_between_tabs_are_read_where_they_are_meant() {
    let raw = classify("x.TSV", "text\tlabel\n\"a, b\t1\nc\" d\tgood\n\"e\"\tgood\n");
    assert_eq!(
        contents(&raw),
        [("\"a, b", None, Some("1")), ("c\" d", None, Some("good")), ("\"e\"", None, Some("good"))]
    );
    let quoted = classify("x.tsv", "text\tlabel\n\"a \"\"b\"\"\"\t1\n\"c\td\ne\"\t2\n");
    assert_eq!(contents(&quoted), [("a \"b\"", None, Some("1")), ("c\td\ne", None, Some("2"))]);
    assert_eq!(quoted.notes, ["fields in double quotes are read without them"]);
    // Each line has its fields as it stands, and what looks like one long field is three.
    let open = classify("x.tsv", "text\tlabel\n\"great\tpos\nok\tneg\nhe said \"\tpos\n");
    assert_eq!(
        contents(&open),
        [("\"great", None, Some("pos")), ("ok", None, Some("neg")), ("he said \"", None, Some("pos"))]
    );
    let all = classify("x.tsv", "\"text\"\t\"label\"\n\"a\"\t\"1\"\n");
    assert_eq!(contents(&all), [("a", None, Some("1"))]);
}

#[test]
fn a_spreadsheet_is_read_as_it_was_saved() {
    let content = "Text;Label;\r\nschön;gut;\r\n;;\r\nübel;schlecht;\r\n";
    let examples = classify("x.csv", latin_1(content));
    assert_eq!(
        contents(&examples),
        [("schön", None, Some("gut")), ("", None, None), ("übel", None, Some("schlecht"))]
    );
    assert_eq!(
        examples.notes,
        ["read as Windows-1252 (Latin-1), since it is not UTF-8", "fields are separated by semicolons"]
    );
    for (marked, bytes) in
        [(true, u16::to_le_bytes as fn(u16) -> _), (true, u16::to_be_bytes), (false, u16::to_le_bytes)]
    {
        let examples = classify("x.csv", utf_16(content, marked, bytes));
        assert_eq!(contents(&examples)[0], ("schön", None, Some("gut")));
        assert!(examples.notes[0].starts_with("read as UTF-16"), "{:?}", examples.notes);
    }
    let mixed = [b"text,label\ncaf\xe9,1\n".as_slice(), "schön,2\n".as_bytes()].concat();
    assert_eq!(
        message("x.csv", mixed, Task::Classify),
        "x.csv, line 2: is not UTF-8; convert the file to UTF-8"
    );
    // Words that are no text in Windows-1252 are not read as such.
    let russian: Vec<u8> = "привет мир, хороший день"
        .chars()
        .map(|c| if c.is_ascii() { c as u8 } else { u8::try_from(u32::from(c) - 0x350).unwrap() })
        .collect();
    let content = [b"text,label\n".as_slice(), &russian[..10], b",1\n", &russian[12..], b",2\n"].concat();
    let message = message("x.csv", content, Task::Classify);
    assert!(
        message.starts_with("x.csv, line 2: is not UTF-8 and looks like windows-1251; convert"),
        "{message}"
    );
}

#[test]
fn columns_are_found_by_their_names() {
    let examples = classify("x.csv", " Text ,LABEL,idx,\na,x,0,\nb,y,1,\n");
    assert_eq!(contents(&examples), [("a", None, Some("x")), ("b", None, Some("y"))]);
    assert_eq!(examples.notes, ["columns left out: idx"]);
    let examples = classify("x.csv", ",text,label\n0,a,x\n1,b,y\n");
    assert_eq!(examples.notes, ["columns left out: (without a name)"], "an index of pandas");
    let examples = classify("x.csv", "text,Text,label\na,b,c\n");
    assert_eq!(contents(&examples), [("a", None, Some("c"))], "the exact name wins");

    let glue = "sentence1\tsentence2\tlabel\tidx\na\tb\tnot_entailment\t0\n";
    let read = |columns: &Columns| {
        with_file("x.tsv", glue, |path| {
            Rows::read(path, None).unwrap().examples(columns, Some(Task::Classify))
        })
    };
    let examples = read(&named(Some("sentence1"), Some("Sentence2"), None)).unwrap();
    assert_eq!(contents(&examples), [("a", Some("b"), Some("not_entailment"))]);
    assert_eq!(examples.notes, ["columns left out: idx"]);
    let error = |columns| read(&columns).unwrap_err().to_string();
    assert!(error(named(None, None, None)).ends_with(
        "x.tsv: has no column `text`; its columns are sentence1, sentence2, label, idx; say which holds the text: \
         data.text = \"NAME\" in a run file, --text NAME elsewhere"
    ));
    assert!(error(named(Some("sentence1"), None, Some("gold"))).ends_with(
        "x.tsv: has no column `gold` to read as label; its columns are sentence1, sentence2, label, idx"
    ));
    assert_eq!(
        message("x.csv", "text,Label,LABEL\na,b,c\n", Task::Classify),
        "x.csv: has 2 columns for label: Label, LABEL; rename all but one of them, or name another one"
    );
    assert_eq!(
        message("x.csv", "text,text\na,b", Task::Classify),
        "x.csv: has 2 columns for text: text, text; rename all but one of them, or name another one"
    );
    let json =
        "{\"review\": \"a\", \"stars\": 5, \"id\": [1]}\n{\"review\": \"b\", \"more\": {}, \"stars\": 1}\n";
    let examples = with_file("x.jsonl", json, |path| {
        let columns = named(Some("review"), None, Some("stars"));
        Rows::read(path, None).unwrap().examples(&columns, Some(Task::Classify)).unwrap()
    });
    assert_eq!(contents(&examples), [("a", None, Some("5")), ("b", None, Some("1"))]);
    assert_eq!(examples.notes, ["columns left out: id, more"]);
}

#[test]
fn labels_are_names_as_they_are_written() {
    let csv = |fields: &str| {
        let lines: String = fields
            .split(' ')
            .map(|label| format!("a,{}\n", label.replace('_', " ")))
            .collect::<Vec<_>>()
            .concat();
        classify("x.csv", format!("text,label\n{lines}"))
    };
    let json = |labels: Value| {
        let lines: String = labels
            .as_array()
            .unwrap()
            .iter()
            .map(|label| format!("{}\n", json!({"text": "a", "label": label})))
            .collect::<Vec<_>>()
            .concat();
        classify("x.jsonl", lines)
    };
    assert_eq!(labels(&csv("3 5")), ["3", "5"].map(Some));
    assert_eq!(labels(&csv("01 1")), ["01", "1"].map(Some));
    // The same ratings in CSV and in JSON, as strings and as numbers.
    for ratings in [csv("1 2 3"), json(json!(["1", "2", "3"])), json(json!([1, 2, 3]))] {
        assert_eq!(labels(&ratings), ["1", "2", "3"].map(Some));
        assert!(ratings.notes.is_empty());
    }
    // A column of whole numbers with a gap is written with fractions.
    for gap in [csv("1.0  3.0"), json(json!([1.0, null, 3.0]))] {
        assert_eq!(labels(&gap), [Some("1"), None, Some("3")]);
        assert_eq!(gap.notes, ["2 whole numbers with a fraction of zero are read without it"]);
    }
    assert_eq!(labels(&csv("1.0 1.5")), ["1.0", "1.5"].map(Some));
    assert_eq!(labels(&csv("1.0 x")), ["1.0", "x"].map(Some));
    assert_eq!(labels(&csv("True FALSE")), ["true", "false"].map(Some));
    assert_eq!(labels(&json(json!([true, false]))), ["true", "false"].map(Some));
    assert_eq!(labels(&csv("True maybe")), ["True", "maybe"].map(Some));
    let spaced = csv("_x_ y X");
    assert_eq!(labels(&spaced), ["x", "y", "X"].map(Some));
    assert_eq!(
        spaced.notes,
        ["spaces around 1 labels cut", "labels that differ in case alone are classes of their own: X and x"]
    );
}

#[test]
fn numbers_are_values_when_the_task_is_regress() {
    let json =
        "{\"text\":\"a\",\"label\":3}\n{\"text\":\"b\",\"label\":\"-0.5\"}\n{\"text\":\"c\",\"label\":NaN}";
    for (name, content) in [("x.jsonl", json), ("x.csv", "text,label\na,3\nb,-0.5\nc,\n")] {
        let examples = read_as(name, content, Task::Regress).unwrap();
        let labels: Vec<_> = examples.list.into_iter().map(|example| example.label).collect();
        assert_eq!(labels, [Some(Label::Values(vec![3.0])), Some(Label::Values(vec![-0.5])), None]);
    }
}

#[test]
fn what_a_file_is_written_in_is_seen_in_it() {
    for (content, expected) in [
        ("{\"text\": \"a\", \"label\": \"x\"}\n", "x"),
        ("\n [{\"text\": \"a\", \"label\": \"y\"}]", "y"),
        ("label;text\nz;a\n", "z"),
        ("Text\tlabel\na\tw\n", "w"),
    ] {
        assert_eq!(contents(&classify("data", content)), [("a", None, Some(expected))], "{content}");
    }
    let bytes = std::fs::read(fixture("plain.parquet")).unwrap();
    assert_eq!(classify("data", bytes).list.len(), 8);
    let txt = classify("x.txt", "a\n\n b \r\nc\n\n");
    assert_eq!(contents(&txt).iter().map(|(text, ..)| *text).collect::<Vec<_>>(), ["a", "", " b ", "c"]);
    let said = with_file("x.txt", "text;label\na;x\n", |path| Rows::read(path, Some(Format::Csv)).unwrap());
    assert_eq!(said.columns, ["text", "label"]);
    assert_eq!(
        message("data", "some words\nand more\n", Task::Classify),
        "data: unknown kind of data file; known are .jsonl, .json, .csv, .tsv, .parquet and .txt, and --format says \
         which it is"
    );
    for (name, content) in [
        ("x.jsonl", ""),
        ("x.jsonl", "\n\r\n"),
        ("x.json", "[]"),
        ("x.csv", "text,label\n"),
        ("x.csv", ""),
        ("x.tsv", "\u{feff}"),
        ("x.txt", "\n"),
        ("data", " \n"),
    ] {
        assert_eq!(
            message(name, content, Task::Classify),
            format!("{name}: holds no examples; give at least one, one per line")
        );
    }
    let missing = read(Path::new("nowhere/x.jsonl"), Task::Classify).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }) && missing.to_string().starts_with("nowhere/x.jsonl: "));
}

/// What `datasets` reads of the same files.
#[cfg(feature = "parquet")]
#[test]
fn parquet_is_what_datasets_reads() {
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (file, expected) in expected.as_object().unwrap() {
        let found = Rows::read(&fixture(file), None).unwrap();
        let columns: Vec<&String> = expected["columns"].as_object().unwrap().keys().collect();
        assert_eq!(found.columns.iter().collect::<Vec<_>>(), columns, "{file}");
        let rows = expected["rows"].as_array().unwrap();
        assert_eq!(found.rows.len(), rows.len(), "{file}");
        for (found, expected) in found.rows.iter().zip(rows) {
            for (column, found) in columns.iter().zip(&found.fields) {
                let names = expected_names(&text, file, column);
                assert_eq!(found, &class_of(&expected[column.as_str()], &names), "{file}, {column}");
            }
        }
    }
    let columns = named(Some("sentence1"), Some("sentence2"), None);
    let rows = Rows::read(&fixture("classes.parquet"), None).unwrap();
    let examples = rows.examples(&columns, Some(Task::Classify)).unwrap();
    assert_eq!(labels(&examples).iter().filter(|label| label.is_none()).count(), 2, "-1 and null");
    assert!(examples.notes.iter().any(|note| note == "columns left out: idx"), "{:?}", examples.notes);
    assert!(examples.notes.iter().any(|note| note.contains("metadata")), "{:?}", examples.notes);
    let damaged = message("x.parquet", b"PAR1 and no more", Task::Classify);
    assert!(damaged.starts_with("x.parquet, line 1: is not a Parquet file that can be read: "), "{damaged}");
}

#[cfg(feature = "parquet")]
fn expected_names(text: &str, file: &str, column: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(text).unwrap();
    let names = all[file]["class_names"][column].as_array().cloned().unwrap_or_default();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// An index of a column with named classes as its name.
#[cfg(feature = "parquet")]
fn class_of(value: &Value, names: &[String]) -> Value {
    match value {
        _ if names.is_empty() => value.clone(),
        Value::Array(all) => all.iter().map(|value| class_of(value, names)).collect(),
        Value::Number(index) => {
            index.as_u64().map_or(Value::Null, |index| names[usize::try_from(index).unwrap()].clone().into())
        }
        other => other.clone(),
    }
}

#[test]
fn a_broken_line_is_named_with_its_number_and_a_remedy() {
    let good = "{\"text\": \"a\"}\n";
    let json = |line: &str, task| message("x.jsonl", format!("{good}{line}\n{good}"), task);
    let classify = |line: &str| json(line, Task::Classify);
    assert_eq!(
        classify("{\"text\": \"a\" \"label\": 1}"),
        "x.jsonl, line 2: is not a JSON object: expected `,` or `}` at column 14; write one object, {\"text\": \"...\"}, per line"
    );
    assert!(classify("[1]").starts_with("x.jsonl, line 2: is not a JSON object: "));
    assert_eq!(classify("{\"text\": 7}"), "x.jsonl, line 2: `text` is 7; write it as a string");
    assert_eq!(
        classify("{\"text\": \"a\", \"label\": {\"a\": 1}}"),
        "x.jsonl, line 2: label {\"a\":1} is no class; write a string, a number, true or false"
    );
    assert_eq!(
        message("x.jsonl", "{\"label\": 1}", Task::Classify),
        "x.jsonl: has no column `text`; its columns are label; say which holds the text: data.text = \"NAME\" in a run \
         file, --text NAME elsewhere"
    );
    let regress = |label: &str| json(&format!("{{\"text\": \"a\", \"label\": {label}}}"), Task::Regress);
    for label in ["\"good\"", "true", "1e300", "Infinity"] {
        let message = regress(label);
        assert!(message.starts_with("x.jsonl, line 2: label "), "{message}");
        assert!(message.contains("is not a finite number; names are for task = \"classify\""), "{message}");
    }
    let bytes = [good.as_bytes(), b"{\"text\": \"\xff\"}"].concat();
    assert_eq!(
        message("x.jsonl", bytes, Task::Classify),
        "x.jsonl, line 2: is not UTF-8; convert the file to UTF-8"
    );
}

#[test]
fn a_broken_table_is_named_with_its_line_and_a_remedy() {
    let csv = |content: &str| message("x.csv", content, Task::Classify);
    assert_eq!(
        csv("text,label\n\"a\nb\",1\nc,d,1\n"),
        "x.csv, line 4: has 3 fields for 2 columns (text, label); put a field that holds a comma in double quotes"
    );
    assert_eq!(
        csv("text;label\na\n"),
        "x.csv, line 2: has 1 fields for 2 columns (text, label); put a field that holds a semicolon in double quotes"
    );
    assert_eq!(
        csv("text,label\na,1\n\"b,1\nc,0\n"),
        "x.csv, line 3: opens a quote that is never closed; close it"
    );
    assert_eq!(
        csv("text,label\n\"a\" b,1\n"),
        "x.csv, line 2: field 1 goes on after its closing quote; write each quote inside it twice"
    );
    let value = |label| message("x.csv", format!("text,label\na,{label}"), Task::Regress);
    for label in ["good", "nan", "inf", "1e300"] {
        assert_eq!(
            value(label),
            format!("x.csv, line 2: label {label} is not a finite number; names are for task = \"classify\"")
        );
    }
    assert_eq!(
        message("x.tsv", "text\tlabel\na\tb\t1\n", Task::Classify),
        "x.tsv, line 2: has 3 fields for 2 columns (text, label); a field cannot hold a tab"
    );
}
