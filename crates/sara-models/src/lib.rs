//! RoBERTa and BERT with adapters: loading, data, training.

pub mod config;
pub mod data;
pub mod encoder;
pub mod error;
pub mod heads;
pub mod metrics;
pub mod ops;
pub mod optimizer;
pub mod plot;
pub mod pretrained;
pub mod run;
pub mod schedule;
pub mod tokenizer;
pub mod weights;

pub use error::Error;
