//! Texts that go on: examples, loss, evaluation, the training loop, generation.

mod batch;
mod dataset;
pub mod evaluate;
mod example;
pub mod generate;
mod loss;
mod training;

pub use batch::{Batch, Packing};
pub use dataset::{Dataset, Item, Report, TrainOn};
pub use example::{Example, Examples};
pub use loss::CausalLoss;
pub use training::{CausalLm, NoHead, causal_lm};
