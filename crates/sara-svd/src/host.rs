//! The same functions on plain slices: the CPU path, and the reference for every other.
//!
//! Everything is computed in f64 and returned in f64, whatever the type of the input.
//!
//! ```
//! use sara_svd::{Convention, host};
//!
//! let a = [3.0_f32, 0.0, 0.0, 0.0, 4.0, 0.0]; // 2 x 3, row by row
//! let values = host::singular_values(&a, 2, 3)?;
//! assert_eq!(values, [4.0, 3.0]);
//! assert_eq!(host::rank_of(&values, 0.5, Convention::Reach)?, 1);
//! # Ok::<(), sara_svd::Error>(())
//! ```

mod band;
pub(crate) mod blocks;
mod product;
mod scaled;
mod solve;
pub(crate) mod symmetric;
mod tridiagonal;
mod vectors;

use faer::MatRef;
use half::{bf16, f16};

use crate::error::Error;
pub use crate::rank_rule::rank_of;
use crate::rank_rule::{Convention, SpectrumRank, check_share};

pub(crate) use scaled::{Scaled, exponent, times_power_of_two};
pub(crate) use solve::{Solver, Triplets, row_major};

/// How far below the largest modulus of a column one still counts as the largest, relative: more than what rounding
/// makes of entries that are equal, on a device and here, and the same rule on both.
pub(crate) const TIE: f64 = 1e-4;

/// A thin decomposition `a = u diag(s) vt` in f64, row by row, with `k = min(m, n)`.
///
/// The columns of `u` and the rows of `vt` are orthonormal for every input, whatever its rank, and the entry
/// of largest modulus in each column of `u` is positive.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// `[m, k]`
    pub u: Vec<f64>,
    /// `[k]`, descending
    pub s: Vec<f64>,
    /// `[k, n]`
    pub vt: Vec<f64>,
}

/// An element type that the host path reads: `f32`, `f64`, `f16` and `bf16`.
pub trait Sample: Copy + Into<f64> {
    /// Significant bits, the leading one counted.
    const PRECISION: u32;
}

impl Sample for f32 {
    const PRECISION: u32 = Self::MANTISSA_DIGITS;
}

impl Sample for f64 {
    const PRECISION: u32 = Self::MANTISSA_DIGITS;
}

impl Sample for f16 {
    const PRECISION: u32 = Self::MANTISSA_DIGITS;
}

impl Sample for bf16 {
    const PRECISION: u32 = Self::MANTISSA_DIGITS;
}

/// Decomposes the `m x n` matrix `data`, given row by row.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Overflow`] (f64 only), [`Error::NotConverged`].
pub fn svd<T: Sample>(data: &[T], m: usize, n: usize) -> Result<Factors, Error> {
    let (Triplets { u, s, v }, _) = scale(data, m, n)?.svd(m.min(n))?;
    let rows = |a: MatRef<'_, f64>| row_major(a, |x| x);
    Ok(Factors { u: rows(u.as_ref()), s, vt: rows(v.transpose()) })
}

/// Singular values of the `m x n` matrix `data`, given row by row; `min(m, n)` of them, descending.
///
/// # Errors
/// As [`svd`].
pub fn singular_values<T: Sample>(data: &[T], m: usize, n: usize) -> Result<Vec<f64>, Error> {
    Ok(scale(data, m, n)?.singular_values()?.0)
}

/// Applies the rank rule to the `m x n` matrix `data`, given row by row.
///
/// # Errors
/// As [`svd`], and [`Error::Share`] where `share` is not between 0 and 1.
pub fn spectrum_rank<T: Sample>(
    data: &[T],
    m: usize,
    n: usize,
    share: f64,
    convention: Convention,
) -> Result<SpectrumRank, Error> {
    check_share(share)?;
    let (values, solver) = scale(data, m, n)?.singular_values()?;
    SpectrumRank::from_values(values, share, convention, solver.algorithm())
}

fn scale<T: Sample>(data: &[T], m: usize, n: usize) -> Result<Scaled, Error> {
    Scaled::new(data.iter().map(|&x| x.into()).collect(), m, n, T::PRECISION)
}
