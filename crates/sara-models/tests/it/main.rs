//! The integration tests of this crate, in one binary.

// Tests may unwrap; the lint looks for this mark around helper functions too.
#![cfg(test)]

#[cfg(feature = "flex")]
mod bits;
#[cfg(feature = "flex")]
mod chats;
#[cfg(feature = "flex")]
mod cli;
#[cfg(feature = "flex")]
mod command;
mod data;
#[cfg(feature = "flex")]
mod decoders;
#[cfg(feature = "flex")]
mod finetune;
#[cfg(feature = "flex")]
mod found;
#[cfg(feature = "flex")]
mod harm;
#[cfg(feature = "flex")]
mod methods;
mod metrics;
mod model;
#[cfg(feature = "flex")]
mod optimizer;
#[cfg(feature = "flex")]
mod peft_found;
mod plot;
mod reading;
mod run;
mod runs;
mod schedule;
#[cfg(feature = "flex")]
mod several;
mod tokenizers;
#[cfg(feature = "flex")]
mod training;
#[cfg(all(feature = "flex", feature = "test-wgpu"))]
mod wgpu;
#[cfg(feature = "flex")]
mod writers;
#[cfg(feature = "flex")]
mod writing;
