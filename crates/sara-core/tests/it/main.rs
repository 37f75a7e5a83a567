//! The integration tests of this crate, in one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod contract;
mod export;
mod fields;
mod golden;
mod golden_methods;
mod golden_sara;
mod import;
mod merge;
mod noise;
mod parameters;
mod pass;
mod site;
mod start;
mod store;
mod tiny;
