//! Texts that go on: examples, loss, evaluation, generation.

mod batch;
mod chat_tokenizer;
mod dataset;
pub mod evaluate;
mod example;
pub mod generate;
mod generation_config;
mod loss;
mod prepare;
pub mod template;
mod training;

pub use batch::{Batch, Packing};
pub use chat_tokenizer::ChatTokenizer;
pub use dataset::{Dataset, Item, Question, Report, TrainOn};
pub use example::{Example, Examples};
pub use generation_config::GenerationConfig;
pub use loss::{CausalLoss, Kept};
pub use training::{CausalLm, causal_lm};
