//! Classification and regression of whole texts: data, loss, evaluation, the training loop.

mod batch;
mod classes;
mod dataset;
pub mod evaluate;
mod training;

pub use batch::{Batch, Order, batches, collate};
pub use classes::Classes;
pub use dataset::{ClassCount, Dataset, Gold, Item, Labels, Lengths, Report, ValueRange};
pub use training::classify;
