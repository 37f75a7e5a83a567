//! Leading singular values and vectors from a random subspace.

use burn::tensor::Tensor;

use crate::ops::{Engine, enter, entries, product, tensor};
use crate::orthonormalize::{near_orthonormal, orthonormalize};
use crate::prepare::{Prepared, epsilon};
use crate::rows::fix_signs;
use crate::subspace::{Top, subspace};
use crate::svd::{counted, leading_part, leading_part_of_flat, on_host, outside};
use crate::{Algorithm, Error, Report, Svd, SvdOps, Way};

/// How far [`randomized_svd`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accuracy {
    /// As many passes over the matrix as it takes for every value to be good to 1e-4 of itself, or to the
    /// rounding errors of the largest.
    #[default]
    Full,
    /// A subspace of exactly `k` dimensions and this number of power iterations, which is what
    /// `torch.svd_lowrank(q=k, niter=n)` computes. On slowly falling spectra, as those of pretrained
    /// weights, two iterations leave the last values a tenth too small.
    Fast {
        /// Power iterations; each reads the matrix twice.
        iterations: usize,
    },
}

/// The `k` largest singular values of `a` and their vectors.
///
/// Where a subspace would be no cheaper, because `k` is more than a third of the shorter side, or does not
/// converge, the whole matrix is decomposed; the report of the result says which. The same seed gives the
/// same result on the same device.
///
/// # Shapes
/// - `a`: `[m, n]`
/// - returns `u [m, k]`, `s [k]`, `vt [k, n]`
///
/// # Errors
/// [`Error::Count`] unless `1 <= k <= min(m, n)`, and those of [`crate::svd()`].
pub fn randomized_svd<B: SvdOps>(
    a: Tensor<B, 2>,
    k: usize,
    accuracy: Accuracy,
    seed: u32,
) -> Result<Svd<B>, Error> {
    let [m, n] = a.dims();
    if k == 0 || k > m.min(n) {
        return Err(Error::Count { k, rows: m, columns: n });
    }
    let a = enter::<B, 2>(a);
    B::Engine::run(|| counted(|| leading(a, k, accuracy, seed))).map(outside)
}

/// The `k` largest, on the engine.
fn leading<E: Engine>(a: Tensor<E, 2>, k: usize, accuracy: Accuracy, seed: u32) -> Result<Svd<E>, Error> {
    let [m, n] = a.dims();
    if on_host(&a, Way::Jacobi) {
        // The device has no such numbers.
        return leading_part(a, k, Way::Auto);
    }
    let (prepared, squares) = Prepared::with_squares(a.clone())?;
    let wide = m < n;
    let tall = if wide { prepared.a.clone().transpose() } else { prepared.a.clone() };
    let top = match accuracy {
        Accuracy::Fast { iterations } => Some(fast(&tall, k, iterations, seed)?),
        Accuracy::Full => subspace(&tall, k, seed)?,
    };
    let Some(Top { u, s, v, values, passes, error_bound, .. }) = top else {
        return leading_part(a, k, Way::Auto);
    };
    let error_bound = energy_bound(&tall, squares, &values).min(error_bound);
    let (u, v) = if wide { fix_signs(v, u) } else { fix_signs(u, v) };
    let s = prepared.unscale_values(s)?;
    let report = Report {
        algorithm: Algorithm::Randomized,
        place: E::place(),
        precision: prepared.precision(),
        iterations: passes,
        bytes_read: 0,
        error_bound: prepared.unscale_bound(error_bound, &s)?,
    };
    Ok(Svd { u: prepared.restore(u).transpose(), s, vt: prepared.restore(v), report })
}

/// Power iterations on a random subspace of `k` dimensions, for `a [m, n]` with `m >= n >= k`.
fn fast<E: Engine>(a: &Tensor<E, 2>, k: usize, iterations: usize, seed: u32) -> Result<Top<E>, Error> {
    let [_, n] = a.dims();
    let at = a.clone().transpose();
    let start = tensor(E::sketch([k, n], seed, a.dtype(), &a.device()));
    let mut images = product(start, at.clone()); // [k, m]
    for _ in 0..iterations {
        let other = product(near_orthonormal(images)?, a.clone()); // [k, n]
        images = product(near_orthonormal(other)?, at.clone());
    }
    let q = orthonormalize(images)?;
    let core = leading_part_of_flat(product(q.clone(), a.clone()), k)?;
    let u = product(core.u, q);
    let values = entries(core.s.clone())?;
    let errors = vec![f64::INFINITY; k];
    Ok(Top { u, s: core.s, v: core.v, values, errors, passes: iterations, error_bound: f64::INFINITY })
}

/// Bound of the errors of the values `s` of a projection of `a`, whose squares have the sum `all`, from the squares that
/// it leaves out.
fn energy_bound<E: Engine>(a: &Tensor<E, 2>, all: f64, s: &[f64]) -> f64 {
    let rounding = a.dims()[0] as f64 * epsilon(a);
    let rest = (all * (1.0 + rounding) - s.iter().map(|x| x * x).sum::<f64>()).max(0.0);
    // Of the values, the smallest may be off the most.
    let last = s[s.len() - 1];
    (last * last + rest).sqrt() - last + rounding * s[0]
}
