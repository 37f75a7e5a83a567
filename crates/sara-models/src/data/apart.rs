//! Examples kept apart to choose the best model by, where there is no file of them.

use std::path::Path;

use crate::error::{Error, Result};

/// The share kept apart by default.
pub(crate) const VALID_SHARE: f64 = 0.1;

/// How many of the `used` examples of a file are kept apart: at least one, and not all.
pub(crate) fn count_apart(used: usize, share: f64, path: &Path) -> Result<usize> {
    let wanted = ((used as f64 * share).round() as usize).max(1);
    if wanted >= used {
        return Err(Error::NothingToKeepApart { path: path.to_owned(), examples: used, share });
    }
    Ok(wanted)
}

/// The others, and those at `places`; both keep their order.
pub(crate) fn keep_apart<T>(list: Vec<T>, places: &[usize]) -> (Vec<T>, Vec<T>) {
    let mut apart = vec![false; list.len()];
    for &place in places {
        apart[place] = true;
    }
    let (valid, train): (Vec<_>, Vec<_>) = list.into_iter().zip(apart).partition(|(_, apart)| *apart);
    let examples = |side: Vec<(T, bool)>| side.into_iter().map(|(example, _)| example).collect();
    (examples(train), examples(valid))
}

/// What is said of it.
pub(crate) fn note_apart(valid: usize, train: usize, seed: u64) -> String {
    format!("{valid} examples kept apart to choose the best model by, {train} to learn from (seed {seed})")
}
