//! Singular values, singular value decomposition and the SARA rank rule on any burn backend.

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod error;
pub mod host;
mod ops;
mod spectrum_rank;
mod svd;

pub use error::Error;
pub use ops::{SvdOps, SvdPrimitives};
pub use spectrum_rank::{Convention, SpectrumRank, spectrum_rank};
pub use svd::{Svd, singular_values, svd};
