//! Block Krylov: a space that grows by `a^T a` times what was new in it.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;

use super::{Ritz, Top};
use crate::Error;
use crate::ops::{Engine, product, tensor};
use crate::orthonormalize::{orthonormal_to, orthonormalize};

/// Dimensions that one step adds are half of `k`, within these: few make a good basis, many a fast product.
const STEPS: RangeInclusive<usize> = 8..=16;
/// Dimensions after which the values are looked at first, for each of the `k`.
const FIRST: usize = 5;
/// The error falls about as this power of the dimensions, whatever the spectrum and the size (measured: 15 to 20).
const DECAY: f64 = 18.0;

/// The `k` largest values of `a [m, n]`, `m >= n`, and their vectors, where some of the first `l` are wanted roughly;
/// `None` where they do not come out.
///
/// Now and then the best vectors in the space are taken, and from how far off they are follows how many dimensions
/// are missing.
pub(super) fn krylov<E: Engine>(
    a: &Tensor<E, 2>,
    k: usize,
    l: usize,
    seed: u32,
) -> Result<Option<Top<E>>, Error> {
    let [m, n] = a.dims();
    let step = (k / 2).clamp(*STEPS.start(), *STEPS.end());
    let at = a.clone().transpose();
    let start = tensor(E::sketch([step, m], seed, a.dtype(), &a.device()));
    let mut basis = orthonormalize(product(start, a.clone()))?; // [dimensions, n]
    let mut image = product(basis.clone(), at.clone());
    let mut images = image.clone(); // [dimensions, m]
    let mut due = (FIRST * k).max(l + 2 * step).min(n * 2 / 3);
    for passes in 2.. {
        let have = basis.dims()[0];
        let dimensions = n.min(have + step);
        let next = product(image, a.clone()).slice([0..dimensions - have, 0..n]);
        let new = orthonormal_to(&basis, next)?;
        image = product(new.clone(), at.clone());
        basis = Tensor::cat(vec![basis, new], 0);
        images = Tensor::cat(vec![images, image.clone()], 0);
        if dimensions < due.min(n) {
            continue;
        }
        // The last of the `l` have not all come out: one further up bounds what is outside.
        let ritz = Ritz::new(a, basis.clone(), images.clone(), k.midpoint(l))?;
        let missing = ritz.missing(a, k);
        if missing <= 1.0 {
            return Ok(Some(ritz.top(a, k, passes)?));
        }
        if dimensions == n {
            break;
        }
        let wanted = (dimensions as f64 * missing.powf(1.0 / DECAY)) as usize;
        due = wanted.max(dimensions + step);
    }
    Ok(None)
}
