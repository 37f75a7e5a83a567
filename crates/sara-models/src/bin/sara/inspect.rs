//! `sara inspect`: what a model, adapter or run directory holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use sara_core::store::{StoredAdapter, read_safetensors};
use sara_models::architecture::Architecture;
use sara_models::checkpoint::Checkpoint;
use serde::Serialize;
use serde_json::{Value, json};

use crate::console::{Console, count, table};

/// Arguments of `sara inspect`.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The directory.
    path: PathBuf,
}

#[derive(Serialize)]
struct Report {
    kind: &'static str,
    facts: Vec<(String, Value)>,
}

impl Inspect {
    pub(crate) fn run(self, console: Console) -> anyhow::Result<()> {
        let path = &self.path;
        let has = |file: &str| path.join(file).exists();
        let report = if has("run.toml") {
            run(path)?
        } else if has("adapter.json") {
            adapter(path)?
        } else if has("adapter_config.json") {
            peft(path)?
        } else if has("config.json") {
            model(path)?
        } else {
            bail!(
                "{}: holds none of run.toml, adapter.json, adapter_config.json and config.json, so it is no run, adapter or model",
                path.display()
            );
        };
        console.say(format!("{}: {}", path.display(), report.kind));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for (name, value) in &report.facts {
            console.say(format!("  {name:<12} {}", text(value)));
        }
        let facts: serde_json::Map<String, Value> = report.facts.into_iter().collect();
        console.result(&json!({"kind": report.kind, "facts": facts}))
    }
}

fn fact(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), value.into())
}

fn model(path: &Path) -> anyhow::Result<Report> {
    let config = Checkpoint::open_any(path)?.config;
    let shape = config.shape();
    let mut facts = vec![
        fact("family", config.name()),
        fact("layers", shape.n_layers),
        fact("heads", shape.n_heads),
        fact("max tokens", config.usable_length()),
        fact("parameters", count(config.parameter_count())),
    ];
    facts.extend(config.facts().into_iter().map(|(name, value)| fact(name, value)));
    Ok(Report { kind: "model", facts })
}

fn adapter(path: &Path) -> anyhow::Result<Report> {
    let stored = StoredAdapter::read(path)?;
    let manifest = &stored.manifest;
    let rows: Vec<Vec<String>> = manifest
        .plan
        .sites
        .iter()
        .map(|planned| vec![planned.target.name.clone(), format!("rank {}", planned.rank)])
        .collect();
    let facts = vec![
        fact("method", serde_json::to_value(&manifest.method)?),
        fact("base", manifest.base.clone()),
        fact("task", manifest.task.clone()),
        fact("parameters", count(manifest.method.count(manifest.shape, &manifest.plan))),
        fact("head", manifest.head.join(", ")),
        fact("layers", format!("{}\n{}", rows.len(), table(&rows))),
    ];
    Ok(Report { kind: "adapter", facts })
}

fn peft(path: &Path) -> anyhow::Result<Report> {
    let file = path.join("adapter_config.json");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let config: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let tensors = read_safetensors(&path.join("adapter_model.safetensors"))?;
    let values: usize = tensors.values().map(|data| data.shape.iter().product::<usize>()).sum();
    let facts = vec![
        fact("type", config["peft_type"].clone()),
        fact("base", config["base_model_name_or_path"].clone()),
        fact("r", config["r"].clone()),
        fact("alpha", config["lora_alpha"].clone()),
        fact("tensors", tensors.len()),
        fact("values", count(values)),
    ];
    Ok(Report { kind: "PEFT adapter", facts })
}

fn run(path: &Path) -> anyhow::Result<Report> {
    let file = path.join("summary.json");
    let mut facts =
        vec![fact("state", if file.exists() { "finished" } else { "stopped; `--resume` goes on" })];
    if let Ok(text) = std::fs::read_to_string(&file) {
        let summary: serde_json::Map<String, Value> =
            serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        facts.extend(summary);
    }
    Ok(Report { kind: "run", facts })
}
