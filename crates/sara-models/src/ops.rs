//! Placeholder of `ops`.
