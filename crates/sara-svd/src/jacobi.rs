//! One-sided block Jacobi: rotates the columns of a matrix until they are orthogonal.
//!
//! The columns are dealt into blocks, two blocks at a time are rotated by the eigenvectors of their common
//! Gram matrix, and a tournament brings every two blocks together once a sweep. All pairs of a round are
//! independent, so a round is two stacks of products and one stack of small eigenproblems. What the columns
//! are then, are the left singular vectors times the singular values; the rotations, multiplied up, are the
//! right singular vectors.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Error;
use crate::ops::{Engine, entries, primitive, product, tensor};
use crate::orthonormalize::complete;
use crate::prepare::epsilon;

/// Columns of a block; the Gram matrix of two and its rotations take 8.4 KiB of workgroup memory.
const BLOCK: usize = 16;
/// Clusters of equal singular values take up to 20 sweeps.
const SWEEP_LIMIT: usize = 40;
/// Sweeps that columns at rounding level, which are noise and may rotate for ever, get after all others are done.
const NOISE_SWEEPS: usize = 3;
/// Sweeps after the rotations have been made orthogonal again and applied to the matrix afresh.
const REFINEMENT_SWEEPS: usize = 3;
/// Ratio of column norms from which a matrix counts as graded: then the small singular values are kept to
/// their own digits, and the refinement, which is good to the largest one's, is left out.
const GRADED: f64 = 1e3;

/// `a = u^T diag(s) v`, scaled as `a` is; vectors are rows.
pub(crate) struct Factors<E: Engine> {
    /// `[n, m]`
    pub(crate) u: Tensor<E, 2>,
    /// `[n]`, descending
    pub(crate) s: Tensor<E, 1>,
    /// `[n, n]`
    pub(crate) v: Tensor<E, 2>,
    pub(crate) sweeps: usize,
    pub(crate) error_bound: f64,
}

/// Decomposes the finite matrix `a [m, n]`, `m >= n > 0`.
pub(crate) fn decompose<E: Engine>(a: &Tensor<E, 2>) -> Result<Factors<E>, Error> {
    let [m, n] = a.dims();
    let not_converged = Error::NotConverged { rows: m, columns: n };
    let mut sweeper = Sweeper::new(a);
    let columns = a.clone().transpose();
    let mut w = sweeper.pad(columns.clone());
    let mut v = identity(sweeper.padded, a);
    let mut end = sweeper.run(&mut w, &mut v, SWEEP_LIMIT)?;
    if end == End::Limit {
        return Err(not_converged);
    }
    if spread(&columns)? < GRADED {
        v = newton_schulz(newton_schulz(v));
        w = product(v.clone(), sweeper.pad(columns));
        end = sweeper.run(&mut w, &mut v, REFINEMENT_SWEEPS)?;
    }

    let norms = row_norms(&w);
    let order = sweeper.descending(&norms, &v);
    let (s, w) = (norms.select(0, order.clone()), w.select(0, order.clone()));
    let v = v.select(0, order).slice([0..n, 0..n]);
    // Where every cosine is small, only columns of zeros have no direction; otherwise those at rounding level.
    let largest = entries(s.clone().narrow(0, 0, 1))?[0];
    let floor = if end == End::Converged { 0.0 } else { n as f64 * sweeper.epsilon * largest };
    let zeros = entries(s.clone().lower_equal_elem(floor).float().sum())?[0] as usize;
    let u = w / s.clone().clamp_min(f64::from(f32::MIN_POSITIVE)).unsqueeze_dim::<2>(1);
    let u = complete(u, n - zeros)?;
    let error_bound = error_bound(a, &u, &s, &v)?;
    Ok(Factors { u, s, v, sweeps: sweeper.sweeps, error_bound })
}

/// How the sweeps ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Every two columns are orthogonal to rounding.
    Converged,
    /// Every two columns above rounding level are.
    Noise,
    /// Neither.
    Limit,
}

/// The tournament of the blocks, and what it has seen so far.
struct Sweeper<E: Engine> {
    device: Device<E>,
    padded: usize,
    columns: usize,
    epsilon: f64,
    tolerance: f64,
    /// Squared norm under which a column counts as noise.
    floor: f64,
    /// For each round, which block each place takes over from the round before.
    moves: Vec<Tensor<E, 1, Int>>,
    sweeps: usize,
}

impl<E: Engine> Sweeper<E> {
    fn new(a: &Tensor<E, 2>) -> Self {
        let [m, n] = a.dims();
        let device = a.device();
        let blocks = n.div_ceil(2 * BLOCK) * 2;
        let epsilon = epsilon(a);
        let moves = moves(blocks)
            .into_iter()
            .map(|places| Tensor::from_data(TensorData::new(places, [blocks]), &device))
            .collect();
        Self {
            device,
            padded: blocks * BLOCK,
            columns: n,
            epsilon,
            tolerance: (m as f64).sqrt() * epsilon,
            floor: 0.0,
            moves,
            sweeps: 0,
        }
    }

    /// Adds rows of zeros until the blocks are full: they are orthogonal to everything and stay.
    fn pad(&self, rows: Tensor<E, 2>) -> Tensor<E, 2> {
        let [n, m] = rows.dims();
        if n == self.padded {
            return rows;
        }
        let zeros = Tensor::zeros([self.padded - n, m], (&self.device, rows.dtype()));
        Tensor::cat(vec![rows, zeros], 0)
    }

    /// Rotates the rows of `w [padded, m]` until they are orthogonal, and those of `v [padded, padded]` along.
    fn run(&mut self, w: &mut Tensor<E, 2>, v: &mut Tensor<E, 2>, limit: usize) -> Result<End, Error> {
        let mut noise_sweeps = 0;
        for _ in 0..limit {
            let [all, above_noise, largest] = self.sweep(w, v)?;
            self.sweeps += 1;
            self.floor = largest * (self.columns as f64 * self.epsilon).powi(2);
            if all <= self.tolerance {
                return Ok(End::Converged);
            }
            if above_noise <= self.tolerance {
                noise_sweeps += 1;
                if noise_sweeps == NOISE_SWEEPS {
                    return Ok(End::Noise);
                }
            }
        }
        Ok(if noise_sweeps > 0 { End::Noise } else { End::Limit })
    }

    /// One sweep; returns the largest cosines and squared norm that it met.
    fn sweep(&self, w: &mut Tensor<E, 2>, v: &mut Tensor<E, 2>) -> Result<[f64; 3], Error> {
        let mut found: Option<Tensor<E, 2>> = None;
        for places in &self.moves {
            let pairs = Self::pairs(w.clone());
            let gram = product(pairs.clone(), pairs.clone().swap_dims(1, 2));
            let (rotations, met) = E::rotations(primitive(gram), self.tolerance, self.floor)?;
            let rotations = tensor::<E, 3>(rotations).swap_dims(1, 2);
            *w = Self::apply(rotations.clone(), pairs, places);
            *v = Self::apply(rotations, Self::pairs(v.clone()), places);
            let met = tensor::<E, 2>(met);
            found = Some(match found {
                Some(found) => found.max_pair(met),
                None => met,
            });
        }
        let found = found.map(|found| entries(found.max_dim(0))).transpose()?.unwrap_or_default();
        Ok([found[0], found[1], found[2]])
    }

    fn pairs(rows: Tensor<E, 2>) -> Tensor<E, 3> {
        let [n, m] = rows.dims();
        rows.reshape([n / (2 * BLOCK), 2 * BLOCK, m])
    }

    fn apply(rotations: Tensor<E, 3>, pairs: Tensor<E, 3>, places: &Tensor<E, 1, Int>) -> Tensor<E, 2> {
        let [count, rows, m] = pairs.dims();
        let turned = product(rotations, pairs).reshape([2 * count, rows / 2, m]);
        turned.select(0, places.clone()).reshape([count * rows, m])
    }

    /// The order that sorts the rows by descending norm, those of the padding last and left out.
    fn descending(&self, norms: &Tensor<E, 1>, v: &Tensor<E, 2>) -> Tensor<E, 1, Int> {
        let (padded, n) = (self.padded, self.columns);
        let keys = if padded == n {
            norms.clone()
        } else {
            let padding = v.clone().slice([0..padded, n..padded]);
            let padding = (padding.clone() * padding).sum_dim(1).squeeze_dim::<1>(1);
            norms.clone() - padding.greater_elem(0.5).float().cast(norms.dtype()) * (norms.clone() + 1.0)
        };
        // How many rows come before each, by counting; then the inverse of that permutation, likewise.
        let (down, across) = (keys.clone().unsqueeze_dim::<2>(1), keys.unsqueeze_dim::<2>(0));
        let index = Tensor::<E, 1, Int>::arange(0..padded as i64, &self.device);
        let (i, j) = (index.clone().unsqueeze_dim::<2>(1), index.clone().unsqueeze_dim::<2>(0));
        let before = across
            .clone()
            .greater(down.clone())
            .bool_or(across.equal(down).bool_and(j.clone().lower(i.clone())));
        let rank = before.int().sum_dim(1).swap_dims(0, 1); // [1, padded]
        let chosen = rank.equal(i).int() * j;
        chosen.sum_dim(1).squeeze_dim::<1>(1).narrow(0, 0, n)
    }
}

/// For each round of a tournament of `blocks` in places `(0, 1), (2, 3), ..`, the place that each place's
/// block of the next round comes from.
///
/// The first block stays, the others move around the circle of places. Each round leaves the longer columns
/// in the first place of each pair; they belong to the block that began further to the front, so where the
/// later block sits first the two trade places as well.
fn moves(blocks: usize) -> Vec<Vec<i64>> {
    let pairs = blocks / 2;
    let rounds = blocks - 1;
    let circle = |place: usize| match (place / 2, place % 2) {
        (0, 0) => 0,
        (1, 0) => 1,
        (pair, 0) => place_of(pair - 1, 0),
        (pair, _) if pair + 1 == pairs => place_of(pair, usize::from(pairs == 1)),
        (pair, _) => place_of(pair + 1, 1),
    };
    let mut ids: Vec<usize> = (0..blocks).collect();
    let mut all = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let source = |place: usize| {
            let from = circle(place);
            let swapped = ids[from - from % 2] > ids[from - from % 2 + 1];
            (if swapped { from ^ 1 } else { from }) as i64
        };
        all.push((0..blocks).map(source).collect());
        ids = (0..blocks).map(|place| ids[circle(place)]).collect();
    }
    all
}

fn place_of(pair: usize, side: usize) -> usize {
    2 * pair + side
}

/// Whether the rows of `a` differ more in their norms than its columns do.
pub(crate) fn rows_are_more_graded<E: Engine>(a: &Tensor<E, 2>) -> Result<bool, Error> {
    Ok(spread(a)? > spread(&a.clone().transpose())?)
}

/// Ratio of the largest norm of a row to the smallest that is not zero.
fn spread<E: Engine>(rows: &Tensor<E, 2>) -> Result<f64, Error> {
    let norms = row_norms(rows);
    let largest = norms.clone().max();
    // Columns of zeros have no digits to lose.
    let smallest = norms.clone().mask_fill(norms.lower_equal_elem(0.0), f64::from(f32::MAX)).min();
    let ends = entries(Tensor::cat(vec![largest, smallest], 0))?;
    Ok(ends[0] / ends[1])
}

fn row_norms<E: Engine>(rows: &Tensor<E, 2>) -> Tensor<E, 1> {
    (rows.clone() * rows.clone()).sum_dim(1).sqrt().squeeze_dim::<1>(1)
}

/// One Newton-Schulz step `(3 - v v^T) v / 2`, which squares the distance of `v` from orthonormal rows.
pub(crate) fn newton_schulz<E: Engine>(v: Tensor<E, 2>) -> Tensor<E, 2> {
    let gram = product(v.clone(), v.clone().transpose());
    v.clone() * 1.5 - product(gram, v) * 0.5
}

/// Makes the entry of largest modulus in each row of `u` positive, and turns `v` along.
pub(crate) fn fix_signs<E: Engine>(u: Tensor<E, 2>, v: Tensor<E, 2>) -> (Tensor<E, 2>, Tensor<E, 2>) {
    let negative = u.clone().min_dim(1).neg().greater(u.clone().max_dim(1));
    let sign = negative.float().cast(u.dtype()) * -2.0 + 1.0;
    (u * sign.clone(), v * sign)
}

/// Bound of the errors of `s`: how far `a v` is from `u s`, and both sets of vectors from orthonormal.
pub(crate) fn error_bound<E: Engine>(
    a: &Tensor<E, 2>,
    u: &Tensor<E, 2>,
    s: &Tensor<E, 1>,
    v: &Tensor<E, 2>,
) -> Result<f64, Error> {
    let [m, n] = a.dims();
    let scaled = u.clone() * s.clone().unsqueeze_dim::<2>(1);
    let residual = product(v.clone(), a.clone().transpose()) - scaled;
    let terms = vec![
        squares(residual),
        squares(off_identity(u)),
        squares(off_identity(v)),
        s.clone().narrow(0, 0, 1),
    ];
    let terms = entries(Tensor::cat(terms, 0))?;
    let (residual, u, v, largest) = (terms[0].sqrt(), terms[1].sqrt(), terms[2].sqrt(), terms[3]);
    // What the products above cannot see, because they round themselves.
    let rounding = (m.max(n) as f64).sqrt() * epsilon(a);
    Ok(residual + largest * (u + v + rounding))
}

/// `x x^T - 1`
pub(crate) fn off_identity<E: Engine>(x: &Tensor<E, 2>) -> Tensor<E, 2> {
    product(x.clone(), x.clone().transpose()) - identity(x.dims()[0], x)
}

/// The identity, of the element type and on the device of `like`.
pub(crate) fn identity<E: Engine>(n: usize, like: &Tensor<E, 2>) -> Tensor<E, 2> {
    Tensor::<E, 2>::eye(n, &like.device()).cast(like.dtype())
}

pub(crate) fn squares<E: Engine>(x: Tensor<E, 2>) -> Tensor<E, 1> {
    (x.clone() * x).sum_dim(1).sum_dim(0).squeeze_dim::<1>(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_sweep_every_two_blocks_meet_once_and_all_come_home() {
        for blocks in [2, 4, 6, 12] {
            let mut met = std::collections::BTreeSet::new();
            let mut ids: Vec<usize> = (0..blocks).collect();
            for places in moves(blocks) {
                for pair in ids.chunks_exact_mut(2) {
                    // The rotation leaves the longer columns first.
                    pair.sort_unstable();
                    assert!(met.insert((pair[0], pair[1])), "{blocks}: {pair:?} meet twice");
                }
                ids = places.iter().map(|&place| ids[place as usize]).collect();
            }
            assert_eq!(met.len(), blocks * (blocks - 1) / 2);
            assert_eq!(ids, (0..blocks).collect::<Vec<_>>());
        }
    }
}
