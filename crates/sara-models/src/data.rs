//! Placeholder of `data`.
