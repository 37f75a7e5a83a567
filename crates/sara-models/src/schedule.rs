//! Placeholder of `schedule`.
