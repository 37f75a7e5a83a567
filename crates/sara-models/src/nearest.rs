//! The known word that a misspelt one was probably meant to be.

/// The word of `known` that is nearest to `word` in spelling; the first of them where several are.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().min_by_key(|candidate| strsim::damerau_levenshtein(word, candidate))
}
