//! The integration tests of this crate, in one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod contract;
mod export;
mod golden;
mod import;
mod noise;
mod parameters;
mod pass;
mod site;
mod store;
mod tiny;
