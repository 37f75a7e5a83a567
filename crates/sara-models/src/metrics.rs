//! Placeholder of `metrics`.
