//! What an evaluation measures, by name; a metric without a value is `None`, and `null` in JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Metrics by name, in the order of their names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(BTreeMap<String, Option<f64>>);

impl Metrics {
    /// Adds a metric; a value that is not finite counts as none.
    pub fn insert(&mut self, name: &str, value: Option<f64>) {
        self.0.insert(name.to_owned(), value.filter(|value| value.is_finite()));
    }

    /// The value of a metric, if it was measured and is defined.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied().flatten()
    }

    /// The metrics and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The metric of the task, with its name: the accuracy, else Pearson's correlation.
    pub fn headline(&self) -> Option<(&'static str, f64)> {
        ["accuracy", "pearson"].into_iter().find_map(|name| Some((name, self.value(name)?)))
    }

    /// By which models are compared, greater is better: the [headline](Self::headline), else the loss, negated.
    pub fn score(&self) -> Option<f64> {
        let headline = self.headline().map(|(_, value)| value);
        headline.or_else(|| self.value("loss").map(|loss| -loss))
    }

    /// Whether this beats `best`. Of equal scores the lower loss does, and where that is equal too the earlier model
    /// stays; a model without a score never does.
    pub fn beats(&self, best: &Self) -> bool {
        match (self.score(), best.score()) {
            (Some(new), Some(old)) if new.total_cmp(&old).is_eq() => {
                matches!((self.value("loss"), best.value("loss")), (Some(new), Some(old)) if new < old)
            }
            (Some(new), Some(old)) => new > old,
            (new, old) => new.is_some() && old.is_none(),
        }
    }
}
