//! The integration tests of this crate, in one binary.

#[cfg(feature = "flex")]
mod ops;
