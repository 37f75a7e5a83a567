//! Adapters out of the formats of other programs.

pub mod peft;
