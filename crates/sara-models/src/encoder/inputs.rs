//! What goes into the encoder: token ids, their types and positions, and which of them count.

use std::fmt::Display;

use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::architecture::Architecture;
use crate::classify::{Batch, Dataset};
use crate::encoder::config::{EncoderConfig, EncoderFamily};
use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// One padded batch on the device, every tensor `[batch, seq]`.
#[derive(Debug, Clone)]
pub struct Inputs<B: Backend> {
    /// Token ids.
    pub ids: Tensor<B, 2, Int>,
    /// Token types.
    pub types: Tensor<B, 2, Int>,
    /// Positions, as the family counts them.
    pub positions: Tensor<B, 2, Int>,
    /// True where a token counts; `None` if all do.
    pub mask: Option<Tensor<B, 2, Bool>>,
}

impl<B: Backend> Inputs<B> {
    /// A padded batch of a dataset.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_batch(config: &EncoderConfig, batch: Batch, device: &B::Device) -> Result<Self, Error> {
        let Batch { ids, types, mask, rows, columns, .. } = batch;
        Self::new(config, ids, types, mask, [rows, columns], device)
    }

    /// A batch of `rows` sequences of `columns` tokens each, given row by row.
    ///
    /// # Errors
    /// [`Error::Input`] where an id, a type or the length is beyond what the model has an embedding for, or the lists
    /// are not of `rows * columns` entries.
    pub fn new(
        config: &EncoderConfig,
        ids: Vec<i32>,
        types: Vec<i32>,
        mask: Vec<bool>,
        [rows, columns]: [usize; 2],
        device: &B::Device,
    ) -> Result<Self, Error> {
        check(config, &ids, &types, &mask, [rows, columns]).map_err(|problem| Error::Input { problem })?;
        let positions = positions(config, &ids, columns);
        let int = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, [rows, columns]), device);
        let padded = mask.contains(&false);
        Ok(Self {
            ids: int(ids),
            types: int(types),
            positions: int(positions),
            mask: padded.then(|| Tensor::from_data(TensorData::new(mask, [rows, columns]), device)),
        })
    }
}

/// Whether a model of this `config` has an embedding for every token of `data`, to be asked before a long run begins.
///
/// # Errors
/// [`Error::Data`], naming the first token that it has none for and its line; [`Error::Input`] for anything else.
pub fn check_tokens(config: &EncoderConfig, data: &Dataset, tokenizer: &Tokenizer) -> Result<(), Error> {
    for (item, &line) in data.items.iter().zip(&data.lines) {
        if let Some(&id) = item.ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            let problem = tokenizer.beyond(id, config.vocab_size);
            return Err(Error::Data { path: data.report.path.clone(), line, problem });
        }
        check_values(config, &item.ids, &item.types, item.ids.len())
            .map_err(|problem| Error::Input { problem })?;
    }
    Ok(())
}

/// What a backend would answer with a panic, or not at all.
fn check(
    config: &EncoderConfig,
    ids: &[i32],
    types: &[i32],
    mask: &[bool],
    [rows, columns]: [usize; 2],
) -> Result<(), String> {
    let lengths = [ids.len(), types.len(), mask.len()];
    if rows * columns == 0 || lengths != [rows * columns; 3] {
        return Err(format!("a batch of {rows} x {columns} cannot be made of lists of {lengths:?} entries"));
    }
    check_values(config, ids, types, columns)
}

/// Whether there is an embedding for each id, type and position; `T` is an integer.
fn check_values<T: Copy + Display>(
    config: &EncoderConfig,
    ids: &[T],
    types: &[T],
    columns: usize,
) -> Result<(), String>
where
    usize: TryFrom<T>,
{
    if columns > config.usable_length() {
        return Err(format!(
            "{columns} tokens are more than the {} this model takes; lower max_tokens",
            config.usable_length()
        ));
    }
    let outside = |values: &[T], end: usize| {
        values.iter().copied().find(|&value| !usize::try_from(value).is_ok_and(|value| value < end))
    };
    if let Some(id) = outside(ids, config.vocab_size) {
        return Err(format!(
            "token id {id} is not in 0..{}; the tokenizer is another model's",
            config.vocab_size
        ));
    }
    if let Some(kind) = outside(types, config.type_vocab) {
        return Err(format!(
            "token type {kind} is not in 0..{}; the tokenizer is another model's",
            config.type_vocab
        ));
    }
    Ok(())
}

/// The position of each token. RoBERTa counts the ids that are not padding, whatever the mask says.
fn positions(config: &EncoderConfig, ids: &[i32], columns: usize) -> Vec<i32> {
    let row = |row: &[i32]| -> Vec<i32> {
        match config.family {
            EncoderFamily::Bert => (0..row.len() as i32).collect(),
            EncoderFamily::Roberta => {
                let (pad, mut position) = (config.pad_id as i32, config.pad_id as i32);
                let next = |&id: &i32| {
                    if id == pad {
                        return pad;
                    }
                    position += 1;
                    position
                };
                row.iter().map(next).collect()
            }
        }
    };
    ids.chunks(columns).flat_map(row).collect()
}
