//! What a run was started with, so that it is not resumed with something else.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Hashes of everything that a run reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    /// The weights of the base.
    pub(crate) base: String,
    /// How a text is encoded.
    pub(crate) tokenizer: String,
    /// The classes' names, in their order.
    pub(crate) classes: String,
    /// The examples to learn from, and their order.
    pub(crate) train: String,
    /// The examples to choose the best model by.
    pub(crate) valid: String,
}

impl Inputs {
    /// A hash of the classes' names.
    pub(crate) fn of_classes(classes: &[String]) -> String {
        let mut hash = Fingerprint::default();
        for name in classes {
            hash.add(name.as_bytes());
        }
        hash.finish()
    }

    /// Whether these are what the run in `dir` was started with.
    ///
    /// # Errors
    /// [`Error::OtherInputs`] names the first that is not.
    pub(super) fn check(&self, was: &Self, dir: &Path) -> Result<()> {
        let parts = [
            ("weights of the model", &self.base, &was.base),
            ("tokenizer", &self.tokenizer, &was.tokenizer),
            ("classes", &self.classes, &was.classes),
            ("training examples or their order", &self.train, &was.train),
            ("validation examples or their order", &self.valid, &was.valid),
        ];
        match parts.into_iter().find(|(_, is, was)| is != was) {
            Some((what, ..)) => Err(Error::OtherInputs { path: dir.to_owned(), what }),
            None => Ok(()),
        }
    }
}
