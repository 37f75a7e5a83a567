//! The integration tests of this crate, in one binary.

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
