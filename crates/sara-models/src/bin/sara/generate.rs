//! `sara generate`: let a model write.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use sara_models::architecture::Kind;
use sara_models::causal_lm::generate::{Limits, Next, Sampling, Stop, generate};
use sara_models::causal_lm::template::Ending;
use sara_models::causal_lm::{ChatTokenizer, GenerationConfig};
use sara_models::decoder::config::DecoderConfig;
use sara_models::run::Device;
use sara_models::tokenizer::Frame;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::adapter::Opened;
use crate::console::Console;
use crate::device::{Compute, Job, dispatch};

/// Arguments of `sara generate`.
#[derive(Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    opened: Opened,
    /// The text that is to go on.
    #[arg(long, conflicts_with = "messages")]
    prompt: Option<String>,
    /// A file with a conversation that the model is to answer: a JSON array of turns, or an object with `messages` and
    /// what else the chat template is given.
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// New tokens at most.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token. By default as the model's files say, else 0.
    #[arg(long)]
    temperature: Option<f64>,
    /// Draw from so many of the likeliest tokens alone.
    #[arg(long)]
    top_k: Option<NonZeroUsize>,
    /// Draw from the likeliest tokens that together reach this probability.
    #[arg(long)]
    top_p: Option<f64>,
    /// Makes tokens that are there already less likely.
    #[arg(long)]
    repetition_penalty: Option<f64>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End the text before this one.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Tokens of prompt and answer together; by default what the model takes.
    #[arg(long)]
    context: Option<usize>,
}

/// What was written.
#[derive(Serialize)]
pub(crate) struct Report {
    text: String,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    stop: &'static str,
    prefill_ms: f64,
    tokens_per_second: f64,
}

struct Writing<'a> {
    asked: &'a Generate,
    console: Console,
}

impl Job for Writing<'_> {
    type Output = Report;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Report> {
        let Self { asked, console } = self;
        let writer = asked.opened.open::<B, DecoderConfig>(device)?;
        console.notes(&writer.notes);
        let dir = &writer.checkpoint.dir;
        let tokenizer = ChatTokenizer::load(dir)?;
        let files = GenerationConfig::read(dir)?;
        let prompt = asked.prompt(&tokenizer)?;
        let limits =
            Limits { max_new_tokens: asked.max_new_tokens, eos: files.eos.clone(), context: asked.context };
        let sampling = asked.sampling(&files.sampling);
        let mut text = Text { tokenizer: &tokenizer, stops: &asked.stop, said: 0, console };
        let mut failed = None;
        let watch = |tokens: &[u32]| match text.go_on(tokens) {
            Ok(next) => next,
            Err(error) => {
                failed = Some(error);
                Next::Stop
            }
        };
        let written = generate(&writer.model, &writer.trained.adapter, &prompt, &sampling, &limits, watch)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let whole = text.whole(&written.tokens)?;
        text.finish(&whole)?;
        let later = written.tokens.len().saturating_sub(1) as f64;
        Ok(Report {
            text: whole,
            prompt_tokens: prompt.len(),
            stop: match written.stop {
                Stop::Eos => "eos",
                Stop::Length => "length",
                Stop::Text => "text",
            },
            prefill_ms: written.prefill_ms,
            tokens_per_second: if later > 0.0 { later / (written.decode_ms / 1e3) } else { 0.0 },
            tokens: written.tokens,
        })
    }
}

/// The text as it grows.
struct Text<'a> {
    tokenizer: &'a ChatTokenizer,
    stops: &'a [String],
    /// Bytes that were printed.
    said: usize,
    console: Console,
}

impl Text<'_> {
    /// The text of these tokens up to what ends it.
    fn whole(&self, tokens: &[u32]) -> anyhow::Result<String> {
        let mut text = self.tokenizer.decode(tokens)?;
        if let Some(end) = self.stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        Ok(text)
    }

    /// Prints what is sure, and says whether the text ends.
    fn go_on(&mut self, tokens: &[u32]) -> anyhow::Result<Next> {
        let text = self.tokenizer.decode(tokens)?;
        if self.stops.iter().any(|stop| text.contains(stop.as_str())) {
            return Ok(Next::Stop);
        }
        // A character may still be incomplete, and a text that ends it may have begun.
        let sure = text.trim_end_matches('\u{fffd}');
        let begun =
            self.stops.iter().flat_map(|stop| stop.char_indices().skip(1).map(|(end, _)| &stop[..end]));
        let held = begun.filter(|begun| sure.ends_with(*begun)).map(str::len).max().unwrap_or(0);
        self.print(&sure[..sure.len() - held])?;
        Ok(Next::Go)
    }

    fn print(&mut self, text: &str) -> anyhow::Result<()> {
        if let Some(new) = text.get(self.said..).filter(|_| !self.console.json) {
            let mut out = std::io::stdout().lock();
            out.write_all(new.as_bytes())?;
            out.flush()?;
            self.said = text.len();
        }
        Ok(())
    }

    fn finish(&mut self, text: &str) -> anyhow::Result<()> {
        self.print(text)?;
        self.print(&format!("{text}\n"))
    }
}

impl Generate {
    /// The tokens of what the model is given.
    fn prompt(&self, tokenizer: &ChatTokenizer) -> anyhow::Result<Vec<u32>> {
        let Some(file) = &self.messages else {
            let prompt =
                self.prompt.as_deref().context("say what is to go on: --prompt TEXT or --messages FILE")?;
            return Ok(tokenizer.tokens(prompt, Frame::Own)?.ids);
        };
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let shape =
            || format!("{}: write a JSON array of turns, or an object with `messages`", file.display());
        let (messages, variables) = match serde_json::from_str(&text).with_context(shape)? {
            Value::Array(messages) => (messages, Map::new()),
            Value::Object(mut object) => match object.shift_remove("messages") {
                Some(Value::Array(messages)) => (messages, object),
                _ => bail!(shape()),
            },
            _ => bail!(shape()),
        };
        let text = tokenizer.template()?.text(&messages, &variables, Ending::Prompt)?;
        Ok(tokenizer.tokens(&text, Frame::Bare)?.ids)
    }

    fn sampling(&self, files: &Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(files.temperature),
            top_k: self.top_k.or(files.top_k),
            top_p: self.top_p.unwrap_or(files.top_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(files.repetition_penalty),
            seed: self.seed,
        }
    }

    pub(crate) fn run(self, device: Option<Device>, console: Console) -> anyhow::Result<()> {
        let positive = |value: Option<f64>| value.is_none_or(|value| value.is_finite() && value > 0.0);
        ensure!(
            self.temperature.is_none_or(|value| value.is_finite() && value >= 0.0),
            "--temperature is a number, 0 or more"
        );
        ensure!(
            positive(self.top_p) && self.top_p.is_none_or(|p| p <= 1.0),
            "--top-p is above 0 and at most 1"
        );
        ensure!(positive(self.repetition_penalty), "--repetition-penalty is a number above 0");
        ensure!(self.stop.iter().all(|stop| !stop.is_empty()), "--stop is empty; leave it out");
        ensure!(
            self.opened.kind()? == Kind::Decoder,
            "the model is an encoder, which does not write; `sara predict` says what it answers"
        );
        let console = console.aside();
        let job = Writing { asked: &self, console };
        let report = dispatch(device.unwrap_or(Device::Auto), console, job)?;
        console.result(&report)
    }
}
