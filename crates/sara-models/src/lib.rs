//! RoBERTa and BERT with adapters: loading, data, training.

pub mod data;
pub mod error;
pub mod metrics;
mod nearest;
pub mod ops;
pub mod optimizer;
pub mod plot;
pub mod run;
pub mod schedule;
pub mod tokenizer;
pub mod write;

pub use error::{Error, Result};
