//! A classifier opened for use: an encoder, and the head of the adapter's files or of its own.

use std::num::NonZeroUsize;
use std::path::Path;

use sara_core::store::StoredAdapter;
use sara_core::{LayerOps, Seed, Seen};
use sara_svd::SvdOps;
use serde::Deserialize;
use serde_json::Value;

use super::{Adapted, Answer, Opening, Opens, read_adapter};
use crate::architecture::Architecture;
use crate::checkpoint::WeightType;
use crate::classify::evaluate::observe;
use crate::classify::{Dataset, Labels};
use crate::data::{Columns, Rows, Task};
use crate::encoder::config::{EncoderConfig, EncoderFamily};
use crate::encoder::{EncoderCheckpoint, Loaded, check_tokens, head};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::train::metrics::Metrics;
use crate::train::{TaskHead, Trained};

impl Opens for EncoderConfig {
    fn open_beside<B: LayerOps + SvdOps>(
        model: &Path,
        adapter: Option<&Path>,
        opening: Opening,
        device: &B::Device,
    ) -> Result<Adapted<B>> {
        if !matches!(opening.weight_type, WeightType::F32 | WeightType::Checkpoint) {
            let (field, found) = ("dtype".to_owned(), format!("{:?}", opening.weight_type).to_lowercase());
            let expected = "f32 or checkpoint, which an encoder is computed in".to_owned();
            return Err(Error::Config { field, found, expected });
        }
        let checkpoint = EncoderCheckpoint::open(model)?;
        let (stored, mut notes) = match adapter {
            Some(dir) => {
                read_adapter(dir, &checkpoint, opening.base).map(|(stored, notes)| (Some(stored), notes))?
            }
            None => (None, Vec::new()),
        };
        let of_adapter = stored.as_ref().filter(|stored| !stored.head.is_empty());
        let of_checkpoint = checkpoint.config.labels.as_deref();
        let of_checkpoint = of_checkpoint.map(|labels| Answer::of_labels(labels, checkpoint.config.task));
        let answer = match of_adapter {
            Some(stored) => {
                match &stored.manifest.task {
                    // PEFT's files do not name the classes: the checkpoint may, else they are numbered.
                    Value::Null => {
                        let (who, answer) = match of_checkpoint {
                            Some(answer) => ("they are the model's", answer),
                            None => ("they are numbered", numbered(stored, checkpoint.config.family)?),
                        };
                        notes.push(format!("the adapter's files name no classes; {who}"));
                        answer
                    }
                    task => Answer::deserialize(task).map_err(|problem| Error::UnknownTask {
                        task: task.to_string(),
                        problem: problem.to_string(),
                    })?,
                }
            }
            None => of_checkpoint.ok_or_else(|| Error::NoHead { path: model.to_owned() })?,
        };
        let (n_labels, seed) = (answer.n_labels(), Seed(0));
        let Loaded { model, mut head, notes: of_head } = match of_adapter {
            Some(_) => checkpoint.load_with_new_head(n_labels, seed, device)?,
            None => checkpoint.load(n_labels, seed, device)?,
        };
        // What is new in the head is in the adapter's, where it has one.
        if of_adapter.is_none() {
            notes.extend(of_head);
        }
        let mut built = None;
        if let Some(stored) = &stored {
            built = Some(stored.build(&mut checkpoint.weight_source::<B>(device), device)?);
            if !stored.head.is_empty() {
                head = head.with_tensors(&stored.head, "the adapter's head")?;
            }
        }
        let trained = Trained::new(built, head);
        Ok(Adapted { checkpoint, model, trained, answer, stored, notes })
    }

    fn examples<B: LayerOps>(
        adapted: &Adapted<B>,
        rows: &Rows,
        columns: &Columns,
        max_tokens: Option<usize>,
    ) -> Result<Dataset> {
        let Adapted { checkpoint, answer, .. } = adapted;
        let tokenizer = Tokenizer::load(&checkpoint.dir)?;
        let (classes, max_tokens) = (answer.classes(), checkpoint.config.max_tokens(max_tokens)?);
        let examples = rows.examples(columns, Some(answer.task))?;
        let data = Dataset::prepare(&examples, &tokenizer, max_tokens, Labels::of(answer.task, &classes))?;
        check_tokens(&checkpoint.config, &data, &tokenizer)?;
        Ok(data)
    }

    fn observe<B: LayerOps>(
        adapted: &Adapted<B>,
        data: &Dataset,
        batch_size: NonZeroUsize,
    ) -> Result<(Metrics, Seen<B>)> {
        observe(&adapted.model, &adapted.trained, data, batch_size)
    }
}

impl Answer {
    /// The answer of a checkpoint that has a head of its own.
    fn of_labels(labels: &[String], task: Task) -> Self {
        match labels {
            [_] if task != Task::MultiLabel => Self { task: Task::Regress, classes: Vec::new() },
            classes => Self { task, classes: classes.to_vec() },
        }
    }
}

/// The answer of a head whose classes nobody named: as many as its last layer has outputs.
fn numbered(stored: &StoredAdapter, family: EncoderFamily) -> Result<Answer> {
    let name = format!("{}.weight", head::paths(family)[1]);
    let labels = stored.head.get(&name).and_then(|weight| weight.shape.first().copied());
    match labels {
        Some(1) => Ok(Answer { task: Task::Regress, classes: Vec::new() }),
        Some(n) => {
            Ok(Answer { task: Task::Classify, classes: (0..n).map(|class| class.to_string()).collect() })
        }
        None => {
            let mismatches = vec![format!("{name}: missing, expected [labels, width]")];
            Err(Error::Mismatch { what: "the adapter's head".to_owned(), mismatches })
        }
    }
}
