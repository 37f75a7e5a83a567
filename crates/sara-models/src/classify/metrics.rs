//! Accuracy, F1 and correlations. All sums are in f64.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::train::metrics::Metrics;

/// Accuracy, macro-F1 and Matthews correlation of the largest logit of each example.
///
/// # Shapes
/// - `logits`: `[examples, n_classes]`, row by row
/// - `labels`: `[examples]`, below `n_classes`
///
/// # Panics
/// If `n_classes` is 0 or the sizes do not agree.
pub fn classification(logits: &[f32], labels: &[usize], n_classes: usize) -> Metrics {
    assert_eq!(logits.len(), labels.len() * n_classes, "logits must be [examples, n_classes]");
    let predictions: Vec<usize> = logits.chunks_exact(n_classes).map(largest).collect();
    let mut metrics = Metrics::default();
    metrics.insert("accuracy", accuracy(&predictions, labels));
    metrics.insert("macro_f1", macro_f1(&predictions, labels));
    metrics.insert("matthews", matthews(&predictions, labels));
    metrics
}

/// Pearson's and Spearman's correlation of predicted with true values; of several outputs one for each.
///
/// # Shapes
/// - `predictions`, `values`: `[examples][outputs]`
///
/// # Panics
/// If the sizes do not agree.
pub fn regression<P: AsRef<[f32]>, V: AsRef<[f32]>>(predictions: &[P], values: &[V]) -> Metrics {
    fn column<R: AsRef<[f32]>>(rows: &[R], output: usize) -> Vec<f64> {
        rows.iter().map(|row| f64::from(row.as_ref()[output])).collect()
    }
    let outputs = values.first().map_or(1, |row| row.as_ref().len());
    let each = |correlation: fn(&[f64], &[f64]) -> Option<f64>| {
        (0..outputs)
            .map(|output| correlation(&column(predictions, output), &column(values, output)))
            .collect()
    };
    let mut metrics = Metrics::default();
    metrics.insert_each("pearson", each(pearson));
    metrics.insert_each("spearman", each(spearman));
    metrics
}

/// Micro- and macro-F1 over all classes, and the share of examples whose classes are all right; a class applies where
/// its logit is 0 or more, which is a probability of one half.
///
/// F1 is 0 where nothing applies and nothing is predicted.
///
/// # Shapes
/// - `logits`, `flags`: `[examples][classes]`
///
/// # Source
/// As scikit-learn computes them, with `zero_division=0`.
///
/// # Panics
/// If the lengths differ.
pub fn multi_label<L: AsRef<[f32]>, F: AsRef<[f32]>>(logits: &[L], flags: &[F]) -> Metrics {
    let classes = flags.first().map_or(0, |row| row.as_ref().len());
    let mut tallies = vec![Class::default(); classes];
    let mut right = 0.0;
    for (logits, flags) in logits.iter().zip(flags) {
        let mut all = true;
        for ((tally, &logit), &flag) in tallies.iter_mut().zip(logits.as_ref()).zip(flags.as_ref()) {
            let (predicted, applies) = (logit >= 0.0, flag > 0.5);
            tally.predicted += f64::from(u8::from(predicted));
            tally.labelled += f64::from(u8::from(applies));
            tally.hits += f64::from(u8::from(predicted && applies));
            all &= predicted == applies;
        }
        right += f64::from(u8::from(all));
    }
    let f1 = |class: &Class| {
        let all = class.predicted + class.labelled;
        if all > 0.0 { 2.0 * class.hits / all } else { 0.0 }
    };
    let sum = tallies.iter().fold(Class::default(), |sum, class| Class {
        predicted: sum.predicted + class.predicted,
        labelled: sum.labelled + class.labelled,
        hits: sum.hits + class.hits,
    });
    let mut metrics = Metrics::default();
    metrics.insert("micro_f1", Some(f1(&sum)));
    metrics.insert("macro_f1", Some(tallies.iter().map(f1).sum::<f64>() / classes as f64));
    metrics.insert("subset_accuracy", Some(right / flags.len() as f64));
    metrics
}

/// The index of the largest value, the first of several; NaN is never the largest.
pub fn largest(row: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, &logit) in row.iter().enumerate() {
        if logit > best.1 {
            best = (class, logit);
        }
    }
    best.0
}

/// The share of predictions that are right; `None` without examples.
///
/// # Panics
/// If the lengths differ.
pub fn accuracy(predictions: &[usize], labels: &[usize]) -> Option<f64> {
    let hits: f64 = tally(predictions, labels).values().map(|class| class.hits).sum();
    (!labels.is_empty()).then(|| hits / labels.len() as f64)
}

/// The mean F1 of the classes that occur among labels or predictions; `None` without examples.
///
/// # Panics
/// If the lengths differ.
pub fn macro_f1(predictions: &[usize], labels: &[usize]) -> Option<f64> {
    let classes = tally(predictions, labels);
    let sum: f64 = classes.values().map(|class| 2.0 * class.hits / (class.predicted + class.labelled)).sum();
    (!classes.is_empty()).then(|| sum / classes.len() as f64)
}

/// Matthews correlation for any number of classes; 0 where one class takes all labels or all predictions,
/// `None` without examples.
///
/// # Panics
/// If the lengths differ.
///
/// # Source
/// Gorodkin 2004, as scikit-learn computes it.
pub fn matthews(predictions: &[usize], labels: &[usize]) -> Option<f64> {
    let classes = tally(predictions, labels);
    let sum = |term: fn(&Class) -> f64| classes.values().map(term).sum::<f64>();
    let n = labels.len() as f64;
    let covariance = n * sum(|class| class.hits) - sum(|class| class.predicted * class.labelled);
    let spread =
        (n * n - sum(|class| class.predicted.powi(2))) * (n * n - sum(|class| class.labelled.powi(2)));
    (!labels.is_empty()).then(|| if spread > 0.0 { covariance / spread.sqrt() } else { 0.0 })
}

/// How often one class was predicted, was the label, and was both.
#[derive(Debug, Clone, Default)]
struct Class {
    predicted: f64,
    labelled: f64,
    hits: f64,
}

fn tally(predictions: &[usize], labels: &[usize]) -> BTreeMap<usize, Class> {
    assert_eq!(predictions.len(), labels.len(), "one prediction for each label");
    let mut classes = BTreeMap::<usize, Class>::new();
    for (&prediction, &label) in predictions.iter().zip(labels) {
        classes.entry(prediction).or_default().predicted += 1.0;
        let class = classes.entry(label).or_default();
        class.labelled += 1.0;
        if prediction == label {
            class.hits += 1.0;
        }
    }
    classes
}

/// Pearson's correlation; `None` if either side is constant, empty or not finite.
///
/// # Panics
/// If the lengths differ.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "one prediction for each value");
    // Compared, not subtracted: the mean of equal values may be off by a rounding.
    let constant = |values: &[f64]| values.windows(2).all(|pair| pair[0].total_cmp(&pair[1]).is_eq());
    if constant(x) || constant(y) {
        return None;
    }
    let (x, y) = (centred(x), centred(y));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let correlation = dot(&x, &y) / (dot(&x, &x).sqrt() * dot(&y, &y).sqrt());
    correlation.is_finite().then(|| correlation.clamp(-1.0, 1.0))
}

fn centred(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| value - mean).collect()
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank; `None` as there.
///
/// # Panics
/// If the lengths differ.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let finite = x.iter().chain(y).all(|value| value.is_finite());
    finite.then(|| pearson(&ranks(x), &ranks(y))).flatten()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| values[a].partial_cmp(&values[b]) == Some(Ordering::Equal)) {
        for &at in equal {
            ranks[at] = before as f64 + (equal.len() + 1) as f64 / 2.0;
        }
        before += equal.len();
    }
    ranks
}
