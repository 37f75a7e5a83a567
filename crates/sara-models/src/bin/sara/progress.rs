//! What a reader sees while a command works: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use sara_models::Result;
use sara_models::train::{EvaluationRecord, Journal, StepRecord};

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

/// Shows training to whoever waits for it.
pub(crate) struct Shown {
    console: Console,
    /// There is one from the first step on.
    bar: Option<ProgressBar>,
    said: Instant,
    smoothed_loss: Option<f64>,
    /// Time and tokens of the steps so far.
    elapsed_ms: f64,
    tokens: usize,
    steps: usize,
}

impl Shown {
    pub(crate) fn new(console: Console) -> Self {
        let said = Instant::now();
        Self { console, bar: None, said, smoothed_loss: None, elapsed_ms: 0.0, tokens: 0, steps: 0 }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.say(line)),
            None => self.console.say(line),
        }
    }
}

impl<T> Journal<T> for Shown {
    fn note(&mut self, kind: &'static str, text: &str) {
        self.say(&format!("{kind:<11} {text}"));
    }

    fn step(&mut self, record: &StepRecord, total: usize) -> Result<()> {
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
        let bar = self.bar.get_or_insert_with(|| bar(self.console, total as u64, "steps"));
        bar.set_position(record.step as u64);
        bar.set_message(state.clone());
        if bar.is_hidden() && self.said.elapsed() > PLAIN_INTERVAL {
            self.said = Instant::now();
            self.console.say(format!("step {}/{total}  {state}", record.step));
        }
        Ok(())
    }

    fn evaluation(&mut self, record: &EvaluationRecord, best: Option<&T>) -> Result<()> {
        let metrics: Vec<String> =
            record.valid.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mark = if best.is_some() { "  (best so far)" } else { "" };
        self.say(&format!("step {}  epoch {:.2}  {}{mark}", record.step, record.epoch, metrics.join("  ")));
        Ok(())
    }
}
