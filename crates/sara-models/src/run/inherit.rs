//! What a run takes from the adapter that it starts from, and where the two must not disagree.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use sara_core::store::StoredAdapter;
use sara_core::{MethodConfig, Target, Targets};
use serde_json::Value;

use super::Run;
use crate::error::{Error, Result};

/// Fills in method and targets from `stored` where the run file leaves them out; returns what was filled in.
///
/// # Errors
/// [`Error::OtherAdapter`] where the run file says something else than the adapter is.
pub(super) fn from_adapter(run: &mut Run, stored: &StoredAdapter, linears: &[Target]) -> Result<Vec<String>> {
    let (method, plan) = (&stored.manifest.method, &stored.manifest.plan);
    let dir = run.init_adapter.clone().unwrap_or_default();
    let mut notes = Vec::new();
    if !run.method.is_empty() {
        // A field that the method does not have is an error of its own.
        run.method::<MethodConfig>()?;
    }
    match run.method.iter().next() {
        None => notes.push(format!("method {}, as the adapter to start from has it", method.name())),
        Some((name, _)) if name != method.name() => {
            return Err(differs(&dir, "method", &method.name(), name));
        }
        Some((name, given)) => {
            let of_adapter = serde_json::to_value(method).unwrap_or_default();
            for (field, value) in given.as_object().into_iter().flatten() {
                let own = &of_adapter[name][field];
                if !equal(own, value) {
                    return Err(differs(&dir, &format!("{name}.{field}"), own, value));
                }
            }
        }
    }
    run.set_method(method)?;
    let names = |targets: &[&Target]| -> BTreeSet<String> {
        targets.iter().map(|target| target.name.clone()).collect()
    };
    let adapted: Vec<&Target> = plan.sites.iter().map(|planned| &planned.target).collect();
    let Some(targets) = &run.targets else {
        notes.push(format!("{} targets, as the adapter to start from has them", adapted.len()));
        run.targets = Some(Targets::Named(adapted.iter().map(|target| target.name.clone()).collect()));
        return Ok(notes);
    };
    let selected = targets.select(linears)?;
    let (asked, has) = (names(&selected.iter().collect::<Vec<_>>()), names(&adapted));
    if let Some(name) = asked.symmetric_difference(&has).next() {
        let says = |names: &BTreeSet<String>| {
            let with = if names.contains(name) { "with" } else { "without" };
            format!("{} layers {with} {name}", names.len())
        };
        return Err(differs(&dir, "targets", &says(&has), &says(&asked)));
    }
    Ok(notes)
}

/// Numbers are equal by value, however they are written.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

fn differs(dir: &Path, what: &str, adapter: &dyn Display, run: &dyn Display) -> Error {
    Error::OtherAdapter {
        path: dir.to_owned(),
        what: what.to_owned(),
        adapter: adapter.to_string(),
        run: run.to_string(),
    }
}
