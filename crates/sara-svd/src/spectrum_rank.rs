use burn::tensor::Tensor;

use crate::nuclear_norm::bounds;
use crate::ops::{Engine, enter, entries};
use crate::prepare::Prepared;
use crate::rank_rule::{Convention, SpectrumRank, check_share, count_below};
use crate::subspace::subspace;
use crate::svd::{full, host_spectrum, on_host};
use crate::{Algorithm, Error, SvdOps, Way};

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
        Rule::Auto => on_host(&a, Way::Auto),
        Rule::Spectrum => true,
        // Not on a device that has no such numbers.
        Rule::Interval => on_host(&a, Way::Jacobi),
    };
    if !by_values && m.min(n) > 0 {
        let prepared = Prepared::new(a.clone())?;
        if let Some(decided) = by_interval(&prepared, share, convention)? {
            return Ok(decided);
        }
    }
    if !on_host(&a, Way::Auto) && m.min(n) > 0 {
        match full(a.clone(), Way::Auto) {
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
