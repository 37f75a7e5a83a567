//! What an evaluation measures, by name; a metric without a value is `None`, and `null` in JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Metrics by name, in the order of their names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(BTreeMap<String, Measured>);

/// The value of a metric, or one for each output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measured {
    /// One value.
    One(Option<f64>),
    /// One for each output.
    Each(Vec<Option<f64>>),
}

impl Measured {
    /// The value, of several their mean; `None` where one is not defined.
    pub fn mean(&self) -> Option<f64> {
        match self {
            Self::One(value) => *value,
            Self::Each(values) => {
                let sum: f64 = values.iter().copied().sum::<Option<f64>>()?;
                (!values.is_empty()).then(|| sum / values.len() as f64)
            }
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        match self {
            Self::One(value) => f.write_str(&shown(value)),
            Self::Each(values) => f.write_str(&values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Metrics {
    /// Adds a metric; a value that is not finite counts as none.
    pub fn insert(&mut self, name: &str, value: Option<f64>) {
        self.0.insert(name.to_owned(), Measured::One(value.filter(|value| value.is_finite())));
    }

    /// Adds a metric with a value for each output; of a single output it is one value.
    pub fn insert_each(&mut self, name: &str, values: Vec<Option<f64>>) {
        if let [value] = values[..] {
            return self.insert(name, value);
        }
        let finite = values.into_iter().map(|value| value.filter(|value| value.is_finite()));
        self.0.insert(name.to_owned(), Measured::Each(finite.collect()));
    }

    /// The value of a metric, if it was measured and is defined; of several outputs the mean.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Measured::mean)
    }

    /// The metrics and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Measured)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The metric of the task, with its name: the accuracy, else the micro-F1, else Pearson's correlation.
    pub fn headline(&self) -> Option<(&'static str, f64)> {
        ["accuracy", "micro_f1", "pearson"].into_iter().find_map(|name| Some((name, self.value(name)?)))
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
