//! Filtered subspace iteration: a space of few dimensions that turns towards the leading vectors.

use burn::tensor::Tensor;

use super::{Ritz, Top};
use crate::Error;
use crate::ops::{Engine, product, tensor};
use crate::orthonormalize::orthonormalize;

/// Ratio that a filter may put between the directions it keeps: enough to get on, and few enough digits lost
/// that the directions can be made orthogonal again.
const AMPLIFICATION: f64 = 1e4;
/// Longest and shortest filter.
const DEGREES: std::ops::RangeInclusive<usize> = 2..=16;
/// Passes after which the whole matrix is decomposed instead.
const PASS_LIMIT: usize = 12;

/// The `k` largest values of `a [m, n]`, `m >= n`, and their vectors, from a space of `l` dimensions; `None` where
/// they do not come out.
///
/// Each pass projects the matrix onto the space, which gives the best vectors in it, and then damps what lies
/// outside by a Chebyshev polynomial of `a^T a` that is small below the smallest value of the space.
pub(super) fn filtered<E: Engine>(
    a: &Tensor<E, 2>,
    k: usize,
    l: usize,
    seed: u32,
) -> Result<Option<Top<E>>, Error> {
    let m = a.dims()[0];
    let at = a.clone().transpose();
    let start = tensor(E::sketch([l, m], seed, a.dtype(), &a.device()));
    let mut v = orthonormalize(product(start, a.clone()))?; // [l, n]
    for pass in 1..=PASS_LIMIT {
        let images = product(v.clone(), at.clone());
        let ritz = Ritz::new(a, v, images, l, l)?;
        if ritz.missing(a, k) <= 1.0 {
            return Ok(Some(ritz.top(a, k, pass)));
        }
        let hv = ritz.back * ritz.s.unsqueeze_dim::<2>(1);
        v = orthonormalize(filter(a, ritz.v, hv, ritz.values[0], ritz.values[l - 1]))?;
    }
    Ok(None)
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
