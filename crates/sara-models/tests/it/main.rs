//! The integration tests of this crate, in one binary.

mod metrics;
mod optimizer;
mod run;
mod schedule;
mod data;
mod plot;
#[cfg(feature = "flex")]
mod ops;
