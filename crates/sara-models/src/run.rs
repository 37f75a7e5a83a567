//! A run: the file that describes it, and the directory that it writes.

pub mod dir;
mod file;
mod text;

pub use file::{BackboneDropout, Data, Device, OptimizerConfig, Run, Targets};
