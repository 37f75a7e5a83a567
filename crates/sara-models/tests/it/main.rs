//! The integration tests of this crate, in one binary.

// The attribute tells clippy that helpers in these files are parts of tests.
#[cfg(test)]
mod data;
mod metrics;
mod optimizer;
#[cfg(test)]
mod plot;
mod run;
mod schedule;
