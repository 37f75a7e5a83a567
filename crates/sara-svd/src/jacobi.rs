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
use crate::rows::{identity, off_identity, row_norms, squares};

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

/// Decomposes finite matrices of one shape `[m, n]`, `m >= n > 0`, together.
///
/// A matrix that is done stays as it is while the others go on, so each comes out as it would alone.
pub(crate) fn decompose<E: Engine>(matrices: &[Tensor<E, 2>]) -> Result<Vec<Factors<E>>, Error> {
    let Some(first) = matrices.first() else { return Ok(Vec::new()) };
    let [m, n] = first.dims();
    let sweeper = Sweeper::new(first, matrices.len());
    let columns: Vec<Tensor<E, 2>> = matrices.iter().map(|a| a.clone().transpose()).collect();
    let padded = sweeper.padded;
    let start = Tensor::cat(columns.iter().map(|columns| sweeper.pad(columns.clone())).collect(), 0);
    let mut w = start.clone();
    let mut v = identity(padded, first).repeat_dim(0, matrices.len());
    let mut states = vec![State::default(); matrices.len()];
    sweeper.run(&mut w, &mut v, &mut states, SWEEP_LIMIT)?;
    if states.iter().any(|state| state.end.is_none()) {
        return Err(Error::NotConverged { rows: m, columns: n });
    }

    for (state, columns) in states.iter_mut().zip(&columns) {
        if spread(columns)? < GRADED {
            *state = State { sweeps: state.sweeps, ..State::default() };
        }
    }
    let stack = |rows: Tensor<E, 2>, width| rows.reshape([matrices.len(), padded, width]);
    let straight = newton_schulz(newton_schulz(stack(v.clone(), padded)));
    let again = product(straight.clone(), stack(start, m)).reshape([matrices.len() * padded, m]);
    w = sweeper.keep(w, again, &states);
    v = sweeper.keep(v, straight.reshape([matrices.len() * padded, padded]), &states);
    sweeper.run(&mut w, &mut v, &mut states, REFINEMENT_SWEEPS)?;

    let part = |rows: &Tensor<E, 2>, i: usize| rows.clone().narrow(0, i * padded, padded);
    let finish = |(i, a)| sweeper.finish(a, part(&w, i), part(&v, i), states[i]);
    matrices.iter().enumerate().map(finish).collect()
}

/// How far a matrix is.
#[derive(Clone, Copy, Default)]
struct State {
    /// `None` while there is work to do.
    end: Option<End>,
    sweeps: usize,
    noise_sweeps: usize,
    /// Squared norm under which a column counts as noise.
    floor: f64,
}

/// How the sweeps ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Every two columns are orthogonal to rounding.
    Converged,
    /// Every two columns above rounding level are.
    Noise,
}

/// The tournament of the blocks of all matrices, whose columns are the rows of one, a matrix after the other.
struct Sweeper<E: Engine> {
    device: Device<E>,
    padded: usize,
    columns: usize,
    epsilon: f64,
    tolerance: f64,
    /// For each round, which block each place takes over from the round before.
    moves: Vec<Tensor<E, 1, Int>>,
}

impl<E: Engine> Sweeper<E> {
    fn new(a: &Tensor<E, 2>, count: usize) -> Self {
        let [m, n] = a.dims();
        let device = a.device();
        let blocks = n.div_ceil(2 * BLOCK) * 2;
        let epsilon = epsilon(a);
        let of_all = |places: Vec<i64>| {
            let of_one = |i: usize| places.iter().map(move |place| place + (i * blocks) as i64);
            let all: Vec<i64> = (0..count).flat_map(of_one).collect();
            Tensor::from_data(TensorData::new(all, [count * blocks]), &device)
        };
        let moves = moves(blocks).into_iter().map(of_all).collect();
        let tolerance = (m as f64).sqrt() * epsilon;
        Self { device, padded: blocks * BLOCK, columns: n, epsilon, tolerance, moves }
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

    /// Rotates the rows of `w [count * padded, m]` until those of each matrix are orthogonal, and the rows of
    /// `v [count * padded, padded]` along.
    fn run(
        &self,
        w: &mut Tensor<E, 2>,
        v: &mut Tensor<E, 2>,
        states: &mut [State],
        limit: usize,
    ) -> Result<(), Error> {
        for _ in 0..limit {
            if states.iter().all(|state| state.end.is_some()) {
                return Ok(());
            }
            let before = (w.clone(), v.clone());
            let found = self.sweep(w, v, states)?;
            *w = self.keep(before.0, w.clone(), states);
            *v = self.keep(before.1, v.clone(), states);
            for (state, found) in states.iter_mut().zip(found.chunks_exact(3)) {
                self.judge(state, found);
            }
        }
        for state in states {
            state.end = state.end.or((state.noise_sweeps > 0).then_some(End::Noise));
        }
        Ok(())
    }

    /// Takes in what a sweep found: the largest cosine, the same above noise, the largest squared norm.
    fn judge(&self, state: &mut State, found: &[f64]) {
        if state.end.is_some() {
            return;
        }
        state.sweeps += 1;
        state.floor = found[2] * (self.columns as f64 * self.epsilon).powi(2);
        if found[0] <= self.tolerance {
            state.end = Some(End::Converged);
        } else if found[1] <= self.tolerance {
            state.noise_sweeps += 1;
            state.end = (state.noise_sweeps == NOISE_SWEEPS).then_some(End::Noise);
        }
    }

    /// `old` where a matrix is done, `new` where it is not.
    fn keep(&self, old: Tensor<E, 2>, new: Tensor<E, 2>, states: &[State]) -> Tensor<E, 2> {
        if states.iter().all(|state| state.end.is_none()) {
            return new;
        }
        let [rows, width] = new.dims();
        let done: Vec<i64> = states.iter().map(|state| i64::from(state.end.is_some())).collect();
        let done = Tensor::<E, 2, Int>::from_data(TensorData::new(done, [states.len(), 1]), &self.device);
        let mask = done.expand([states.len(), self.padded * width]).equal_elem(1).reshape([rows, width]);
        new.mask_where(mask, old)
    }

    /// One sweep; returns for each matrix the largest cosines and squared norm that it met.
    fn sweep(&self, w: &mut Tensor<E, 2>, v: &mut Tensor<E, 2>, states: &[State]) -> Result<Vec<f64>, Error> {
        let pairs = self.padded / (2 * BLOCK);
        let floors: Vec<f64> = states.iter().flat_map(|state| vec![state.floor; pairs]).collect();
        let floors = TensorData::new(floors, [states.len() * pairs]).convert_dtype(w.dtype());
        let floors = Tensor::<E, 1>::from_data(floors, (&self.device, w.dtype()));
        let mut found: Option<Tensor<E, 2>> = None;
        for places in &self.moves {
            let pairs = Self::pairs(w.clone());
            let gram = product(pairs.clone(), pairs.clone().swap_dims(1, 2));
            let (rotations, met) = E::rotations(primitive(gram), primitive(floors.clone()), self.tolerance)?;
            let rotations = tensor::<E, 3>(rotations).swap_dims(1, 2);
            *w = Self::apply(rotations.clone(), pairs, places);
            *v = Self::apply(rotations, Self::pairs(v.clone()), places);
            let met = tensor::<E, 2>(met);
            found = Some(match found {
                Some(found) => found.max_pair(met),
                None => met,
            });
        }
        let of_each = |found: Tensor<E, 2>| found.reshape([states.len(), pairs, 3]).max_dim(1);
        found.map_or(Ok(Vec::new()), |found| entries(of_each(found)))
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

    /// The factors of `a`, from the columns as they are now and the rotations that brought them there.
    fn finish(
        &self,
        a: &Tensor<E, 2>,
        w: Tensor<E, 2>,
        v: Tensor<E, 2>,
        state: State,
    ) -> Result<Factors<E>, Error> {
        let n = self.columns;
        let norms = row_norms(&w);
        let order = self.descending(&norms, &v);
        let (s, w) = (norms.select(0, order.clone()), w.select(0, order.clone()));
        let v = v.select(0, order).slice([0..n, 0..n]);
        // Where every cosine is small, only columns of zeros have no direction; otherwise those at rounding level.
        let largest = entries(s.clone().narrow(0, 0, 1))?[0];
        let floor = if state.end == Some(End::Converged) { 0.0 } else { n as f64 * self.epsilon * largest };
        let zeros = entries(s.clone().lower_equal_elem(floor).float().sum())?[0] as usize;
        let u = w / s.clone().clamp_min(f64::from(f32::MIN_POSITIVE)).unsqueeze_dim::<2>(1);
        let u = complete(u, n - zeros)?;
        let error_bound = error_bound(a, &u, &s, &v)?;
        Ok(Factors { u, s, v, sweeps: state.sweeps, error_bound })
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

/// One Newton-Schulz step `(3 - v v^T) v / 2`, which squares the distance of `v` from orthonormal rows.
fn newton_schulz<E: Engine>(v: Tensor<E, 3>) -> Tensor<E, 3> {
    let gram = product(v.clone(), v.clone().swap_dims(1, 2));
    v.clone() * 1.5 - product(gram, v) * 0.5
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
