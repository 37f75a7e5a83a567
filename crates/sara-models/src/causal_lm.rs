//! Texts that go on: examples, loss, evaluation, the training loop, generation.

mod batch;
mod dataset;
pub mod evaluate;
mod example;
pub mod generate;
mod generation_config;
mod loss;
mod prepare;
mod training;

pub use batch::{Batch, Packing};
pub use dataset::{Dataset, Item, Report, TrainOn};
pub use example::{Example, Examples};
pub use generation_config::GenerationConfig;
pub use loss::CausalLoss;
pub use training::{CausalLm, causal_lm};
