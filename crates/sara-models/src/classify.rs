//! Classification and regression of whole texts: data, loss, evaluation.

mod batch;
mod classes;
mod dataset;
pub mod evaluate;
mod fine_tune;
mod loss;
pub mod metrics;
mod prepare;
mod training;

pub use batch::{Batch, collate};
pub use classes::Classes;
pub use dataset::{ClassCount, Dataset, Gold, Item, Labels, Lengths, Report, ValueRange};
pub use fine_tune::{FineTune, FineTuned};
pub use loss::ClassifyLoss;
pub use prepare::prepare;
pub use training::{Classify, classify};
