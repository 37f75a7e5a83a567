//! Leading singular values and vectors to full accuracy, from a random subspace that grows or turns towards them.

mod filtered;
mod krylov;

use burn::tensor::Tensor;

use crate::ops::{Engine, entries, product};
use crate::prepare::epsilon;
use crate::rows::row_norms;
use crate::svd::leading_part_of_flat;
use crate::{Error, Place};

/// Relative error of a value that is good enough.
const RELATIVE: f64 = 1e-4;
/// Dimensions beyond `k` are half of it, and at least these: without them the last values converge slowly.
const LEAST_BESIDE: usize = 8;

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
    /// For each value, how much it may be too small or wrong by rounding; infinite where that is not known.
    pub(crate) errors: Vec<f64>,
    pub(crate) passes: usize,
    pub(crate) error_bound: f64,
}

/// The `k` largest values of `a [m, n]`, `m >= n`, and their vectors; `None` where a subspace is no way to them.
pub(crate) fn subspace<E: Engine>(a: &Tensor<E, 2>, k: usize, seed: u32) -> Result<Option<Top<E>>, Error> {
    let l = k + (k / 2).max(LEAST_BESIDE);
    if 2 * l > a.dims()[1] {
        return Ok(None);
    }
    match E::place() {
        // Fewest products.
        Place::Host => krylov::krylov(a, k, l, seed),
        // Fewest calls, and the smallest matrix to decompose.
        Place::Device => filtered::filtered(a, k, l, seed),
    }
}

/// The best triplets in a subspace; vectors are rows.
struct Ritz<E: Engine> {
    /// `[l, m]`
    u: Tensor<E, 2>,
    /// `[l]`
    s: Tensor<E, 1>,
    /// `[l, n]`
    v: Tensor<E, 2>,
    /// `a^T u` of those that are checked, `[checked, n]`.
    back: Tensor<E, 2>,
    /// `s` on the host.
    values: Vec<f64>,
    /// Norms of `a^T u - s v` of those that are checked; `a v - s u` is zero.
    residuals: Vec<f64>,
}

impl<E: Engine> Ritz<E> {
    /// The first `l` in the space of the orthonormal rows `basis`, whose products with `a^T` are `images`, the first
    /// `checked` of them with residuals.
    fn new(
        a: &Tensor<E, 2>,
        basis: Tensor<E, 2>,
        images: Tensor<E, 2>,
        l: usize,
        checked: usize,
    ) -> Result<Self, Error> {
        let core = leading_part_of_flat(images, l)?;
        let (u, s) = (core.v, core.s);
        let v = product(core.u, basis);
        let first = |x: Tensor<E, 2>| if checked < l { x.narrow(0, 0, checked) } else { x };
        let back = product(first(u.clone()), a.clone());
        let residual = back.clone() - first(v.clone() * s.clone().unsqueeze_dim::<2>(1));
        let mut values = entries(Tensor::cat(vec![s.clone(), row_norms(&residual)], 0))?;
        let residuals = values.split_off(l);
        Ok(Self { u, s, v, back, values, residuals })
    }

    /// See [`missing`].
    fn missing(&self, a: &Tensor<E, 2>, k: usize) -> f64 {
        missing(&self.values, &self.residuals, self.noise(a), k)
    }

    fn noise(&self, a: &Tensor<E, 2>) -> f64 {
        noise(a, self.values[0])
    }

    /// The first `k`, found in this number of passes.
    fn top(self, a: &Tensor<E, 2>, k: usize, passes: usize) -> Top<E> {
        let ([_, m], [_, n], noise) = (self.u.dims(), self.v.dims(), self.noise(a));
        let errors = errors(&self.values, &self.residuals, k);
        let errors = errors.iter().map(|error| 4.0 * error + noise / 8.0).collect();
        let error_bound = self.residuals[..k].iter().map(|r| r * r).sum::<f64>().sqrt() + noise;
        Top {
            u: self.u.slice([0..k, 0..m]),
            s: self.s.narrow(0, 0, k),
            v: self.v.slice([0..k, 0..n]),
            values: self.values[..k].to_vec(),
            errors,
            passes,
            error_bound,
        }
    }
}

/// What products in the type of `a`, whose largest value is `first`, cannot tell from zero.
fn noise<E: Engine>(a: &Tensor<E, 2>, first: f64) -> f64 {
    (a.dims()[0] as f64).sqrt() * 4.0 * epsilon(a) * first
}

/// How far the first `k` values are from good enough: by the largest error, in units of what is allowed.
///
/// What a residual of noise leaves open, more steps would not close.
fn missing(values: &[f64], residuals: &[f64], noise: f64, k: usize) -> f64 {
    let allowed = |value: f64| (RELATIVE * value).max(noise);
    let all = values.iter().zip(residuals).zip(errors(values, residuals, k));
    let open =
        |((&value, &r), error): ((&f64, &f64), f64)| if r <= noise { 0.0 } else { error / allowed(value) };
    all.map(open).fold(0.0, f64::max)
}

/// How much the first `k` values are too small.
///
/// With the residual `r` of a value `t`, and nothing but smaller values than the last one, `end`, outside of these
/// vectors, the eigenvalue `t^2` is too small by about `d = (t r)^2 / (t^2 - end^2)` at most, and `t` by `d / 2 t`; by more
/// where several values are close and lean on the same vector outside.
fn errors(values: &[f64], residuals: &[f64], k: usize) -> Vec<f64> {
    let end = values[values.len() - 1];
    let error =
        |(&t, &r): (&f64, &f64)| if t > end { (t * r * r / (2.0 * (t * t - end * end))).min(r) } else { r };
    values.iter().zip(residuals).take(k).map(error).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::host;

    /// Each backend takes one way; the tests from outside see the other only where there is a GPU.
    #[test]
    fn both_ways_lead_to_the_leading_values() {
        const K: usize = 12;
        for (m, n) in [(130, 130), (300, 140)] {
            // Full rank, and slowly falling values.
            let values: Vec<f32> =
                (0..m * n).map(|i| ((i * i % 1013) as f32 / 506.0 - 1.0) / (1 + i % n) as f32).collect();
            let expected = host::singular_values(&values, m, n).expect("it converges");
            let a = Tensor::<Flex, 2>::from_data(TensorData::new(values, [m, n]), &FlexDevice);
            for (name, way) in [
                ("krylov", krylov::krylov as fn(&Tensor<Flex, 2>, usize, usize, u32) -> _),
                ("filtered", filtered::filtered),
            ] {
                let top = way(&a, K, K + LEAST_BESIDE, 5).expect("it is finite");
                let top: Top<Flex> = top.unwrap_or_else(|| panic!("{name} finds them"));
                for ((found, error), expected) in top.values.iter().zip(&top.errors).zip(&expected) {
                    let off = (found - expected).abs();
                    assert!(
                        off <= RELATIVE * expected && off <= *error,
                        "{name}: {found}, not {expected}, {error}"
                    );
                }
                let s = top.s.clone().unsqueeze_dim::<2>(1);
                let off =
                    entries(product(top.v, a.clone().transpose()) - top.u * s).expect("it is on the host");
                assert!(off.iter().all(|x| x.abs() <= 1e-5 * expected[0]), "{name}: a v is not s u");
            }
        }
    }
}
