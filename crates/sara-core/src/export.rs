//! Adapters in the formats of other programs.

pub mod peft;
