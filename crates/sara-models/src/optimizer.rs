//! Placeholder of `optimizer`.
