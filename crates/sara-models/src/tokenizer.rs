//! From text to token ids, as the checkpoint's `tokenizer.json` says.

use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{Encoding, PostProcessor, TruncationParams, truncate_encodings};

use crate::error::{Error, Result};

/// A checkpoint's tokenizer, without the truncation and padding its file may ask for.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    largest_id: u32,
    pad_id: Option<u32>,
}

/// The tokens of one text or pair, special tokens included, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token types: 0 for the first text, for BERT 1 for the second.
    pub types: Vec<u32>,
    /// Whether tokens were cut off to reach the limit.
    pub truncated: bool,
    /// How many tokens there were before the cut.
    pub full_length: usize,
    /// How many tokens the first text has of its own: neither special tokens around it nor padding in it.
    pub own: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a checkpoint's directory.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the file is missing or is no tokenizer, [`Error::Io`] if it cannot be read.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let problem = "does not exist; the checkpoint needs the fast tokenizer's file, which transformers writes \
                     with `AutoTokenizer.from_pretrained(..).save_pretrained(..)`";
                return Err(Error::Tokenizer { path, problem: problem.to_owned() });
            }
            read => read.map_err(Error::io(&path))?,
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| Error::Tokenizer {
            problem: format!("is not a tokenizer: {}; save it again or copy it anew", one_line(&*error)),
            path: path.clone(),
        })?;
        let pad_id = inner.get_padding().map(|padding| padding.pad_id);
        let pad_id = pad_id.or_else(|| ["<pad>", "[PAD]"].iter().find_map(|token| inner.token_to_id(token)));
        inner.with_padding(None);
        // Removing the limit cannot fail; only setting one can.
        inner.with_truncation(None).map_err(|error| failed(&path, &*error))?;
        let largest_id = inner.get_vocab(true).into_values().max().unwrap_or(0);
        Ok(Self { path, inner, largest_id, pad_id })
    }

    /// How many tokens the vocabulary holds, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest token id; the model's embedding must have a row for it.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The padding token: what the file's padding names, or else the token `<pad>` or `[PAD]`.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// Encodes one text or pair, cutting it to at most `max_tokens` tokens, special tokens included.
    ///
    /// The end of the text is cut, of a pair the end of the longer text first.
    ///
    /// # Errors
    /// [`Error::MaxTokens`] if the limit leaves no token for a text, [`Error::Tokenizer`] if the tokenizer fails.
    pub fn encode(&self, text: &str, text_pair: Option<&str>, max_tokens: usize) -> Result<Encoded> {
        let special =
            self.inner.get_post_processor().map_or(0, |post| post.added_tokens(text_pair.is_some()));
        let sequences = if text_pair.is_some() { 2 } else { 1 };
        if max_tokens < special + sequences {
            return Err(Error::MaxTokens { max_tokens, special, sequences });
        }
        self.encode_within(text, text_pair, max_tokens - special).map_err(|error| failed(&self.path, &*error))
    }

    /// Encodes many texts or pairs on all threads, in their order.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_all<'a>(
        &self,
        texts: impl IndexedParallelIterator<Item = (&'a str, Option<&'a str>)>,
        max_tokens: usize,
    ) -> Result<Vec<Encoded>> {
        texts.map(|(text, text_pair)| self.encode(text, text_pair, max_tokens)).collect()
    }

    /// `room` is what the limit leaves once the special tokens are in.
    fn encode_within(&self, text: &str, text_pair: Option<&str>, room: usize) -> tokenizers::Result<Encoded> {
        let text = self.inner.encode_fast(text, false)?;
        let text_pair = text_pair.map(|text| self.inner.encode_fast(text, false)).transpose()?;
        let own = text.get_ids().iter().filter(|&&id| Some(id) != self.pad_id).count();
        let tokens = text.len() + text_pair.as_ref().map_or(0, Encoding::len);

        let limit = TruncationParams { max_length: room, ..TruncationParams::default() };
        let (mut text, mut text_pair) = truncate_encodings(text, text_pair, &limit)?;
        // What was cut off would otherwise get special tokens of its own, at a cost that grows with its square.
        text.take_overflowing();
        text_pair.as_mut().map(Encoding::take_overflowing);
        let kept = text.len() + text_pair.as_ref().map_or(0, Encoding::len);

        let encoding = self.inner.post_process(text, text_pair, true)?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
            truncated: kept < tokens,
            full_length: encoding.len() + tokens - kept,
            own,
        })
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

fn failed(path: &Path, error: &dyn std::error::Error) -> Error {
    let problem = format!("failed on a text: {}; check that the file fits the model", one_line(error));
    Error::Tokenizer { path: path.to_owned(), problem }
}

fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
