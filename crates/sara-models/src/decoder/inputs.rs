//! What goes into the decoder: token ids, the angles of their places, and how far back each sees.

use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor, TensorData};

use super::config::DecoderConfig;
use crate::architecture::Architecture;
use crate::causal_lm::Dataset;
use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The key of its text's first token, counted from the first key of its row.
    pub start: usize,
    /// How many tokens of its text stand before it.
    pub position: usize,
    /// How many tokens its text has.
    pub length: usize,
}

/// One batch on the device.
#[derive(Debug, Clone)]
pub struct Inputs<B: Backend> {
    /// Token ids, `[batch, seq]`.
    pub ids: Tensor<B, 2, Int>,
    /// Cosines of the rotary embedding, `[batch, seq, head_dim / 2]`.
    pub cos: Tensor<B, 3>,
    /// Its sines.
    pub sin: Tensor<B, 3>,
    /// The first key that each token sees, `[batch, seq]`.
    pub first: Tensor<B, 2, Int>,
    /// The same in blocks with a window.
    pub first_in_window: Option<Tensor<B, 2, Int>>,
    /// True where a token counts, `[batch, seq]`; `None` if all do.
    pub mask: Option<Tensor<B, 2, Bool>>,
}

impl<B: Backend> Inputs<B> {
    /// A batch of rows of `columns` tokens each, given row by row, behind `past` keys of earlier tokens in each row; a
    /// token without a place is padding, which sees nothing but itself.
    ///
    /// # Errors
    /// [`Error::Input`] where an id is beyond the embeddings, a text is longer than the context, or the lists are not of
    /// `rows * columns` entries.
    pub fn new(
        config: &DecoderConfig,
        ids: Vec<i32>,
        places: &[Option<Place>],
        [rows, columns]: [usize; 2],
        past: usize,
        device: &B::Device,
    ) -> Result<Self, Error> {
        check(config, &ids, places, [rows, columns]).map_err(|problem| Error::Input { problem })?;
        let own = |index: usize| past + index % columns;
        let first = |window: Option<usize>| -> Tensor<B, 2, Int> {
            let first = places.iter().enumerate().map(|(index, place)| {
                let start = place.map_or(own(index), |place| place.start.min(own(index)));
                start.max((own(index) + 1).saturating_sub(window.unwrap_or(usize::MAX))) as i32
            });
            Tensor::from_data(TensorData::new(first.collect::<Vec<_>>(), [rows, columns]), device)
        };
        let half = config.head_dim / 2;
        let turned: Vec<_> =
            places.iter().map(|place| place.map_or((0, 1), |p| (p.position, p.length))).collect();
        let [cos, sin] = config
            .rope
            .angles(&turned, config.head_dim)
            .map(|table| Tensor::from_data(TensorData::new(table, [rows, columns, half]), device));
        let counts: Vec<bool> = places.iter().map(Option::is_some).collect();
        Ok(Self {
            ids: Tensor::from_data(TensorData::new(ids, [rows, columns]), device),
            cos,
            sin,
            first: first(None),
            first_in_window: config.windows.iter().flatten().next().map(|&window| first(Some(window))),
            mask: counts
                .contains(&false)
                .then(|| Tensor::from_data(TensorData::new(counts, [rows, columns]), device)),
        })
    }

    /// A batch of whole texts, one in each row, padded on the right to the longest.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_texts(config: &DecoderConfig, texts: &[&[u32]], device: &B::Device) -> Result<Self, Error> {
        let columns = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut ids = vec![0; texts.len() * columns];
        let mut places = vec![None; texts.len() * columns];
        for (row, text) in texts.iter().enumerate() {
            for (position, &id) in text.iter().enumerate() {
                ids[row * columns + position] = i32::try_from(id).unwrap_or(i32::MAX);
                places[row * columns + position] = Some(Place { start: 0, position, length: text.len() });
            }
        }
        Self::new(config, ids, &places, [texts.len(), columns], 0, device)
    }
}

/// Whether a model of this `config` has an embedding for every token of `data`, to be asked before a long run begins.
///
/// # Errors
/// [`Error::Data`], naming the first token that it has none for.
pub fn check_tokens(config: &DecoderConfig, data: &Dataset, tokenizer: &Tokenizer) -> Result<(), Error> {
    for (item, &line) in data.items.iter().zip(&data.lines) {
        if let Some(&id) = item.ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            let problem = tokenizer.beyond(id, config.vocab_size);
            return Err(Error::Data { path: data.report.path.clone(), line, problem });
        }
    }
    Ok(())
}

/// What a backend would answer with a panic, or not at all.
fn check(
    config: &DecoderConfig,
    ids: &[i32],
    places: &[Option<Place>],
    [rows, columns]: [usize; 2],
) -> Result<(), String> {
    let lengths = [ids.len(), places.len()];
    if rows * columns == 0 || lengths != [rows * columns; 2] {
        return Err(format!("a batch of {rows} x {columns} cannot be made of lists of {lengths:?} entries"));
    }
    if let Some(id) = ids.iter().find(|&&id| !usize::try_from(id).is_ok_and(|id| id < config.vocab_size)) {
        return Err(format!(
            "token id {id} is not in 0..{}; the tokenizer is another model's",
            config.vocab_size
        ));
    }
    let longest =
        places.iter().flatten().map(|place| place.length.max(place.position + 1)).max().unwrap_or(0);
    if longest > config.usable_length() {
        return Err(format!(
            "{longest} tokens are more than the {} this model takes; lower max_tokens",
            config.usable_length()
        ));
    }
    Ok(())
}
