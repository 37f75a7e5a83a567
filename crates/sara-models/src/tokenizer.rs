//! Placeholder of `tokenizer`.
