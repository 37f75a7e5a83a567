//! What the benches and `cargo xtask bench` measure, and on which matrices.

pub mod kernels;
pub mod planted;
