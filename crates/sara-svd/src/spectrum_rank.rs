use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::ops::{enter, scaled};
use crate::{Error, SvdOps};

/// How a share of the sum of the singular values becomes a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// The smallest `k` whose first `k` singular values sum to at least the share.
    #[default]
    Reach,
    /// The number of partial sums below the share: one less than [`Convention::Reach`] wherever that is more
    /// than one, as the unofficial code of SARA counts.
    Floor,
}

/// The rank that a share of the sum of the singular values asks for, and the spectrum it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct SpectrumRank {
    /// The rank: between 1 and `min(m, n)`, or 0 where the matrix has no rows or no columns.
    pub rank: usize,
    /// Sum of the singular values.
    pub nuclear_norm: f64,
    /// Largest singular value.
    pub spectral_norm: f64,
    /// `[min(m, n)]`, all singular values, descending.
    pub values: Vec<f64>,
}

impl SpectrumRank {
    /// Checks the share before the singular values are paid for.
    pub(crate) fn decide(
        share: f64,
        convention: Convention,
        values: impl FnOnce() -> Result<Vec<f64>, Error>,
    ) -> Result<Self, Error> {
        check_share(share)?;
        let values = values()?;
        Ok(Self {
            rank: rank_of(&values, share, convention)?,
            nuclear_norm: values.iter().sum(),
            spectral_norm: values.first().copied().unwrap_or(0.0),
            values,
        })
    }
}

/// Chooses a rank for `a`: how many singular values make up `share` of their sum.
///
/// The decision is made on the singular values in f64, also where `a` is stored with fewer digits.
///
/// # Shapes
/// - `a`: `[m, n]`
///
/// # Errors
/// [`Error::Share`] where `share` is not between 0 and 1, [`Error::NonFinite`], [`Error::NotConverged`],
/// [`Error::Read`], [`Error::Overflow`] (f64 only).
pub fn spectrum_rank<B: SvdOps>(
    a: Tensor<B, 2>,
    share: f64,
    convention: Convention,
) -> Result<SpectrumRank, Error> {
    SpectrumRank::decide(share, convention, || scaled(enter::<B, 2>(a))?.singular_values())
}

/// Applies the rank rule to a list of descending singular values.
///
/// A share of 0, and a matrix of zeros, give 1; an empty list gives 0.
///
/// # Errors
/// [`Error::Share`] where `share` is not between 0 and 1, [`Error::Spectrum`] where a value is negative, not
/// finite or larger than the one before it, [`Error::Overflow`] where their sum is not finite.
pub fn rank_of(values: &[f64], share: f64, convention: Convention) -> Result<usize, Error> {
    check_share(share)?;
    let mut previous = f64::MAX;
    for (index, &value) in values.iter().enumerate() {
        if !(0.0..=previous).contains(&value) {
            return Err(Error::Spectrum { index, value });
        }
        previous = value;
    }
    let total: f64 = values.iter().sum();
    if !total.is_finite() {
        return Err(Error::Overflow { dtype: "f64" });
    }
    // The last partial sum is `total` to the last bit, since both add in the same order.
    let partial_sums = values.iter().scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    let below = partial_sums.take_while(|&sum| sum < share * total).count();
    let rank = match convention {
        Convention::Reach => below + 1,
        Convention::Floor => below.max(1),
    };
    Ok(rank.min(values.len()))
}

fn check_share(share: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&share) { Ok(()) } else { Err(Error::Share { share }) }
}
