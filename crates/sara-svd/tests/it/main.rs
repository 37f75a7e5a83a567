//! The integration tests of this crate, in one binary.

// Tests may unwrap; the lint looks for this mark around helper functions too.
#![cfg(test)]

mod laws;
mod matrices;
mod rank_rule;
mod tensors;
