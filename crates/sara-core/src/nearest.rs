//! The known word that a misspelt one was probably meant to be.

/// The word of `known` that is nearest to `word` in spelling; the first of them where several are.
pub fn nearest<S: AsRef<str>>(word: &str, known: impl IntoIterator<Item = S>) -> Option<S> {
    known.into_iter().min_by_key(|candidate| strsim::damerau_levenshtein(word, candidate.as_ref()))
}
