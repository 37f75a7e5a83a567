//! `sara generate`: let a model write.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use sara_models::adapted::Writer;
use sara_models::architecture::Kind;
use sara_models::causal_lm::generate::{Limits, Next, Sampling, Stop, generate};
use sara_models::causal_lm::template::Ending;
use sara_models::causal_lm::{ChatTokenizer, GenerationConfig};
use sara_models::decoder::config::DecoderConfig;
use sara_models::run::Device;
use sara_models::tokenizer::Frame;
use serde::Serialize;
use serde_json::{Map, Value, json};

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
    /// Read turns line by line and answer each; so it is on a terminal without --prompt and --messages.
    #[arg(long, conflicts_with_all = ["prompt", "messages"])]
    talk: bool,
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

/// What the model goes on from.
enum Given {
    Text(String),
    Conversation { messages: Vec<Value>, variables: Map<String, Value> },
}

/// Writes one text.
struct Writing<'a> {
    asked: &'a Generate,
    given: Given,
    console: Console,
}

/// Answers line by line.
struct Talking<'a> {
    asked: &'a Generate,
    console: Console,
}

/// A model ready to write.
struct Desk<B: Compute> {
    writer: Writer<B>,
    tokenizer: ChatTokenizer,
    limits: Limits,
    sampling: Sampling,
}

impl<B: Compute> Desk<B> {
    fn open(asked: &Generate, console: Console, device: &B::Device) -> anyhow::Result<Self> {
        let writer = asked.opened.open::<B, DecoderConfig>(device)?;
        console.notes(&writer.notes);
        let dir = &writer.checkpoint.dir;
        let (tokenizer, files) = (ChatTokenizer::load(dir)?, GenerationConfig::read(dir)?);
        let sampling = asked.sampling(&files.sampling);
        let limits = Limits { max_new_tokens: asked.max_new_tokens, eos: files.eos, context: asked.context };
        Ok(Self { writer, tokenizer, limits, sampling })
    }

    fn tokens(&self, given: &Given) -> anyhow::Result<Vec<u32>> {
        Ok(match given {
            Given::Text(text) => self.tokenizer.tokens(text, Frame::Own)?.ids,
            Given::Conversation { messages, variables } => {
                let text = self.tokenizer.template()?.text(messages, variables, Ending::Prompt)?;
                self.tokenizer.tokens(&text, Frame::Bare)?.ids
            }
        })
    }

    fn write(&self, given: &Given, stops: &[String], console: Console) -> anyhow::Result<Report> {
        let prompt = self.tokens(given)?;
        let mut text = Text { tokenizer: &self.tokenizer, stops, said: 0, console };
        let mut failed = None;
        let watch = |tokens: &[u32]| match text.go_on(tokens) {
            Ok(next) => next,
            Err(error) => {
                failed = Some(error);
                Next::Stop
            }
        };
        let (model, adapter) = (&self.writer.model, &self.writer.trained.adapter);
        let written = generate(model, adapter, &prompt, &self.sampling, &self.limits, watch)?;
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

impl Job for Writing<'_> {
    type Output = Report;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Report> {
        let Self { asked, given, console } = self;
        Desk::<B>::open(asked, console, device)?.write(&given, &asked.stop, console)
    }
}

impl Job for Talking<'_> {
    type Output = ();

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<()> {
        let Self { asked, console } = self;
        let desk = Desk::<B>::open(asked, console, device)?;
        desk.tokenizer.template()?;
        console.say("Write a line and press enter; an empty one or the end of input ends the conversation.");
        let mut messages = Vec::new();
        for line in std::io::stdin().lines() {
            let line = line?;
            if line.trim().is_empty() {
                break;
            }
            messages.push(json!({"role": "user", "content": line}));
            let given = Given::Conversation { messages, variables: Map::new() };
            let answer = desk.write(&given, &asked.stop, console)?;
            let Given::Conversation { messages: before, .. } = given else { break };
            messages = before;
            messages.push(json!({"role": "assistant", "content": answer.text}));
        }
        Ok(())
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
    /// What the model goes on from; `None` for a conversation at the terminal.
    fn given(&self) -> anyhow::Result<Option<Given>> {
        if let Some(prompt) = &self.prompt {
            return Ok(Some(Given::Text(prompt.clone())));
        }
        let Some(file) = &self.messages else {
            ensure!(
                std::io::stdin().is_terminal() || self.talk,
                "say what is to go on: --prompt TEXT or --messages FILE"
            );
            return Ok(None);
        };
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let shape =
            || format!("{}: write a JSON array of turns, or an object with `messages`", file.display());
        Ok(Some(match serde_json::from_str(&text).with_context(shape)? {
            Value::Array(messages) => Given::Conversation { messages, variables: Map::new() },
            Value::Object(mut variables) => match variables.shift_remove("messages") {
                Some(Value::Array(messages)) => Given::Conversation { messages, variables },
                _ => bail!(shape()),
            },
            _ => bail!(shape()),
        }))
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
        let device = device.unwrap_or(Device::Auto);
        match self.given()? {
            Some(given) => {
                let job = Writing { asked: &self, given, console };
                console.result(&dispatch(device, console, job)?)
            }
            None => dispatch(device, console, Talking { asked: &self, console }),
        }
    }
}
