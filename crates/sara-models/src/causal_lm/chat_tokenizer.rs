//! The tokenizer of a language model, with the template of its conversations.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::template::ChatTemplate;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A tokenizer, and how conversations become texts.
#[derive(Debug)]
pub struct ChatTokenizer {
    dir: PathBuf,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl ChatTokenizer {
    /// Reads both in a checkpoint's directory.
    ///
    /// # Errors
    /// As [`Tokenizer::load`] and [`ChatTemplate::load`].
    pub fn load(dir: &Path) -> Result<Self> {
        let (tokenizer, template) = (Tokenizer::load(dir)?, ChatTemplate::load(dir)?);
        Ok(Self { dir: dir.to_owned(), tokenizer, template })
    }

    /// The template of conversations.
    ///
    /// # Errors
    /// [`Error::NoTemplate`] where the checkpoint has none.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::NoTemplate { path: self.dir.clone() })
    }
}

impl Deref for ChatTokenizer {
    type Target = Tokenizer;

    fn deref(&self) -> &Tokenizer {
        &self.tokenizer
    }
}
