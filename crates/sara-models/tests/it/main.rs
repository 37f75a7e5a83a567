//! The integration tests of this crate, in one binary.

mod data;
#[cfg(feature = "flex")]
mod finetune;
mod metrics;
mod model;
#[cfg(feature = "flex")]
mod ops;
mod optimizer;
mod plot;
mod run;
mod schedule;
