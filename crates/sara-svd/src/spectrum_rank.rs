use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::nuclear_norm::bounds;
use crate::ops::{Engine, enter, entries};
use crate::prepare::Prepared;
use crate::subspace::subspace;
use crate::svd::{full, host_spectrum, on_host};
use crate::{Algorithm, Error, Method, SvdOps};

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
    fn rank(self, below: usize, limit: usize) -> usize {
        let rank = match self {
            Self::Reach => below + 1,
            Self::Floor => below.max(1),
        };
        rank.min(limit)
    }
}

/// How the rank rule gets at the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rule {
    /// [`Rule::Spectrum`] on the host, [`Rule::Interval`] on a device.
    #[default]
    Auto,
    /// From all singular values.
    Spectrum,
    /// From bounds of the nuclear norm and the leading singular values, which takes products alone; from all
    /// singular values only where the bounds leave more than one rank, and from those in f64 on the host
    /// where f32 leaves more than one too.
    Interval,
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

/// Chooses a rank for `a`: how many singular values make up `share` of their sum.
///
/// On the host the decision is made on the singular values in f64, also where `a` is stored with fewer digits.
/// On a device it is made on bounds, and the rank is the same.
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
    spectrum_rank_by(a, share, convention, Rule::Auto)
}

/// [`spectrum_rank`] by a rule of one's choice.
///
/// # Errors
/// As [`spectrum_rank`].
pub fn spectrum_rank_by<B: SvdOps>(
    a: Tensor<B, 2>,
    share: f64,
    convention: Convention,
    rule: Rule,
) -> Result<SpectrumRank, Error> {
    check_share(share)?;
    let a = enter::<B, 2>(a);
    B::Engine::run(|| decide(a, share, convention, rule))
}

fn decide<E: Engine>(
    a: Tensor<E, 2>,
    share: f64,
    convention: Convention,
    rule: Rule,
) -> Result<SpectrumRank, Error> {
    let [m, n] = a.dims();
    let by_values = match rule {
        Rule::Auto => on_host(&a, Method::Auto),
        Rule::Spectrum => true,
        // Not on a device that has no such numbers.
        Rule::Interval => on_host(&a, Method::Jacobi),
    };
    if !by_values && m.min(n) > 0 {
        let prepared = Prepared::new(a.clone())?;
        if let Some(decided) = by_interval(&prepared, share, convention)? {
            return Ok(decided);
        }
    }
    if !on_host(&a, Method::Auto) && m.min(n) > 0 {
        match full(a.clone(), Method::Auto) {
            Ok(full) => {
                let values = entries(full.s)?;
                let (sum, error) = (values.iter().sum::<f64>(), full.report.error_bound);
                let slack = values.len() as f64 * error;
                let errors = vec![error; values.len()];
                if count_below(&values, &errors, share * (sum - slack), share * (sum + slack)).is_some() {
                    return SpectrumRank::from_values(values, share, convention, full.report.algorithm);
                }
            }
            // The rule needs no values in the type of the matrix.
            Err(Error::Overflow { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // What f32 cannot tell apart, f64 on the host can.
    let (values, solver) = host_spectrum(a)?;
    SpectrumRank::from_values(values, share, convention, solver.algorithm())
}

/// Values computed first, as a part of those that an even spectrum would need.
const FIRST_GUESS: f64 = 0.35;
/// Values added to what the rest of the sum asks for.
const SPARE: usize = 4;

/// The rank, where the bounds leave only one.
fn by_interval<E: Engine>(
    a: &Prepared<E>,
    share: f64,
    convention: Convention,
) -> Result<Option<SpectrumRank>, Error> {
    let [m, n] = a.a.dims();
    let tall = if m < n { a.a.clone().transpose() } else { a.a.clone() };
    let limit = m.min(n);
    let (lower, upper) = bounds(&tall, a.size)?;
    let (low, high) = (share * lower, share * upper);
    let mut k = ((share * limit as f64 * FIRST_GUESS) as usize + SPARE).min(limit);
    while let Some(top) = subspace(&tall, k, SEED)? {
        let decided = count_below(&top.values, &top.errors, low, high);
        if let Some(below) = decided {
            let values: Vec<f64> = top.values.iter().map(|&x| a.unscale(x)).collect();
            return Ok(Some(SpectrumRank {
                rank: convention.rank(below, limit),
                nuclear_norm: a.unscale(f64::midpoint(lower, upper)),
                spectral_norm: values[0],
                values,
                algorithm: Algorithm::Interval,
            }));
        }
        let sum: f64 = top.values.iter().sum();
        let last = top.values[k - 1];
        if sum >= low || last <= 0.0 {
            // The values reach far enough and still do not decide.
            return Ok(None);
        }
        k = (k + ((high - sum) / last * 1.1) as usize + SPARE).min(limit);
    }
    Ok(None)
}

const SEED: u32 = 0;

/// How many partial sums are below the share, if all bounds agree on it.
fn count_below(values: &[f64], errors: &[f64], low: f64, high: f64) -> Option<usize> {
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
