//! RoBERTa and BERT with adapters: loading, data, training.

pub mod adapted;
pub mod config;
pub mod data;
pub mod encoder;
pub mod error;
pub mod evaluate;
pub mod handover;
pub mod heads;
pub mod metrics;
mod nearest;
pub mod ops;
pub mod optimizer;
pub mod plot;
pub mod pretrained;
pub mod run;
pub mod run_dir;
pub mod schedule;
pub mod tokenizer;
pub mod train;
pub mod weights;
mod write;

pub use error::{Error, Result};
