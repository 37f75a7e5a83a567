#![allow(missing_docs,missing_debug_implementations)]
//! Stub, replaced at merge.
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};
pub trait SvdOps: Backend {}
impl SvdOps for burn_flex::Flex {}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention { #[default] Reach, Floor }
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Error;
pub struct SpectrumRank { pub rank: usize, pub nuclear_norm: f64, pub spectral_norm: f64, pub values: Vec<f64> }
pub fn spectrum_rank<B: SvdOps>(_a: Tensor<B, 2>, _share: f64, _c: Convention) -> Result<SpectrumRank, Error> { Err(Error) }
