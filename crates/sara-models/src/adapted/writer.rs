//! A language model opened for use: a decoder, with an adapter or without.

use std::num::NonZeroUsize;
use std::path::Path;

use sara_core::{LayerOps, Seen};
use sara_svd::SvdOps;

use super::{Adapted, Answer, Opening, Opens, read_adapter};
use crate::architecture::Architecture;
use crate::causal_lm::evaluate::{answer_all, observe};
use crate::causal_lm::generate::Limits;
use crate::causal_lm::{ChatTokenizer, Dataset, Examples, GenerationConfig, Question, TrainOn};
use crate::data::{Columns, Rows, Task};
use crate::decoder::config::DecoderConfig;
use crate::decoder::{DecoderCheckpoint, LoadedDecoder, check_tokens};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::train::metrics::Metrics;
use crate::train::{NoHead, Trained};

/// A language model with its adapter.
pub type Writer<B> = Adapted<B, DecoderConfig>;

impl Opens for DecoderConfig {
    fn open_beside<B: LayerOps + SvdOps>(
        model: &Path,
        adapter: Option<&Path>,
        opening: Opening,
        device: &B::Device,
    ) -> Result<Writer<B>> {
        let checkpoint = DecoderCheckpoint::open(model)?;
        let (stored, mut notes) = match adapter {
            Some(dir) => {
                read_adapter(dir, &checkpoint, opening.base).map(|(stored, notes)| (Some(stored), notes))?
            }
            None => (None, Vec::new()),
        };
        let LoadedDecoder { model, notes: of_model } = checkpoint.load(opening.weight_type, device)?;
        notes.extend(of_model);
        let mut built = None;
        if let Some(stored) = &stored {
            built = Some(stored.build(&mut checkpoint.weight_source::<B>(device), device)?);
        }
        let trained = Trained::new(built, NoHead::default());
        let answer = Answer { task: Task::CausalLm, classes: Vec::new() };
        Ok(Adapted { checkpoint, model, trained, answer, stored, notes })
    }

    /// Every text as training would see it.
    fn examples<B: LayerOps>(
        adapted: &Writer<B>,
        rows: &Rows,
        columns: &Columns,
        max_tokens: Option<usize>,
    ) -> Result<Dataset> {
        if *columns != Columns::default() {
            return Err(Error::Columns {
                path: rows.path.clone(),
                problem: "is read by the columns text, prompt, completion and messages; leave the names of columns out"
                    .to_owned(),
            });
        }
        let config = &adapted.checkpoint.config;
        let tokenizer = ChatTokenizer::load(&adapted.checkpoint.dir)?;
        let max_tokens = config.max_tokens(max_tokens)?;
        let data = Dataset::prepare(&Examples::of_rows(rows)?, &tokenizer, max_tokens, TrainOn::Completion)?;
        check_tokens(config, &data, &tokenizer)?;
        Ok(data)
    }

    fn observe<B: LayerOps>(
        adapted: &Writer<B>,
        data: &Dataset,
        batch_size: NonZeroUsize,
    ) -> Result<(Metrics, Seen<B>)> {
        observe(&adapted.model, &adapted.trained.adapter, data, batch_size)
    }
}

impl<B: LayerOps> Writer<B> {
    /// The likeliest answer to each question, in their order: up to what ends the model's texts, or so many tokens.
    ///
    /// # Errors
    /// Those of [`answer_all`], and what reading `generation_config.json` said.
    pub fn answers(
        &self,
        questions: &[Question],
        tokenizer: &Tokenizer,
        max_new_tokens: usize,
        batch_size: NonZeroUsize,
    ) -> Result<Vec<String>> {
        let eos = GenerationConfig::read(&self.checkpoint.dir)?.eos;
        let limits = Limits { max_new_tokens, eos, context: None };
        answer_all(&self.model, &self.trained.adapter, questions, tokenizer, &limits, batch_size)
    }
}
