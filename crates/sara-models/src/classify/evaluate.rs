//! What a trained model says about a dataset, and how good that is.

use std::num::NonZeroUsize;

use sara_core::{Adapter, Pass, Seen};
use sara_ops::LayerOps;

use crate::classify::metrics::{classification, multi_label, regression};
use crate::classify::{Dataset, Gold};
use crate::data::{Order, batches};
use crate::encoder::head::Head;
use crate::encoder::{Encoder, Inputs};
use crate::error::Result;
use crate::train::Trained;
use crate::train::metrics::Metrics;

/// The logits of every example, in the order of the dataset; each row is `[n_labels]`.
///
/// Always on a backend without gradients: call `.valid()` first.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) where the tokens are not this model's.
pub fn predict<B: LayerOps, A: Adapter<B>>(
    model: &Encoder<B>,
    trained: &Trained<B, A, Head<B>>,
    data: &Dataset,
    batch_size: NonZeroUsize,
) -> Result<Vec<Vec<f32>>> {
    Ok(pass_over(model, trained, data, batch_size, Pass::evaluation)?.0)
}

/// The logits, and what the adapter recorded in such passes.
fn pass_over<B: LayerOps, A: Adapter<B>>(
    model: &Encoder<B>,
    trained: &Trained<B, A, Head<B>>,
    data: &Dataset,
    batch_size: NonZeroUsize,
    pass: impl Fn() -> Pass<B>,
) -> Result<(Vec<Vec<f32>>, Seen<B>)> {
    let device = model.device();
    let (mut logits, mut seen) = (vec![Vec::new(); data.items.len()], Seen::default());
    for rows in batches(&data.lengths(), batch_size, Order::Sorted) {
        let inputs = Inputs::of_batch(model.config(), data.batch(&rows, model.pad_id()), &device)?;
        let mut pass = pass();
        pass.set_tokens(inputs.mask.clone());
        let hidden = model.first_token(&inputs, &trained.adapter, &pass);
        let values = trained.head.forward(hidden, &pass);
        let [_, n_labels] = values.dims();
        let values: Vec<f32> = values.into_data().convert::<f32>().iter().collect();
        for (&row, values) in rows.iter().zip(values.chunks_exact(n_labels)) {
            logits[row] = values.to_vec();
        }
        seen.merge(pass.into_seen());
    }
    Ok((logits, seen))
}

/// Mean loss and the metrics of the task.
///
/// # Errors
/// As [`predict`]; [`Error::NoExamples`](crate::Error::NoExamples) and [`Error::NoTargets`](crate::Error::NoTargets)
/// where there is nothing to compare with.
pub fn evaluate<B: LayerOps, A: Adapter<B>>(
    model: &Encoder<B>,
    trained: &Trained<B, A, Head<B>>,
    data: &Dataset,
    batch_size: NonZeroUsize,
) -> Result<Metrics> {
    data.check_targets(trained.head.n_labels())?;
    Ok(measure(&predict(model, trained, data, batch_size)?, data))
}

/// The same, with what the adapter recorded on the way, where it [observes](Adapter::observes).
///
/// # Errors
/// As [`evaluate`].
pub fn observe<B: LayerOps, A: Adapter<B>>(
    model: &Encoder<B>,
    trained: &Trained<B, A, Head<B>>,
    data: &Dataset,
    batch_size: NonZeroUsize,
) -> Result<(Metrics, Seen<B>)> {
    data.check_targets(trained.head.n_labels())?;
    let pass = || {
        let pass = Pass::evaluation();
        if trained.adapter.observes() { pass.recording() } else { pass }
    };
    let (logits, seen) = pass_over(model, trained, data, batch_size, pass)?;
    Ok((measure(&logits, data), seen))
}

/// Mean loss and metrics of these logits, one row for each example of `data`, of which every one has its answer.
fn measure(logits: &[Vec<f32>], data: &Dataset) -> Metrics {
    let (mut loss, mut classes, mut values, mut flags) = (0.0, Vec::new(), Vec::new(), Vec::new());
    for (row, item) in logits.iter().zip(&data.items) {
        match &item.target {
            Gold::Class(class) => {
                loss += cross_entropy(row, *class);
                classes.push(*class);
            }
            Gold::Values(all) => {
                loss += squared_error(row, all);
                values.push(all.as_slice());
            }
            Gold::Flags(all) => {
                loss += binary_cross_entropy(row, all);
                flags.push(all.as_slice());
            }
            Gold::None => {}
        }
    }
    let mut metrics = if !flags.is_empty() {
        multi_label(logits, &flags)
    } else if !values.is_empty() {
        regression(logits, &values)
    } else {
        let n_classes = logits.first().map_or(1, Vec::len);
        classification(&logits.concat(), &classes, n_classes)
    };
    metrics.insert("loss", Some(loss / logits.len() as f64));
    metrics
}

/// The mean over the outputs.
fn squared_error(logits: &[f32], values: &[f32]) -> f64 {
    let errors =
        logits.iter().zip(values).map(|(&logit, &value)| (f64::from(logit) - f64::from(value)).powi(2));
    errors.sum::<f64>() / values.len() as f64
}

/// The mean over the classes.
fn binary_cross_entropy(logits: &[f32], flags: &[f32]) -> f64 {
    let loss = |(&logit, &flag): (&f32, &f32)| {
        let (logit, flag) = (f64::from(logit), f64::from(flag));
        logit.max(0.0) - logit * flag + (-logit.abs()).exp().ln_1p()
    };
    logits.iter().zip(flags).map(loss).sum::<f64>() / flags.len() as f64
}

fn cross_entropy(logits: &[f32], class: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[class] - largest)
}
