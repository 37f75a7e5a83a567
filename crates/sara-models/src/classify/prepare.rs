//! What a run of this task learns from.

use std::collections::BTreeMap;
use std::fmt::Display;

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use rand::seq::SliceRandom;
use sara_core::Seed;
use sara_core::parameters::Tensors;
use sara_ops::LayerOps;
use sara_svd::SvdOps;

use super::{Classes, Classify, Dataset, Labels, classify};
use crate::adapted::Answer;
use crate::data::{Example, Examples, Label, Rows, Task, VALID_SHARE, count_apart, keep_apart, note_apart};
use crate::encoder::config::{Dropouts, EncoderConfig};
use crate::encoder::head::Head;
use crate::encoder::{Encoder, EncoderCheckpoint, Loaded, check_tokens};
use crate::error::{Error, Result};
use crate::run::{self, BackboneDropout, Fitted, Learnable, Learned, Learner, Prepared, Ready, Run, Trains};
use crate::tokenizer::Tokenizer;
use crate::train::{Journal, Options, Snapshot, TaskHead};

impl Learnable for Dataset {
    fn rows(&self, _data: &run::Data) -> usize {
        self.items.len()
    }

    fn examples(&self) -> usize {
        self.items.len()
    }

    fn fingerprint(&self) -> String {
        Self::fingerprint(self)
    }

    fn report(&self) -> &dyn Display {
        &self.report
    }
}

impl Trains for EncoderConfig {
    type Data = Dataset;

    fn learn(run: &Run, checkpoint: &EncoderCheckpoint) -> Result<Learned<Dataset>> {
        let (config, tokenizer) = (&checkpoint.config, Tokenizer::load(&checkpoint.dir)?);
        let learned = prepare(&run.data, run.task, config.labels.as_deref(), Seed(run.seed), &tokenizer)?;
        for data in [&learned.train, &learned.valid] {
            check_tokens(config, data, &tokenizer)?;
        }
        Ok(learned)
    }

    fn open<B: LayerOps>(
        prepared: &Prepared<Self>,
        start: &Tensors,
        say: &mut dyn FnMut(&'static str, &str),
        device: &B::Device,
    ) -> Result<Ready<Self, B>> {
        let Prepared { run, checkpoint, answer, .. } = prepared;
        let Loaded { model, mut head, notes } =
            checkpoint.load::<Autodiff<B>>(answer.n_labels(), Seed(run.seed), device)?;
        match &run.init_adapter {
            Some(init) if !start.is_empty() => {
                head = head.with_tensors(start, &init.display().to_string())?;
            }
            _ => notes.iter().for_each(|note| say("note", note)),
        }
        let dropouts = match run.backbone_dropout {
            BackboneDropout::Checkpoint => checkpoint.config.dropouts,
            BackboneDropout::Rate(rate) => Dropouts { hidden: rate, attention: rate, classifier: rate },
        };
        say("dropout", &format!("{} in the backbone", dropouts.hidden));
        Ok((model.with_dropout(dropouts), head.with_dropout(dropouts.classifier)))
    }

    fn train<B: LayerOps + SvdOps>(
        prepared: &Prepared<Self>,
        model: &Encoder<Autodiff<B>>,
        options: Options,
        trained: Learner<Self, B>,
        resume: Option<Snapshot>,
        journal: &mut impl Journal<Learner<Self, B>>,
    ) -> Result<Fitted<Self, B>> {
        let Prepared { train, valid, .. } = prepared;
        classify(&Classify { model, train, valid: Some(valid), options }, trained, resume, journal)
    }

    fn inner<B: LayerOps>(model: Encoder<Autodiff<B>>, head: Head<Autodiff<B>>) -> (Encoder<B>, Head<B>) {
        (model.valid(), head.valid())
    }
}

/// Reads what a run learns from: the answer's classes, and both datasets. Without a file of validation examples some
/// of the others are kept apart, of each class its share, chosen by `seed`.
///
/// # Errors
/// What reading said, a label that is not known, or a task that the checkpoint's head does not have.
pub fn prepare(
    data: &run::Data,
    task: Task,
    labels: Option<&[String]>,
    seed: Seed,
    tokenizer: &Tokenizer,
) -> Result<Learned<Dataset>> {
    let read = |path| Rows::read(path, data.format)?.examples(&data.columns(), Some(task));
    let train = read(&data.train)?;
    let mut notes = Vec::new();
    let (classes, note) = match task {
        Task::Classify | Task::MultiLabel => Classes::of_run(labels, &train)?,
        Task::Regress | Task::CausalLm => (Classes::of_checkpoint(outputs(&train, labels)), None),
    };
    notes.extend(note);
    let (train, valid) = if let Some(valid) = &data.valid {
        (train, read(valid)?)
    } else {
        let (train, valid) = split(train, data.valid_share.unwrap_or(VALID_SHARE), seed)?;
        notes.push(note_apart(valid.list.len(), train.list.len(), seed.0));
        (train, valid)
    };
    let targets = Labels::of(task, &classes);
    let max_tokens = data.max_tokens.unwrap_or(usize::MAX);
    let train = Dataset::prepare(&train, tokenizer, max_tokens, targets)?;
    let valid = Dataset::prepare(&valid, tokenizer, max_tokens, targets)?;
    let answer = Answer { task, classes: classes.names().to_vec() };
    Ok(Learned { answer, train, valid, tokenizer: tokenizer.fingerprint()?, notes })
}

/// Names of several numbers, as the checkpoint, the columns or their places have them; none for a single one.
fn outputs(train: &Examples, labels: Option<&[String]>) -> Vec<String> {
    let n = train.list.iter().find_map(|example| match &example.label {
        Some(Label::Values(values)) => Some(values.len()),
        _ => None,
    });
    let n = n.filter(|&n| n > 1).unwrap_or(0);
    let numbered: Vec<String> = (0..n).map(|output| format!("LABEL_{output}")).collect();
    let named = labels.filter(|names| names.len() == n && *names != numbered);
    match (named, train.label_columns.as_slice()) {
        (Some(names), _) => names.to_vec(),
        (None, columns) if columns.len() == n => columns.to_vec(),
        _ => numbered,
    }
}

/// Keeps a share of the examples that can be used apart, of each class as nearly the same as whole numbers allow; both
/// sides keep the order of the file.
fn split(examples: Examples, share: f64, seed: Seed) -> Result<(Examples, Examples)> {
    let mut of_class: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let is_used = |example: &&(usize, &Example)| example.1.has_text() && example.1.label.is_some();
    let numbered: Vec<(usize, &Example)> = examples.list.iter().enumerate().collect();
    for (place, example) in numbered.iter().filter(is_used) {
        let class = match &example.label {
            Some(Label::Name(name)) => name.clone(),
            Some(Label::Names(names)) => names.join("|"),
            _ => String::new(),
        };
        of_class.entry(class).or_default().push(*place);
    }
    let mut order = Vec::new();
    for (class, mut places) in of_class {
        places.shuffle(&mut seed.rng(&format!("valid/{class}")));
        order.extend(places);
    }
    if order.is_empty() {
        let (path, total) = (examples.path.clone(), examples.list.len());
        return Err(if examples.list.iter().any(Example::has_text) {
            Error::NoLabels { path, examples: total, notes: examples.notes }
        } else {
            Error::NoTexts { path, examples: total }
        });
    }
    let wanted = count_apart(order.len(), share, &examples.path)?;
    // One class after the other, and of this row evenly spaced ones: every n-th, from half of n on.
    let up_to = |place: usize| (2 * place * wanted + order.len()) / (2 * order.len());
    let is_apart = |place: usize| up_to(place + 1) > up_to(place);
    let apart: Vec<usize> =
        (0..order.len()).filter(|&place| is_apart(place)).map(|place| order[place]).collect();
    let Examples { path, list, notes, label_columns } = examples;
    let (train, valid) = keep_apart(list, &apart);
    let side =
        |list, notes| Examples { path: path.clone(), list, notes, label_columns: label_columns.clone() };
    Ok((side(train, notes), side(valid, Vec::new())))
}
