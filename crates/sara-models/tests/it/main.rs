//! The integration tests of this crate, in one binary.

#[cfg(test)]
mod model;
#[cfg(feature = "flex")]
mod ops;
