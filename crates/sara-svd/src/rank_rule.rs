//! From singular values, or bounds of them, to a rank: the rule alone, whatever computed them.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::report::Algorithm;

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

impl Convention {
    /// The rank, given how many partial sums are below the share, and the largest rank there is.
    pub(crate) fn rank(self, below: usize, limit: usize) -> usize {
        let rank = match self {
            Self::Reach => below + 1,
            Self::Floor => below.max(1),
        };
        rank.min(limit)
    }
}

/// The rank that a share of the sum of the singular values asks for, and what it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct SpectrumRank {
    /// The rank: between 1 and `min(m, n)`, or 0 where the matrix has no rows or no columns.
    pub rank: usize,
    /// Sum of the singular values; the middle of its bounds where the rule used those.
    pub nuclear_norm: f64,
    /// Largest singular value.
    pub spectral_norm: f64,
    /// The singular values that were computed, descending: all `min(m, n)`, or at least the first `rank`.
    pub values: Vec<f64>,
    /// What decided.
    pub algorithm: Algorithm,
}

impl SpectrumRank {
    pub(crate) fn from_values(
        values: Vec<f64>,
        share: f64,
        convention: Convention,
        algorithm: Algorithm,
    ) -> Result<Self, Error> {
        Ok(Self {
            rank: rank_of(&values, share, convention)?,
            nuclear_norm: values.iter().sum(),
            spectral_norm: values.first().copied().unwrap_or(0.0),
            values,
            algorithm,
        })
    }
}

/// How many partial sums are below the share, if all bounds agree on it.
pub(crate) fn count_below(values: &[f64], errors: &[f64], low: f64, high: f64) -> Option<usize> {
    let (mut sum, mut slack) = (0.0, 0.0);
    for (i, (value, error)) in values.iter().zip(errors).enumerate() {
        sum += value;
        slack += error;
        if sum - slack >= high {
            return Some(i);
        }
        if sum + slack >= low {
            return None;
        }
    }
    None
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
    Ok(convention.rank(below, values.len()))
}

/// Whether it is a fraction.
pub(crate) fn check_share(share: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&share) { Ok(()) } else { Err(Error::Share { share }) }
}
