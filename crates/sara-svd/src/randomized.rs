//! Leading singular values and vectors from a random subspace.

use burn::tensor::Tensor;

use crate::jacobi::{fix_signs, row_norms};
use crate::ops::{Engine, enter, entries, primitive, product, tensor};
use crate::orthonormalize::orthonormalize;
use crate::prepare::{Prepared, epsilon};
use crate::svd::{counted, full, on_host, outside};
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
/// Dimensions beyond `k` are half of it, and at least these: without them the last values converge slowly.
const LEAST_OVERSAMPLING: usize = 8;
/// Ratio that a filter may put between the directions it keeps: enough to get on, and few enough digits lost
/// that the directions can be made orthogonal again.
const AMPLIFICATION: f64 = 1e4;
/// Longest and shortest filter.
const DEGREES: std::ops::RangeInclusive<usize> = 2..=16;
/// Passes after which the whole matrix is decomposed instead.
const PASS_LIMIT: usize = 12;

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
        return Ok(full(a, Method::Auto)?.truncate(k));
    }
    let prepared = Prepared::new(a.clone())?;
    let wide = m < n;
    let tall = if wide { prepared.a.clone().transpose() } else { prepared.a.clone() };
    let top = match accuracy {
        Accuracy::Fast { iterations } => Some(fast(&tall, k, iterations, seed)?),
        Accuracy::Full => subspace(&tall, k, seed)?,
    };
    let Some(Top { u, s, v, passes, error_bound, .. }) = top else {
        return Ok(full(a, Method::Auto)?.truncate(k));
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

/// Filtered subspace iteration for `a [m, n]` with `m >= n`; `None` where it is no way to `k` values.
///
/// Each pass projects the matrix onto the subspace, which gives the best vectors in it, and then damps what
/// lies outside by a Chebyshev polynomial of `a^T a` that is small below the smallest value of the subspace.
pub(crate) fn subspace<E: Engine>(a: &Tensor<E, 2>, k: usize, seed: u32) -> Result<Option<Top<E>>, Error> {
    let [m, n] = a.dims();
    let l = k + (k / 2).max(LEAST_OVERSAMPLING);
    if 2 * l > n {
        return Ok(None);
    }
    let at = a.clone().transpose();
    let start = tensor(E::sketch([l, m], seed, a.dtype(), &a.device()));
    let mut v = orthonormalize(product(start, a.clone()))?; // [l, n]
    for pass in 1..=PASS_LIMIT {
        // a v = u s, and s is what the values are taken from.
        let core = full(product(v.clone(), at.clone()), Method::Auto)?;
        let (u, s) = (core.vt, core.s); // [l, m], [l]
        v = product(core.u.transpose(), v);
        let back = product(u.clone(), a.clone()); // a^T u, [l, n]
        let column = s.clone().unsqueeze_dim::<2>(1);
        let residual = back.clone() - v.clone() * column.clone();
        let known = entries(Tensor::cat(vec![s.clone(), row_norms(&residual)], 0))?;
        let (values, residuals) = known.split_at(l);
        let noise = (m as f64).sqrt() * 4.0 * epsilon(a) * values[0];
        let errors = ritz_errors(&values[..k], &residuals[..k], values[l - 1], noise);
        if values.iter().zip(&errors).all(|(value, &error)| error <= (RELATIVE * value).max(noise)) {
            let by_residual = residuals[..k].iter().map(|r| r * r).sum::<f64>().sqrt() + noise;
            let s = s.narrow(0, 0, k);
            let error_bound = by_residual.min(energy_bound(a, &s)?);
            let (u, v) = (u.slice([0..k, 0..m]), v.slice([0..k, 0..n]));
            let rounding = noise / 8.0;
            let errors = errors.iter().map(|error| 2.0 * error + rounding).collect();
            return Ok(Some(Top {
                u,
                s,
                v,
                values: values[..k].to_vec(),
                errors,
                passes: pass,
                error_bound,
            }));
        }
        v = orthonormalize(filter(a, v, back * column, values[0], values[l - 1]))?;
    }
    Ok(None)
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

/// The Chebyshev polynomial of `a^T a` that is at most one below `end^2`, on the rows `v`; `hv = v a^T a`.
fn filter<E: Engine>(
    a: &Tensor<E, 2>,
    v: Tensor<E, 2>,
    hv: Tensor<E, 2>,
    first: f64,
    end: f64,
) -> Tensor<E, 2> {
    let at = a.clone().transpose();
    let half = (end * end / 2.0).max(f64::from(f32::MIN_POSITIVE));
    let top = first * first / half - 1.0;
    let degree = ((AMPLIFICATION.acosh() / top.max(1.0 + 1e-3).acosh()) as usize)
        .clamp(*DEGREES.start(), *DEGREES.end());
    // Divided by its value at the largest singular value all along, so that nothing overflows.
    let start = 1.0 / top.max(1.0);
    let mut ratio = start;
    let mut before = v.clone();
    let mut y = (hv - v * half) * (start / half);
    for _ in 1..degree {
        let next = 1.0 / (2.0 / start - ratio);
        let hy = product(product(y.clone(), at.clone()), a.clone());
        let after = (hy - y.clone() * half) * (2.0 * next / half) - before * (ratio * next);
        (before, y, ratio) = (y, after, next);
    }
    y
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
