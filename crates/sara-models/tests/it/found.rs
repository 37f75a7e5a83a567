//! A first day with one's own files, from `sara train` to `sara predict` with no edit of them.

use std::path::Path;

use serde_json::Value;

use super::command::Workplace;

const LORA: &str = "[method.lora]\nrank = 2";

/// A backbone without a head, and a run of a few steps on `data`.
fn place(base: &str, data: &str) -> Workplace {
    let place = Workplace::of_fixture(base);
    let text = format!(
        "model = \"model\"\noutput = \"run\"\n{LORA}\n[data]\n{data}\n\
         [optimizer]\nbatch_size = 4\nepochs = 2\nlearning_rate = 5e-3\n"
    );
    place.write("run.toml", &text);
    place
}

fn predict(place: &Workplace, data: &[&str], out: &str) -> String {
    let args = ["predict", "--model", "model", "--adapter", "run", "--out", out, "--data"];
    place.sara_ok(&[&args[..], data].concat());
    std::fs::read_to_string(place.path(out)).unwrap()
}

#[test]
fn a_spreadsheet() {
    let place = place("bert-bare", "train = \"reviews.csv\"\nvalid_share = 0.25");
    let row = |i: usize| format!("sch\u{f6}n {i};{};\r\n", ["gut", "schlecht"][i % 2]);
    let rows: String = (0..8).map(row).collect();
    let text = format!("Text;Label;\r\n{rows};;\r\n\u{fc}bel;schlecht;\r\n");
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    std::fs::write(place.path("reviews.csv"), bytes).unwrap();
    let trained = place.sara_ok(&["train", "--config", "run.toml"]);
    for said in [
        "2 examples kept apart to choose the best model by, 8 to learn from (seed 0)",
        "dropped    1 because they have no text",
        "fields are separated by semicolons",
        "read as Windows-1252 (Latin-1), since it is not UTF-8",
    ] {
        assert!(trained.stdout.contains(said), "no `{said}` in {}", trained.stdout);
    }
    let kept_apart = trained.stdout.split("reviews.csv: 2 examples").nth(1).unwrap();
    assert!(kept_apart.contains("gut       1 (50.0 %)"), "of each class its share: {kept_apart}");

    // The table comes back with the answers behind, every row in its place.
    let table = predict(&place, &["reviews.csv"], "out.csv");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines.len(), lines[0]), (11, "Text,Label,,predicted_label,predicted_probability"));
    assert_eq!(lines[9], ",,,,", "a row without a text keeps its place");
    let cells: Vec<&str> = lines[10].split(',').collect();
    assert_eq!(cells[..3], ["\u{fc}bel", "schlecht", ""]);
    assert!(["gut", "schlecht"].contains(&cells[3]), "{table}");
    let lines = predict(&place, &["reviews.csv"], "out.jsonl");
    let said: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said[8], serde_json::json!({"label": null, "probability": null, "logits": null}));
    assert_eq!(said[9]["label"], cells[3]);
    assert_eq!(said[9]["probability"].to_string(), cells[4]);
    let logits: Vec<f64> = serde_json::from_value(said[9]["logits"].clone()).unwrap();
    let exp: Vec<f64> = logits.iter().map(|logit| logit.exp()).collect();
    let softmax = exp.iter().copied().fold(0.0, f64::max) / exp.iter().sum::<f64>();
    assert!((said[9]["probability"].as_f64().unwrap() - softmax).abs() < 1e-6, "{said:?}");
}

#[test]
fn a_file_of_glue() {
    let columns = "text = \"sentence1\"\ntext_pair = \"sentence2\"\n";
    let place = place("bert-bare", &format!("train = \"mrpc.tsv\"\n{columns}"));
    let row = |i: usize| format!("\"a {i}\tb {i}\t{}\t{i}\n", i % 2);
    let rows: String = (0..10).map(row).collect();
    place.write("mrpc.tsv", &format!("sentence1\tsentence2\tlabel\tidx\n{rows}"));
    let trained = place.sara_ok(&["train", "--config", "run.toml"]);
    assert!(trained.stdout.contains("columns left out: idx"), "{}", trained.stdout);
    let names = ["mrpc.tsv", "--text", "sentence1", "--text-pair", "sentence2"];
    let table = predict(&place, &names, "out.csv");
    assert_eq!(
        table.lines().next(),
        Some("sentence1,sentence2,label,idx,predicted_label,predicted_probability")
    );
    assert_eq!(table.lines().count(), 11);
    assert!(table.contains("\n\"\"\"a 3\",b 3,1,3,"), "a quote stays a quote: {table}");
    let args = ["eval", "--model", "model", "--adapter", "run", "--data"];
    assert_eq!(place.json(&[&args[..], &names].concat())["examples"], 10);
    // The pair is looked at.
    let alone = predict(&place, &names[..3], "alone.csv");
    assert_ne!(table, alone);
}

#[cfg(feature = "parquet")]
#[test]
fn a_file_of_the_hub() {
    let columns = "text = \"sentence1\"\ntext_pair = \"sentence2\"\n";
    let place = place("bert-bare", &format!("train = \"train.parquet\"\n{columns}"));
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables/classes.parquet");
    std::fs::copy(fixture, place.path("train.parquet")).unwrap();
    let trained = place.sara_ok(&["train", "--config", "run.toml"]);
    for said in ["2 more dropped because they have no label", "not_equivalent", "columns left out: idx"] {
        assert!(trained.stdout.contains(said), "no `{said}` in {}", trained.stdout);
    }
    let lines =
        predict(&place, &["train.parquet", "--text", "sentence1", "--text-pair", "sentence2"], "out.jsonl");
    let said: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said.len(), 8);
    let named =
        said.iter().filter(|line| ["equivalent", "not_equivalent"].iter().any(|name| line["label"] == *name));
    assert_eq!(named.count(), 7, "one row has no text");
}
