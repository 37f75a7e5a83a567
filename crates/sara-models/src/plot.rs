//! Placeholder of `plot`.
