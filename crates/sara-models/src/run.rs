//! Placeholder of `run`.
