//! From a checkpoint and labelled texts to a classifier, for a program of one's own.

use std::path::Path;

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use sara_core::{MethodConfig, Seed, Targets};
use sara_ops::LayerOps;
use sara_svd::SvdOps;

use super::evaluate::predict;
use super::{Classes, Classify, Dataset, Labels, classify};
use crate::adapted::{Adapted, Answer, BATCH};
use crate::architecture::Architecture;
use crate::classify::metrics::largest;
use crate::data::{Examples, Task};
use crate::encoder::EncoderCheckpoint;
use crate::encoder::{Loaded, check_tokens};
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use crate::train::{Options, Trained};

/// How to fine-tune: everything has a default but the method.
#[derive(Debug, Clone)]
pub struct FineTune {
    /// The method and its configuration.
    pub method: MethodConfig,
    /// The layers that are adapted. Default query and value.
    pub targets: Targets,
    /// Length at which texts are cut; 128 or the checkpoint's usable length by default.
    pub max_tokens: Option<usize>,
    /// Seed, rate, batch size and the rest of training.
    pub options: Options,
}

/// A model with its adapter and head, ready to classify.
#[derive(Debug)]
pub struct FineTuned<B: LayerOps> {
    /// Model, adapter and head, to be merged, saved and exported.
    pub adapted: Adapted<B>,
    tokenizer: Tokenizer,
    max_tokens: usize,
}

impl FineTune {
    /// Fine-tuning by this method, with defaults for everything else.
    pub fn by(method: MethodConfig) -> Self {
        Self {
            method,
            targets: Targets::Named(vec!["query".to_owned(), "value".to_owned()]),
            max_tokens: None,
            options: Options::default(),
        }
    }

    /// Trains on `examples`, beside the model in `model_dir`.
    ///
    /// On flex, call it inside [`sara_ops::threads::awake`].
    ///
    /// # Errors
    /// What reading said, where data, method and model do not fit, and those of [`classify`].
    pub fn run<B: LayerOps + SvdOps>(
        &self,
        model_dir: &Path,
        examples: &Examples,
        device: &B::Device,
    ) -> Result<FineTuned<B>> {
        let Self { method, targets, max_tokens, options } = self;
        let mut options = options.clone();
        options.optimizer.learning_rate.get_or_insert(method.learning_rate());
        let checkpoint = EncoderCheckpoint::open(model_dir)?;
        let tokenizer = Tokenizer::load(&checkpoint.dir)?;
        let config = &checkpoint.config;
        let max_tokens = config.max_tokens(*max_tokens)?;
        let (classes, note) = Classes::of_run(config.labels.as_deref(), examples)?;
        let train = Dataset::prepare(examples, &tokenizer, max_tokens, Labels::Classes(&classes))?;
        check_tokens(config, &train, &tokenizer)?;
        method.check_steps(options.optimizer.total_steps(train.items.len()))?;

        let seed = Seed(options.seed);
        let (adapter, _) = checkpoint.new_adapter(method, targets, seed, device)?;
        let Loaded { model, head, mut notes } =
            checkpoint.load::<Autodiff<B>>(classes.names().len(), seed, device)?;
        notes.extend(note);
        let task = Classify { model: &model, train: &train, valid: None, options };
        let outcome = classify(&task, Trained::new(adapter, head), None, &mut ())?;

        let Trained { adapter, head, .. } = outcome.trained.valid();
        let answer = Answer { task: Task::Classify, classes: classes.names().to_vec() };
        let (model, trained) = (model.valid(), Trained::new(Some(adapter), head));
        let adapted = Adapted { checkpoint, model, trained, answer, stored: None, notes };
        Ok(FineTuned { adapted, tokenizer, max_tokens })
    }
}

impl<B: LayerOps> FineTuned<B> {
    /// The class of each text.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) for a blank text, or one without a token of its own.
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<&str>> {
        let Adapted { model, trained, answer, .. } = &self.adapted;
        let examples = Examples::unlabelled(texts.iter().copied());
        let data = Dataset::prepare(&examples, &self.tokenizer, self.max_tokens, Labels::Ignored)?;
        if let Some(blank) = examples.list.iter().find(|example| !example.has_text()) {
            return Err(examples.problem(blank.line, "is blank; write some text".to_owned()));
        }
        let logits = predict(model, trained, &data, BATCH)?;
        Ok(logits.iter().map(|row| answer.classes[largest(row)].as_str()).collect())
    }

    /// The same with the adapter folded into the weights, where it costs nothing any more.
    ///
    /// # Errors
    /// Where the method cannot be merged.
    pub fn merge(self) -> Result<Self> {
        let (adapted, _) = self.adapted.merge()?;
        Ok(Self { adapted, ..self })
    }
}
