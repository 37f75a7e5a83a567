//! The learning rate of each step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after it has risen from zero over the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Falls in a straight line to zero at the last step.
    #[default]
    Linear,
    /// Falls along half a cosine to zero at the last step.
    Cosine,
    /// Stays.
    Constant,
}

impl Schedule {
    /// The learning rate of `step`, counted from 0, out of `total`, of which `warmup` rise to `base`.
    ///
    /// With a warm-up the first step has the rate 0, as in transformers: it moves the moments alone.
    pub fn learning_rate(self, step: usize, total: usize, warmup: usize, base: f64) -> f64 {
        if step < warmup {
            return base * (step as f64 / warmup as f64);
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Linear => base * (total.saturating_sub(step) as f64 / span),
            Self::Cosine => base * (0.5 * (1.0 + (PI * ((step - warmup) as f64 / span).min(1.0)).cos())),
            Self::Constant => base,
        }
    }
}

/// The steps of warm-up that `ratio` of `total` makes, rounded up.
pub fn warmup_steps(ratio: f64, total: usize) -> usize {
    (ratio * total as f64).ceil() as usize
}
