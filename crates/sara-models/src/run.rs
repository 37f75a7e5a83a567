//! A run: the file that describes it, what it does, and the directory that it writes.

pub mod dir;
mod execute;
mod file;
mod inherit;
mod inputs;
mod text;
mod trains;

pub use execute::{Ended, Learner, Mode, Prepared, Start, Summary};
pub use file::{BackboneDropout, Data, Device, OptimizerConfig, Run};
pub use trains::{Fitted, Learnable, Learned, Ready, Trains};
