//! What a reader sees while a command works: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use sara_core::{AnyAdapter, LinearOps};
use sara_models::Result;
use sara_models::run::dir::RunJournal;
use sara_models::train::{EvaluationRecord, Journal, State, StepRecord, Trained};

use crate::console::Console;

/// Between two plain lines where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A bar over `total` of `what`; hidden where there is no terminal.
pub(crate) fn bar(console: Console, total: u64, what: &'static str) -> ProgressBar {
    if console.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_prefix(what)
}

/// Shows training on its way to the journal that keeps it.
pub(crate) struct Shown {
    console: Console,
    bar: ProgressBar,
    journal: RunJournal,
    said: Instant,
    smoothed_loss: Option<f64>,
    /// Time and tokens of the steps so far.
    elapsed_ms: f64,
    tokens: usize,
    steps: usize,
}

impl Shown {
    pub(crate) fn new(console: Console, journal: RunJournal, done: usize, total: usize) -> Self {
        let bar = bar(console, total as u64, "steps");
        bar.set_position(done as u64);
        let said = Instant::now();
        Self { console, bar, journal, said, smoothed_loss: None, elapsed_ms: 0.0, tokens: 0, steps: 0 }
    }

    pub(crate) fn finish(self) -> RunJournal {
        self.bar.finish_and_clear();
        self.journal
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| self.console.say(line));
    }
}

impl<B: LinearOps> Journal<B, AnyAdapter<B>> for Shown {
    fn step(&mut self, record: &StepRecord, total: usize) -> Result<()> {
        Journal::<B, AnyAdapter<B>>::step(&mut self.journal, record, total)?;
        // As many steps as a reader can follow; the raw values are in the metrics.
        let smoothed = self.smoothed_loss.map_or(record.loss, |old| 0.95 * old + 0.05 * record.loss);
        self.smoothed_loss = Some(smoothed);
        self.elapsed_ms += record.elapsed_ms;
        self.tokens += record.tokens;
        self.steps += 1;
        let left = self.elapsed_ms / self.steps as f64 * (total - record.step) as f64 / 1e3;
        let state = format!(
            "loss {smoothed:.4}  {:.0} tokens/s  {} left",
            self.tokens as f64 / (self.elapsed_ms / 1e3),
            HumanDuration(Duration::from_secs_f64(left))
        );
        self.bar.set_position(record.step as u64);
        self.bar.set_message(state.clone());
        if self.bar.is_hidden() && self.said.elapsed() > PLAIN_INTERVAL {
            self.said = Instant::now();
            self.console.say(format!("step {}/{total}  {state}", record.step));
        }
        Ok(())
    }

    fn evaluation(
        &mut self,
        record: &EvaluationRecord,
        best: Option<&Trained<B, AnyAdapter<B>>>,
    ) -> Result<()> {
        let metrics: Vec<String> = record
            .valid
            .iter()
            .map(|(name, value)| {
                value.map_or_else(|| format!("{name} -"), |value| format!("{name} {value:.4}"))
            })
            .collect();
        let mark = if best.is_some() { "  (best so far)" } else { "" };
        self.say(&format!("step {}  epoch {:.2}  {}{mark}", record.step, record.epoch, metrics.join("  ")));
        self.journal.evaluation(record, best)
    }

    fn checkpoint(&mut self, state: &State) -> Result<()> {
        Journal::<B, AnyAdapter<B>>::checkpoint(&mut self.journal, state)
    }
}
