//! `sara inspect`: what a model, adapter or run directory holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use sara_core::store::{StoredAdapter, read_safetensors, stored_bytes};
use sara_core::{Adapter, Figure, Planned};
use sara_models::architecture::Architecture;
use sara_models::checkpoint::Checkpoint;
use sara_models::run::Device;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::console::{Console, count, table};
use crate::device::{Compute, Job, dispatch};

/// Arguments of `sara inspect`.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The directory; of several adapters, the layers that all of them change.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

struct Report {
    kind: &'static str,
    facts: Vec<(String, Value)>,
    /// What scripts read beside the facts.
    numbers: Map<String, Value>,
}

/// An adapter directory as its method sees it.
struct Described {
    stored: StoredAdapter,
    sites: Vec<SiteReport>,
    totals: Map<String, Value>,
}

#[derive(Serialize)]
struct SiteReport {
    name: String,
    rank: usize,
    #[serde(flatten)]
    figures: Map<String, Value>,
}

impl SiteReport {
    /// Whether the layer is changed at all.
    fn is_changed(&self) -> bool {
        self.rank > 0 && self.figures.get("active").is_none_or(|active| active.as_f64() != Some(0.0))
    }
}

struct Figures<'a>(&'a StoredAdapter);

impl Job for Figures<'_> {
    type Output = Vec<Figure>;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Vec<Figure>> {
        Ok(self.0.build_without_base::<B>(device)?.report())
    }
}

fn describe(path: &Path, console: Console) -> anyhow::Result<Described> {
    let stored = StoredAdapter::read(path)?;
    let figures = dispatch(Device::Cpu, console.quiet(), Figures(&stored))?;
    let mut totals = Map::new();
    for figure in figures.iter().filter(|figure| figure.site.is_none()) {
        put(&mut totals, figure);
    }
    let site = |planned: &Planned| {
        let mut of_site = Map::new();
        for figure in figures.iter().filter(|figure| figure.site == Some(planned.target.site)) {
            put(&mut of_site, figure);
        }
        let rank = of_site.remove("rank").and_then(|rank| rank.as_f64());
        let rank = rank.map_or(planned.rank, |rank| rank as usize);
        SiteReport { name: planned.target.name.clone(), rank, figures: of_site }
    };
    let sites = stored.manifest.plan.sites.iter().map(site).collect();
    Ok(Described { stored, sites, totals })
}

/// A figure under its name; `bits.down` goes into `bits`.
fn put(into: &mut Map<String, Value>, figure: &Figure) {
    match figure.name.split_once('.') {
        Some((kind, name)) => {
            let of_kind = into.entry(kind).or_insert_with(|| json!({}));
            of_kind[name] = figure.value.into();
        }
        None => _ = into.insert(figure.name.to_owned(), figure.value.into()),
    }
}

impl Inspect {
    pub(crate) fn run(self, console: Console) -> anyhow::Result<()> {
        match self.paths.as_slice() {
            [path] => one(path, console),
            paths => shared(paths, console),
        }
    }
}

fn one(path: &Path, console: Console) -> anyhow::Result<()> {
    let has = |file: &str| path.join(file).exists();
    let report = if has("run.toml") {
        run(path)?
    } else if has("adapter.json") {
        adapter(path, console)?
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
    let facts: Map<String, Value> = report.facts.into_iter().collect();
    let mut whole = json!({"kind": report.kind, "facts": facts});
    if let Some(whole) = whole.as_object_mut() {
        whole.extend(report.numbers);
    }
    console.result(&whole)
}

/// The layers that every one of several adapters changes.
fn shared(paths: &[PathBuf], console: Console) -> anyhow::Result<()> {
    let mut common: Option<BTreeSet<String>> = None;
    for path in paths {
        let Described { sites, .. } = describe(path, console)?;
        let changed: BTreeSet<String> =
            sites.into_iter().filter(SiteReport::is_changed).map(|site| site.name).collect();
        console.say(format!("{}: changes {} layers", path.display(), changed.len()));
        common = Some(match common {
            Some(common) => common.intersection(&changed).cloned().collect(),
            None => changed,
        });
    }
    let common = common.unwrap_or_default();
    console.say(format!(
        "all of them change {}: {}",
        common.len(),
        Vec::from_iter(common.clone()).join(", ")
    ));
    console.result(&json!({"adapters": paths, "shared_sites": common.len(), "sites": common}))
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
    Ok(Report { kind: "model", facts, numbers: Map::new() })
}

fn adapter(path: &Path, console: Console) -> anyhow::Result<Report> {
    let Described { stored, sites, totals } = describe(path, console)?;
    let (stored_bytes, frozen_bytes) = stored_bytes(path)?;
    let manifest = &stored.manifest;
    let row = |site: &SiteReport| {
        let figures = site.figures.iter().map(|(name, value)| match value.as_object() {
            Some(kinds) => {
                let kinds = kinds.iter().map(|(kind, value)| format!("{kind} {}", number(value)));
                format!("{name}: {}", kinds.collect::<Vec<_>>().join(" "))
            }
            None => format!("{name} {}", number(value)),
        });
        [site.name.clone(), format!("rank {}", site.rank)].into_iter().chain(figures).collect()
    };
    let rows: Vec<Vec<String>> = sites.iter().map(row).collect();
    let mut facts = vec![
        fact("method", serde_json::to_value(&manifest.method)?),
        fact("base", manifest.base.clone()),
        fact("task", manifest.task.clone()),
        fact("parameters", count(manifest.method.count(manifest.shape, &manifest.plan))),
        fact("head", manifest.head.join(", ")),
        fact("layers", format!("{}\n{}", rows.len(), table(&rows))),
    ];
    facts.extend(totals.iter().map(|(name, value)| fact(name, number(value))));
    facts.push(fact("stored bytes", count(stored_bytes as usize)));
    if let Some(described) = &manifest.frozen {
        let missing = if frozen_bytes == 0 { ", not stored: computed again from the base" } else { "" };
        facts.push(fact("frozen bytes", format!("{}{missing}", count(described.bytes))));
    }
    let numbers = json!({
        "stored_bytes": stored_bytes, "frozen_bytes": frozen_bytes, "sites": sites, "totals": totals,
    });
    let Value::Object(numbers) = numbers else { bail!("a report is an object") };
    Ok(Report { kind: "adapter", facts, numbers })
}

/// A number as a reader wants it.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| value.to_string(), |value| format!("{}", (value * 1e4).round() / 1e4))
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
    Ok(Report { kind: "PEFT adapter", facts, numbers: Map::new() })
}

fn run(path: &Path) -> anyhow::Result<Report> {
    let file = path.join("summary.json");
    let mut facts =
        vec![fact("state", if file.exists() { "finished" } else { "stopped; `--resume` goes on" })];
    if let Ok(text) = std::fs::read_to_string(&file) {
        let summary: Map<String, Value> =
            serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        facts.extend(summary);
    }
    Ok(Report { kind: "run", facts, numbers: Map::new() })
}
