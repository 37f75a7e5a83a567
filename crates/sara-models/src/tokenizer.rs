//! From text to token ids, as transformers 5 makes them of the checkpoint's files.

mod build;
mod classes;
mod special;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{Encoding, PostProcessor, TruncationDirection, TruncationParams, truncate_encodings};

use self::build::{Built, build};
use crate::data::shown;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// A checkpoint's tokenizer, without the truncation and padding its file may ask for.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    largest_id: u32,
    pad_id: Option<u32>,
    /// Special tokens by their names in the configuration.
    special: BTreeMap<&'static str, String>,
    /// Whether the model gets token types; zeros otherwise.
    has_types: bool,
    /// The side on which texts are cut.
    cut: TruncationDirection,
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

/// The tokens of a text, not cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// First byte of each in the text, and the first after it; nowhere for special tokens around it.
    pub spans: Vec<(usize, usize)>,
}

/// What stands around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// The special tokens that the tokenizer adds by itself.
    Own,
    /// Nothing.
    Bare,
}

impl Tokenizer {
    /// Reads the tokenizer's files in a checkpoint's directory: `tokenizer.json`, else `vocab.txt`, or `vocab.json` with
    /// `merges.txt`; with what `config.json`, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`
    /// say of them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a file is missing, is no tokenizer, or asks for something that is not done here.
    pub fn load(dir: &Path) -> Result<Self> {
        let Built { inner, has_types, cut, special } =
            build(dir).map_err(|(file, problem)| Error::Tokenizer { path: dir.join(file), problem })?;
        let pad_id = special.get("pad_token").map(String::as_str).into_iter().chain(["<pad>", "[PAD]"]);
        let pad_id = pad_id.into_iter().find_map(|token| inner.token_to_id(token));
        let largest_id = inner.get_vocab(true).into_values().max().unwrap_or(0);
        Ok(Self { path: dir.join("tokenizer.json"), inner, largest_id, pad_id, special, has_types, cut })
    }

    /// How many tokens the vocabulary holds, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The special token that the files name so: `eos_token`.
    pub fn special(&self, name: &str) -> Option<&str> {
        self.special.get(name).map(String::as_str)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of these tokens, special ones left out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| failed(&self.path, &*error))
    }

    /// The tokens of a text as long as it is, and where they lie in it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer fails.
    pub fn tokens(&self, text: &str, frame: Frame) -> Result<Tokens> {
        let encoding = self.inner.encode(text, frame == Frame::Own);
        let encoding = encoding.map_err(|error| failed(&self.path, &*error))?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// The token with this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// What is wrong with a token for which the embedding of a model has no row.
    pub(crate) fn beyond(&self, id: u32, rows: usize) -> String {
        let token = shown(&self.token(id).unwrap_or_default());
        format!(
            "the token `{token}` has the id {id}, and the model's embedding has {rows} rows: it was not resized for this \
             tokenizer, or the tokenizer is another model's"
        )
    }

    /// The largest token id; the model's embedding must have a row for it.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The padding token: what the files name, or else the token `<pad>` or `[PAD]`.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// A hash of everything that decides how a text is encoded.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot be written.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let text = self.inner.to_string(false).map_err(|error| failed(&self.path, &*error))?;
        let mut hash = Fingerprint::default();
        hash.add(text.as_bytes());
        Ok(hash.finish())
    }

    /// Encodes one text or pair, cutting it to at most `max_tokens` tokens, special tokens included.
    ///
    /// The end of the text is cut, of a pair the end of the longer text first; the beginning where the files say
    /// `truncation_side = "left"`.
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

        let limit = TruncationParams { max_length: room, direction: self.cut, ..TruncationParams::default() };
        let (mut text, mut text_pair) = truncate_encodings(text, text_pair, &limit)?;
        // What was cut off would otherwise get special tokens of its own, at a cost that grows with its square.
        text.take_overflowing();
        text_pair.as_mut().map(Encoding::take_overflowing);
        let kept = text.len() + text_pair.as_ref().map_or(0, Encoding::len);

        let encoding = self.inner.post_process(text, text_pair, true)?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            types: if self.has_types { encoding.get_type_ids().to_vec() } else { vec![0; encoding.len()] },
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
