//! The demo of a model that writes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use sara_models::adapted::{Opening, Opens, Writer};
use sara_models::causal_lm::evaluate::exact_match;
use sara_models::causal_lm::{ChatTokenizer, Example, Examples, Question};
use sara_models::data::{Rows, Task};
use sara_models::decoder::config::DecoderConfig;
use sara_models::run::{Device, Run};
use serde::Serialize;

use super::{File, Next, SHOWN, conclude, elapsed_ms, table_of, train_all, unpack};
use crate::console::{Console, count};
use crate::device::{Compute, Job, dispatch};

const FILES: [File; 6] = [
    ("model/config.json", include_bytes!("../../../../assets/writer/model/config.json")),
    ("model/model.safetensors", include_bytes!("../../../../assets/writer/model/model.safetensors")),
    ("model/tokenizer.json", include_bytes!("../../../../assets/writer/model/tokenizer.json")),
    ("model/tokenizer_config.json", include_bytes!("../../../../assets/writer/model/tokenizer_config.json")),
    ("train.jsonl", include_bytes!("../../../../assets/writer/train.jsonl")),
    ("valid.jsonl", include_bytes!("../../../../assets/writer/valid.jsonl")),
];
/// Problems whose answers are shown.
const ANSWERS: usize = 3;
/// New tokens of an answer, of which none needs half.
const LONGEST: usize = 48;

#[derive(Serialize)]
struct Row {
    method: String,
    trainable: usize,
    exact_match_before: f64,
    exact_match: f64,
    answers: Vec<Answered>,
    stored_bytes: u64,
    elapsed_ms: f64,
}

/// A problem, and what the model makes of it without the adapter and with it.
#[derive(Serialize)]
struct Answered {
    prompt: String,
    before: String,
    after: String,
}

pub(super) fn run(out: &Path, device: Device, console: Console, started: Instant) -> anyhow::Result<()> {
    unpack(out, &FILES)?;
    let unpacked = "unpacked    a LLaMA of 0.8 million parameters and 2,600 word problems into";
    console.say(format!("{unpacked} {}", out.display()));
    console.say("task        solve the problem, and say what each of its two steps makes");
    let rows = dispatch(device, console, Methods { out, console })?;
    let columns = ["method", "trainable", "right before", "right after", "stored bytes", "seconds"];
    let table = table_of(columns, &rows, |row: &Row| {
        [
            row.method.clone(),
            count(row.trainable),
            format!("{:.3}", row.exact_match_before),
            format!("{:.3}", row.exact_match),
            count(row.stored_bytes as usize),
            format!("{:.1}", row.elapsed_ms / 1e3),
        ]
    });
    console.say(format!("\n{table}\n"));
    let answers = rows.iter().find(|row| row.method == SHOWN).map(|row| row.answers.as_slice());
    let answers = answers.unwrap_or_default();
    for Answered { prompt, before, after } in answers {
        console.say(prompt);
        console.say(format!("  before  {}\n  after   {}", before.trim(), after.trim()));
    }
    console.say("");
    let prompt = answers.first().map_or("", |answered| &answered.prompt);
    let prompt = format!("--prompt \"{prompt}\"");
    let next = Next {
        at_work: ["sara generate", &prompt],
        models: "a LLaMA, Mistral or Qwen",
        line: "{\"prompt\": ..., \"completion\": ...}",
        max_tokens: 512,
    };
    conclude(console, out, rows, started, &next)
}

struct Methods<'a> {
    out: &'a Path,
    console: Console,
}

impl Job for Methods<'_> {
    type Output = Vec<Row>;

    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Vec<Row>> {
        let Self { out, console } = self;
        let exam = Exam::read(out)?;
        let before = exam.sit::<B>(None, device)?;
        let exact_match_before = exam.exact_match(&before);
        console.say(format!("before      {exact_match_before:.3} of the problems are solved"));
        let base = Run { task: Task::CausalLm, ..Run::default() };
        let mut rows = Vec::new();
        train_all::<DecoderConfig, B>(out, &base, console, device, |summary, started| {
            let elapsed_ms = elapsed_ms(started);
            let after = exam.sit::<B>(Some(&summary.output.join("adapter")), device)?;
            let sides = before.iter().zip(&after).zip(&exam.prompts).take(ANSWERS);
            let answers = sides.map(|((before, after), prompt)| Answered {
                prompt: prompt.clone(),
                before: before.clone(),
                after: after.clone(),
            });
            let row = Row {
                method: summary.method.clone(),
                trainable: summary.trainable,
                exact_match_before,
                exact_match: exam.exact_match(&after),
                answers: answers.collect(),
                stored_bytes: summary.stored_bytes,
                elapsed_ms,
            };
            let seconds = row.elapsed_ms / 1e3;
            console.say(format!("trained     {}: {:.3} in {seconds:.1} s", row.method, row.exact_match));
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }
}

/// The problems that no run learns from.
struct Exam {
    model: PathBuf,
    tokenizer: ChatTokenizer,
    questions: Vec<Question>,
    prompts: Vec<String>,
}

impl Exam {
    fn read(out: &Path) -> anyhow::Result<Self> {
        let model = out.join("model");
        let tokenizer = ChatTokenizer::load(&model)?;
        let examples = Examples::of_rows(&Rows::read(&out.join("valid.jsonl"), None)?)?;
        let prompts = examples.list.iter().filter_map(|(_, example)| match example {
            Some(Example::Prompt { prompt, .. }) => Some(prompt.clone()),
            _ => None,
        });
        let prompts = prompts.collect();
        let questions = Question::all(&examples, &tokenizer)?;
        Ok(Self { model, tokenizer, questions, prompts })
    }

    /// What the model answers, with an adapter or without.
    fn sit<B: Compute>(&self, adapter: Option<&Path>, device: &B::Device) -> anyhow::Result<Vec<String>> {
        const BATCH: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(31);
        let Self { model, tokenizer, questions, .. } = self;
        let writer: Writer<B> = DecoderConfig::open_beside(model, adapter, Opening::default(), device)?;
        Ok(writer.answers(questions, tokenizer, LONGEST, BATCH)?)
    }

    fn exact_match(&self, answers: &[String]) -> f64 {
        exact_match(&self.questions, answers).unwrap_or(f64::NAN)
    }
}
