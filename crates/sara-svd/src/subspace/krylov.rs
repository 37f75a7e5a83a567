//! Block Krylov: a space that grows by `a^T a` times what was new in it.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;
use faer::Mat;

use super::{Ritz, Top, missing, noise};
use crate::Error;
use crate::host::symmetric;
use crate::ops::{Engine, entries, matrix_data, product, tensor, there_and_back};
use crate::orthonormalize::{orthonormal_to, orthonormalize};

/// Dimensions that one step adds are half of `k`, within these: few make a good basis, many a fast product.
const STEPS: RangeInclusive<usize> = 8..=16;
/// Dimensions that the space is brought back to, for each of the `k`. With so many, and up to [`MOST`], it takes as many
/// steps as a space that keeps growing (simulated: one more of thirty).
const KEPT: usize = 2;
/// Dimensions up to which the space grows, for each of the `k`, and after which it is looked at first; it grows by at
/// least so many steps beyond those kept.
const MOST: usize = 4;
const MOST_STEPS: usize = 8;
/// A step divides the errors by at least this, once they fall.
const RATE: f64 = 2.5;

/// The `k` largest values of `a [m, n]`, `m >= n`, and their vectors, where some of the first `l` are wanted roughly;
/// `None` where they do not come out.
///
/// `a^T a` is nearly block tridiagonal on the basis. Now and then its values there are looked at, and from how far off
/// they are follows how many steps are missing; only when they seem good are they computed from the products. A space
/// that would grow too large for its steps is brought back to its leading vectors.
pub(super) fn krylov<E: Engine>(
    a: &Tensor<E, 2>,
    k: usize,
    l: usize,
    seed: u32,
) -> Result<Option<Top<E>>, Error> {
    let [m, n] = a.dims();
    // The last of the `l` have not all come out: one further up bounds what is outside.
    let l = k.midpoint(l);
    let step = (k / 2).clamp(*STEPS.start(), *STEPS.end());
    let kept = (KEPT * k).max(l + step);
    let most = (MOST * k).max(kept + MOST_STEPS * step);
    // The whole space, where it is not much larger, is the end.
    let mut most = if 2 * most > n { usize::MAX } else { most };
    let mut due = (MOST * k).max(l + 2 * step).min(n * 2 / 3);
    let start = tensor(E::sketch([step, m], seed, a.dtype(), &a.device()));
    let mut new = orthonormalize(product(start, a.clone()))?;
    let mut basis = new.clone(); // [dimensions, n]
    let mut images = Vec::new(); // [dimensions, m] together
    let mut projection = Projection::default();
    for passes in 1..=n.div_ceil(step) {
        let (image, next) = there_and_back(new, a.clone());
        projection.push(entries(product(image.clone(), image.clone().transpose()))?);
        images.push(image);
        let dimensions = basis.dims()[0];
        if dimensions == n {
            let ritz = Ritz::new(a, basis, Tensor::cat(images, 0), l, k)?;
            return Ok((ritz.missing(a, k) <= 1.0).then(|| ritz.top(a, k, passes)));
        }
        let rows = next.dims()[0].min(n - dimensions);
        new = orthonormal_to(&basis, next.clone().slice([0..rows, 0..n]))?;
        let mut coupling = entries(product(new.clone(), next.transpose()))?;
        if dimensions >= due {
            let look = projection.look(&coupling, a, l, kept);
            let mut missing = look.as_ref().map_or(0.0, |look| look.missing(k));
            if missing <= 1.0 {
                let all = Tensor::cat(images.clone(), 0);
                let leading = look.as_ref().map(|look| {
                    let vectors = look.vectors(a, l);
                    (product(vectors.clone(), basis.clone()), product(vectors, all.clone()))
                });
                // The whole space, should rounding have hidden small values from the look.
                for (basis, images) in leading.into_iter().chain([(basis.clone(), all)]) {
                    let ritz = Ritz::new(a, basis, images, l, k)?;
                    missing = ritz.missing(a, k);
                    if missing <= 1.0 {
                        return Ok(Some(ritz.top(a, k, passes)));
                    }
                }
                // A look that is wrong does not say what may be forgotten.
                most = usize::MAX;
            }
            let steps = (missing.ln() / RATE.ln()).ceil().clamp(1.0, n as f64) as usize;
            due = (dimensions + steps * step).min(most);
            if let Some(look) = look
                && dimensions + step > most
            {
                let vectors = look.vectors(a, kept);
                basis = product(vectors.clone(), basis);
                images = vec![product(vectors, Tensor::cat(images, 0))];
                coupling = projection.restart(&look, &coupling, kept);
                due = (kept + steps * step).min(most);
            }
        }
        projection.couple(coupling);
        basis = Tensor::cat(vec![basis, new.clone()], 0);
    }
    Ok(None)
}

/// `a^T a` on the basis: symmetric and block tridiagonal, after a restart with a first block of leading values.
#[derive(Default)]
struct Projection {
    /// Square blocks of the diagonal.
    diagonal: Vec<Vec<f64>>,
    /// The block below each of them but the last.
    below: Vec<Vec<f64>>,
    dimensions: usize,
}

impl Projection {
    /// Adds a square block to the diagonal.
    fn push(&mut self, block: Vec<f64>) {
        self.dimensions += block.len().isqrt();
        self.diagonal.push(block);
    }

    /// Adds the block below the last of the diagonal.
    fn couple(&mut self, block: Vec<f64>) {
        self.below.push(block);
    }

    /// The first `l` values on this basis, with the block `coupling` that would be next, and the first `kept` vectors;
    /// `None` where they do not come out.
    ///
    /// Rounding hides what is less than a unit in the last place of the square of the largest value, and so says
    /// nothing of values that are less than a hundredth of it.
    fn look<E: Engine>(&self, coupling: &[f64], a: &Tensor<E, 2>, l: usize, kept: usize) -> Option<Look> {
        let (squares, vectors) = symmetric::leading(self.lower(), kept.min(self.dimensions))?;
        let values: Vec<f64> = squares.iter().take(l).map(|x| x.max(0.0).sqrt()).collect();
        let noise = noise(a, values[0]);
        let residual = |(i, value): (usize, &f64)| {
            let norm = self.coupled(coupling, &vectors, i).map(|x| x * x).sum::<f64>().sqrt();
            if norm <= noise * values[0] { 0.0 } else { norm / value }
        };
        let residuals = values.iter().enumerate().map(residual).collect();
        Some(Look { values, residuals, noise, squares, vectors })
    }

    /// Column `i` of the block `coupling` that would be next, when the basis is turned to `vectors`.
    fn coupled(&self, coupling: &[f64], vectors: &Mat<f64>, i: usize) -> impl Iterator<Item = f64> {
        let last = self.diagonal.last().map_or(0, |block| block.len().isqrt());
        let vector = &vectors.col_as_slice(i)[self.dimensions - last..];
        coupling.chunks_exact(last).map(move |row| row.iter().zip(vector).map(|(x, y)| x * y).sum())
    }

    /// Turns to the first `kept` vectors of a look and forgets the rest; returns what the block `coupling` becomes.
    fn restart(&mut self, look: &Look, coupling: &[f64], kept: usize) -> Vec<f64> {
        let columns: Vec<Vec<f64>> =
            (0..kept).map(|i| self.coupled(coupling, &look.vectors, i).collect()).collect();
        *self = Self::default();
        let mut block = vec![0.0; kept * kept];
        block.iter_mut().step_by(kept + 1).zip(&look.squares).for_each(|(entry, &square)| *entry = square);
        self.push(block);
        let rows = columns.first().map_or(0, Vec::len);
        (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect()
    }

    /// The lower triangle.
    fn lower(&self) -> Mat<f64> {
        let mut lower = Mat::zeros(self.dimensions, self.dimensions);
        let mut start = 0;
        for (i, block) in self.diagonal.iter().enumerate() {
            let width = block.len().isqrt();
            let below = self.below.get(i).into_iter().flat_map(|below| below.chunks_exact(width));
            for (row, values) in block.chunks_exact(width).chain(below).enumerate() {
                for (column, &value) in values.iter().enumerate() {
                    lower[(start + row, start + column)] = value;
                }
            }
            start += width;
        }
        lower
    }
}

/// Values as far as the projection shows them.
struct Look {
    /// Descending.
    values: Vec<f64>,
    /// Norms of `a^T u - s v`.
    residuals: Vec<f64>,
    noise: f64,
    /// Eigenvalues, as many as vectors.
    squares: Vec<f64>,
    /// On the basis, as columns.
    vectors: Mat<f64>,
}

impl Look {
    /// See [`missing`].
    fn missing(&self, k: usize) -> f64 {
        missing(&self.values, &self.residuals, self.noise, k)
    }

    /// The first `count` vectors as rows, `[count, dimensions]`, of the element type and on the device of `like`.
    fn vectors<E: Engine>(&self, like: &Tensor<E, 2>, count: usize) -> Tensor<E, 2> {
        let rows = matrix_data(self.vectors.subcols(0, count).transpose(), like.dtype());
        Tensor::from_data(rows, (&like.device(), like.dtype()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::host;
    use crate::rows::off_identity;

    /// Values and residuals of a look are those of the products.
    #[test]
    fn a_look_shows_what_the_products_would() {
        const L: usize = 9;
        let (m, n, step) = (90, 70, 8);
        let values: Vec<f32> =
            (0..m * n).map(|i| ((i * i % 1013) as f32 / 506.0 - 1.0) / (1 + i % n) as f32).collect();
        let a = Tensor::<Flex, 2>::from_data(TensorData::new(values, [m, n]), &FlexDevice);
        let start = tensor(Flex::sketch([step, n], 3, a.dtype(), &FlexDevice));
        let mut new = orthonormalize(start).expect("it is on the host");
        let (mut basis, mut images, mut projection) = (new.clone(), Vec::new(), Projection::default());
        for blocks in 1.. {
            let (image, next) = there_and_back(new, a.clone());
            projection
                .push(entries(product(image.clone(), image.clone().transpose())).expect("it is on the host"));
            images.push(image);
            new = orthonormal_to(&basis, next.clone()).expect("it is on the host");
            let coupling = entries(product(new.clone(), next.transpose())).expect("it is on the host");
            if blocks == 3 {
                let look = projection.look(&coupling, &a, L, L).expect("it converges");
                let ritz = Ritz::new(&a, basis, Tensor::cat(images, 0), L, L).expect("it converges");
                let first = ritz.values[0];
                for i in 0..L {
                    let (found, expected) = (look.values[i], ritz.values[i]);
                    assert!((found - expected).abs() <= 1e-5 * first, "value {i}: {found}, not {expected}");
                    let (found, expected) = (look.residuals[i], ritz.residuals[i]);
                    assert!(
                        (found - expected).abs() <= 1e-4 * first,
                        "residual {i}: {found}, not {expected}"
                    );
                }
                assert!(
                    ritz.residuals[0] < 1e-3 * first && ritz.residuals[L - 1] > 1e-2 * first,
                    "{:?}",
                    ritz.residuals
                );
                return;
            }
            projection.couple(coupling);
            basis = Tensor::cat(vec![basis, new.clone()], 0);
        }
    }

    /// Where the space restarts once or more, and where rounding hides from a look all but the largest value.
    #[test]
    fn a_space_that_restarts_finds_the_leading_values() {
        const K: usize = 12;
        let (m, n) = (500, 400);
        let sketch: Tensor<Flex, 2> = tensor(Flex::sketch([m, n], 9, DType::F32, &FlexDevice));
        let outlier = Tensor::<Flex, 2>::ones([m, n], &FlexDevice) * 1e3;
        for (name, a, restarts) in [("random", sketch.clone(), true), ("outlier", sketch + outlier, false)] {
            let values: Vec<f32> = a.to_data().to_vec().expect("it is on the host");
            let expected = host::singular_values(&values, m, n).expect("it converges");
            let top = krylov(&a, K, K + 8, 5).expect("it is finite");
            let top = top.unwrap_or_else(|| panic!("{name}: they do not come out"));
            // Eleven steps of eight reach the size at which it restarts.
            assert!(!restarts || top.passes > 11, "{name}: no restart in {} steps", top.passes);
            let noise = noise(&a, expected[0]);
            for ((found, error), expected) in top.values.iter().zip(&top.errors).zip(&expected) {
                let off = (found - expected).abs();
                let allowed = (1e-4 * expected).max(noise);
                assert!(off <= allowed && off <= *error, "{name}: {found}, not {expected}, {error}");
            }
            for rows in [&top.u, &top.v] {
                let off = entries(off_identity(rows)).expect("it is on the host");
                assert!(off.iter().all(|x| x.abs() <= 1e-5), "{name}: rows are not orthonormal");
            }
            let s = top.s.clone().unsqueeze_dim::<2>(1);
            let off = entries(product(top.v, a.clone().transpose()) - top.u * s).expect("it is on the host");
            assert!(off.iter().all(|x| x.abs() <= 1e-5 * expected[0]), "{name}: a v is not s u");
        }
    }
}
