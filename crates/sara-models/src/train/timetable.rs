//! Which examples a step sees, and how long steps take.

use std::num::NonZeroUsize;

use crate::data::{Order, batches};
use crate::error::{Error, Result};
use crate::train::Options;

/// Which examples each optimizer step sees: a function of the data's lengths, the options and the step alone.
#[derive(Debug)]
pub struct Timetable {
    lengths: Vec<usize>,
    /// Examples of a micro-batch.
    pub batch_size: NonZeroUsize,
    accumulate: usize,
    order: OrderOfEpochs,
    /// Optimizer steps of an epoch.
    pub epoch_steps: usize,
    /// Optimizer steps of the run.
    pub total: usize,
    /// The epoch last asked for, and its micro-batches.
    current: Option<(usize, Vec<Vec<usize>>)>,
}

#[derive(Debug)]
enum OrderOfEpochs {
    AsRead,
    Shuffled(u64),
}

impl Timetable {
    /// The timetable of a run over examples of these lengths, in tokens.
    ///
    /// # Errors
    /// [`Error::Config`] where a count is 0, [`Error::NoExamples`] where there is nothing to learn from.
    pub fn new(lengths: Vec<usize>, options: &Options) -> Result<Self> {
        let optimizer = &options.optimizer;
        if lengths.is_empty() {
            return Err(Error::NoExamples);
        }
        let count = |field: &str, value: usize| {
            NonZeroUsize::new(value).ok_or_else(|| Error::Config {
                field: field.into(),
                found: value.to_string(),
                expected: "1 or more".into(),
            })
        };
        let batch_size = count("optimizer.batch_size", optimizer.batch_size)?;
        let accumulate = count("optimizer.accumulate", optimizer.accumulate)?.get();
        Ok(Self {
            batch_size,
            accumulate,
            order: if options.shuffle {
                OrderOfEpochs::Shuffled(options.seed)
            } else {
                OrderOfEpochs::AsRead
            },
            epoch_steps: optimizer.steps_per_epoch(lengths.len()),
            total: optimizer.total_steps(lengths.len()),
            lengths,
            current: None,
        })
    }

    /// The micro-batches of `step`, each a list of examples.
    pub fn micro_batches(&mut self, step: usize) -> &[Vec<usize>] {
        let epoch = step / self.epoch_steps;
        let order = match self.order {
            OrderOfEpochs::AsRead => Order::AsRead,
            OrderOfEpochs::Shuffled(seed) => Order::Shuffled { seed, epoch: epoch as u64 },
        };
        if self.current.as_ref().is_none_or(|(at, _)| *at != epoch) {
            self.current = Some((epoch, batches(&self.lengths, self.batch_size, order)));
        }
        let all = self.current.as_ref().map_or(&[][..], |(_, all)| all);
        let start = (step % self.epoch_steps) * self.accumulate;
        &all[start..(start + self.accumulate).min(all.len())]
    }

    /// Epochs done after `step` optimizer steps, with the part of the current one.
    pub fn epoch(&self, step: usize) -> f64 {
        step as f64 / self.epoch_steps as f64
    }

    /// Whether an epoch, or the run, ends with `step` optimizer steps done.
    pub fn ends_epoch(&self, step: usize) -> bool {
        step.is_multiple_of(self.epoch_steps) || step == self.total
    }
}

/// Times of the steps of this process.
#[derive(Debug, Default)]
pub struct Clock {
    times_ms: Vec<f64>,
    tokens: usize,
}

impl Clock {
    /// Takes in a step.
    pub fn add(&mut self, elapsed_ms: f64, tokens: usize) {
        self.times_ms.push(elapsed_ms);
        self.tokens += tokens;
    }

    /// The median time of a step.
    pub fn median_ms(&self) -> f64 {
        let mut times = self.times_ms.clone();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(0.0)
    }

    /// Tokens over the time of the steps.
    pub fn tokens_per_second(&self) -> f64 {
        let seconds = self.times_ms.iter().sum::<f64>() / 1e3;
        if seconds > 0.0 { self.tokens as f64 / seconds } else { 0.0 }
    }
}
