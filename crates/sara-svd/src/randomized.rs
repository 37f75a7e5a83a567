//! Leading singular values and vectors from a random subspace.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;

use crate::jacobi::{fix_signs, row_norms};
use crate::ops::{Engine, enter, entries, primitive, product, tensor};
use crate::orthonormalize::{orthonormal_to, orthonormalize};
use crate::prepare::{Prepared, epsilon};
use crate::svd::{counted, full, leading_part, on_host, outside};
use crate::{Algorithm, Error, Method, Report, Svd, SvdOps};

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

/// Relative error of a value at which [`Accuracy::Full`] is satisfied.
const RELATIVE: f64 = 1e-4;
/// Dimensions beyond `k` that must have come out roughly are half of it, and at least these.
const LEAST_BESIDE: usize = 8;
/// Dimensions that one step adds are half of `k`, within these: few make a good basis, many a fast product.
const STEPS: RangeInclusive<usize> = 8..=16;
/// Dimensions after which the values are looked at first, for each of the `k`.
const FIRST: usize = 4;

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
    if on_host(&a, Method::Jacobi) {
        // The device has no such numbers.
        return leading_part(a, k, Method::Auto);
    }
    let prepared = Prepared::new(a.clone())?;
    let wide = m < n;
    let tall = if wide { prepared.a.clone().transpose() } else { prepared.a.clone() };
    let top = match accuracy {
        Accuracy::Fast { iterations } => Some(fast(&tall, k, iterations, seed)?),
        Accuracy::Full => subspace(&tall, k, seed)?,
    };
    let Some(Top { u, s, v, passes, error_bound, .. }) = top else {
        return leading_part(a, k, Method::Auto);
    };
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

/// The leading triplets of a tall matrix, scaled as it is; vectors are rows.
pub(crate) struct Top<E: Engine> {
    /// `[k, m]`
    pub(crate) u: Tensor<E, 2>,
    /// `[k]`
    pub(crate) s: Tensor<E, 1>,
    /// `[k, n]`
    pub(crate) v: Tensor<E, 2>,
    /// The same on the host.
    pub(crate) values: Vec<f64>,
    /// For each value, how much it may be too small or wrong by rounding.
    pub(crate) errors: Vec<f64>,
    pub(crate) passes: usize,
    pub(crate) error_bound: f64,
}

/// Power iterations on a random subspace of `k` dimensions, for `a [m, n]` with `m >= n >= k`.
fn fast<E: Engine>(a: &Tensor<E, 2>, k: usize, iterations: usize, seed: u32) -> Result<Top<E>, Error> {
    let [_, n] = a.dims();
    let at = a.clone().transpose();
    let start = tensor(E::sketch([k, n], seed, a.dtype(), &a.device()));
    let mut q = orthonormalize(product(start, at.clone()))?; // [k, m]
    for _ in 0..iterations {
        let other = orthonormalize(product(q, a.clone()))?; // [k, n]
        q = orthonormalize(product(other, at.clone()))?;
    }
    let core = full(product(q.clone(), a.clone()), Method::Auto)?;
    let u = product(core.u.transpose(), q);
    let error_bound = energy_bound(a, &core.s)?;
    let values = entries(core.s.clone())?;
    let errors = vec![error_bound; k];
    Ok(Top { u, s: core.s, v: core.vt, values, errors, passes: iterations, error_bound })
}

/// The `k` largest values of `a [m, n]`, `m >= n`, and their vectors, from a block Krylov space of `a^T a`;
/// `None` where that is no way to them.
///
/// A step applies `a^T a` to the rows that the last one added, and keeps what is new. Now and then the best vectors
/// in the space are taken, and from how far off they are it is reckoned how many dimensions are missing.
pub(crate) fn subspace<E: Engine>(a: &Tensor<E, 2>, k: usize, seed: u32) -> Result<Option<Top<E>>, Error> {
    let [m, n] = a.dims();
    let beside = k + (k / 2).max(LEAST_BESIDE);
    if 2 * beside > n {
        return Ok(None);
    }
    let step = (k / 2).clamp(*STEPS.start(), *STEPS.end());
    let at = a.clone().transpose();
    let start = tensor(E::sketch([step, m], seed, a.dtype(), &a.device()));
    let mut basis = orthonormalize(product(start, a.clone()))?; // [l, n]
    let mut image = product(basis.clone(), at.clone());
    let mut images = image.clone(); // [l, m]
    let mut due = (FIRST * k).max(beside + 2 * step).min(n * 2 / 3);
    let mut before = (beside as f64, (1.0 / RELATIVE).ln());
    for passes in 2.. {
        let have = basis.dims()[0];
        let l = n.min(have + step);
        let next = product(image, a.clone()).slice([0..l - have, 0..n]);
        let new = orthonormal_to(&basis, next)?;
        image = product(new.clone(), at.clone());
        basis = Tensor::cat(vec![basis, new], 0);
        images = Tensor::cat(vec![images, image.clone()], 0);
        if l < due.min(n) {
            continue;
        }
        let (top, missing) = best(a, &basis, images.clone(), k, beside)?;
        if missing <= 1.0 {
            return Ok(Some(Top { passes, ..top }));
        }
        if l == n {
            break;
        }
        // The error falls geometrically, and faster towards the end.
        let now = (l as f64, missing.ln());
        let slope = ((before.1 - now.1) / (now.0 - before.0)).max(1.0 / n as f64);
        due = l + ((now.1 / slope) as usize).clamp(step, l);
        before = now;
    }
    Ok(None)
}

/// The best vectors for the `k` largest values in the space of the rows `basis [l, n]`, whose products with `a^T` are
/// `images [l, m]`, and the largest error in units of what is asked for.
fn best<E: Engine>(
    a: &Tensor<E, 2>,
    basis: &Tensor<E, 2>,
    images: Tensor<E, 2>,
    k: usize,
    beside: usize,
) -> Result<(Top<E>, f64), Error> {
    let m = a.dims()[0];
    // a v = u s, and s is what the values are taken from.
    let core = leading_part(images, beside, Method::Auto)?;
    // The values beside have not all come out: one further up bounds what is outside.
    let end = entries(core.s.clone().narrow(0, k.midpoint(beside) - 1, 1))?[0];
    let core = core.truncate(k);
    let (u, s) = (core.vt, core.s); // [k, m], [k]
    let v = product(core.u.transpose(), basis.clone()); // [k, n]
    let back = product(u.clone(), a.clone()); // a^T u
    let residual = back - v.clone() * s.clone().unsqueeze_dim::<2>(1);
    let known = entries(Tensor::cat(vec![s.clone(), row_norms(&residual)], 0))?;
    let (values, residuals) = known.split_at(k);
    let noise = (m as f64).sqrt() * 4.0 * epsilon(a) * values[0];
    let errors = ritz_errors(values, residuals, end, noise);
    let missing = values.iter().zip(&errors).map(|(value, error)| error / (RELATIVE * value).max(noise));
    let missing = missing.fold(0.0, f64::max);
    let by_residual = residuals.iter().map(|r| r * r).sum::<f64>().sqrt() + noise;
    let error_bound = by_residual.min(energy_bound(a, &s)?);
    let rounding = noise / 8.0;
    let errors = errors.iter().map(|error| 2.0 * error + rounding).collect();
    Ok((Top { u, s, v, values: values.to_vec(), errors, passes: 0, error_bound }, missing))
}

/// How much the values of the subspace are too small.
///
/// With the residual `r` of a value `t`, and nothing but smaller values than `end` outside the subspace, the
/// eigenvalue `t^2` is too small by at most `(t r)^2 / (t^2 - end^2)`. A residual of noise says nothing more.
fn ritz_errors(values: &[f64], residuals: &[f64], end: f64, noise: f64) -> Vec<f64> {
    let error = |(&t, &r): (&f64, &f64)| {
        if r <= noise {
            0.0
        } else if t > end {
            (t * r * r / (t * t - end * end)).min(r)
        } else {
            r
        }
    };
    values.iter().zip(residuals).map(error).collect()
}

/// Bound of the errors of the values `s` of a projection of `a`, from the squares that it leaves out.
fn energy_bound<E: Engine>(a: &Tensor<E, 2>, s: &Tensor<E, 1>) -> Result<f64, Error> {
    let k = s.dims()[0];
    let (all, s) = (E::squared_norm(primitive(a.clone()))?, entries(s.clone())?);
    let rounding = a.dims()[0] as f64 * epsilon(a);
    let rest = (all * (1.0 + rounding) - s.iter().map(|x| x * x).sum::<f64>()).max(0.0);
    // Of the values, the smallest may be off the most.
    let last = s[k - 1];
    Ok((last * last + rest).sqrt() - last + rounding * s[0])
}
