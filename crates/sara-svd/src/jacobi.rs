//! One-sided block Jacobi: rotates the columns of a matrix until they are orthogonal.
//!
//! The columns are dealt into blocks, two blocks at a time are rotated by the eigenvectors of their common
//! Gram matrix, and a tournament brings every two blocks together once a sweep. All pairs of a round are
//! independent, so a round is two stacks of products and one stack of small eigenproblems. What the columns
//! are then, are the left singular vectors times the singular values; the rotations, multiplied up, are the
//! right singular vectors.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Error;
use crate::ops::{Engine, Places, entries, product, rotations, turn};
use crate::orthonormalize::complete;
use crate::prepare::epsilon;
use crate::rows::{identity, off_identity, row_norms, squares};

/// Columns of a block; the Gram matrix of two and its rotations take 8.3 KiB of workgroup memory.
const BLOCK: usize = 16;
/// Clusters of equal singular values take up to 20 sweeps.
const SWEEP_LIMIT: usize = 40;
/// Sweeps that columns at rounding level, which are noise and may rotate for ever, get after all others are done.
const NOISE_SWEEPS: usize = 3;
/// Cosines from which one more sweep makes columns orthogonal enough for the refinement, which does the rest.
const NEARLY: f64 = 0.03;
/// What is rotated, as a share of the cosine that counts as orthogonal: a sweep leaves others a little larger.
const ROTATED: f64 = 0.25;
/// Ratio of column norms from which a matrix counts as graded.
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
}

/// A matrix to decompose, `[m, n]` with `m >= n > 0`.
pub(crate) struct Task<E: Engine> {
    a: Tensor<E, 2>,
    pub(crate) is_transposed: bool,
    /// Whether the norms of its columns are so different that the small singular values are kept to their own digits; then
    /// the refinement, which is good to the largest one's, is left out.
    is_graded: bool,
}

impl<E: Engine> Task<E> {
    /// With columns that are about as long as each other, or need no digits beyond the largest one's.
    pub(crate) fn even(a: Tensor<E, 2>) -> Self {
        Self { a, is_transposed: false, is_graded: false }
    }

    /// The columns are what is rotated: the shorter side, and of a square matrix the more uneven one.
    pub(crate) fn new(a: Tensor<E, 2>) -> Result<Self, Error> {
        let [m, n] = a.dims();
        let transposed = a.clone().transpose();
        let ends = entries(Tensor::cat(vec![spread(&transposed), spread(&a)], 0))?;
        let (of_columns, of_rows) = (ends[0] / ends[1], ends[2] / ends[3]);
        let is_transposed = m < n || m == n && of_rows > of_columns;
        let (a, spread) = if is_transposed { (transposed, of_rows) } else { (a, of_columns) };
        Ok(Self { a, is_transposed, is_graded: spread >= GRADED })
    }
}

/// Decomposes finite matrices of one shape together.
///
/// A matrix that is done stays as it is while the others go on, so each comes out as it would alone.
pub(crate) fn decompose<E: Engine>(tasks: &[Task<E>]) -> Result<Vec<Factors<E>>, Error> {
    let Some(Task { a: first, .. }) = tasks.first() else { return Ok(Vec::new()) };
    let ([m, _], count) = (first.dims(), tasks.len());
    let sweeper = Sweeper::new(first, count);
    let padded = sweeper.padded;
    let start = Tensor::cat(tasks.iter().map(|task| sweeper.pad(task.a.clone().transpose())).collect(), 0);
    let unturned = identity(padded, first).repeat_dim(0, count);
    let mut rows = Tensor::cat(vec![start.clone(), unturned], 1);
    let orthogonal = State { enough: sweeper.tolerance, ..State::default() };
    let start_of =
        |task: &Task<E>| if task.is_graded { orthogonal } else { State { enough: NEARLY, ..orthogonal } };
    let mut states: Vec<State> = tasks.iter().map(start_of).collect();
    sweeper.run(&mut rows, &mut states)?;

    for (state, task) in states.iter_mut().zip(tasks) {
        if !task.is_graded {
            *state = State { sweeps: state.sweeps, ..orthogonal };
        }
    }
    let stack = |rows: Tensor<E, 2>| rows.reshape([count as i32, padded as i32, -1]);
    let straight = newton_schulz(newton_schulz(stack(rows.clone().narrow(1, m, padded))));
    let again = Tensor::cat(vec![product(straight.clone(), stack(start)), straight], 2);
    rows = sweeper.keep(rows, again.reshape([count * padded, m + padded]), &states);
    sweeper.run(&mut rows, &mut states)?;

    let finish = |(i, &state)| sweeper.finish(rows.clone().narrow(0, i * padded, padded), state);
    states.iter().enumerate().map(finish).collect()
}

/// How far a matrix is.
#[derive(Clone, Copy, Default)]
struct State {
    /// `None` while there is work to do.
    end: Option<End>,
    /// Largest cosine that is good enough.
    enough: f64,
    sweeps: usize,
    noise_sweeps: usize,
    /// Squared norm under which a column counts as noise.
    floor: f64,
}

/// How the sweeps ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Every two columns are orthogonal enough.
    Converged,
    /// Every two columns above rounding level are.
    Noise,
}

/// The tournament of the blocks of all matrices, whose columns are the rows of one, a matrix after the other; beside each
/// column, in the same row, what the rotations have made of the identity.
struct Sweeper<E: Engine> {
    device: Device<E>,
    padded: usize,
    columns: usize,
    /// Entries of a column.
    height: usize,
    epsilon: f64,
    tolerance: f64,
    /// For each round, where each block goes after it.
    moves: Vec<Places<E>>,
}

impl<E: Engine> Sweeper<E> {
    fn new(a: &Tensor<E, 2>, count: usize) -> Self {
        let [m, n] = a.dims();
        let device = a.device();
        let blocks = n.div_ceil(2 * BLOCK) * 2;
        let epsilon = epsilon(a);
        let of_all = |places: Vec<i64>| {
            let of_one = |i: usize| places.iter().map(move |place| place + (i * blocks) as i64);
            Places::new((0..count).flat_map(of_one).collect(), &device)
        };
        let moves = moves(blocks).into_iter().map(of_all).collect();
        let tolerance = (m as f64).sqrt() * epsilon;
        Self { device, padded: blocks * BLOCK, columns: n, height: m, epsilon, tolerance, moves }
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

    /// Rotates the rows of each matrix, `rows [count * padded, height + padded]`, until they are orthogonal in their first
    /// `height` entries.
    fn run(&self, rows: &mut Tensor<E, 2>, states: &mut [State]) -> Result<(), Error> {
        for _ in 0..SWEEP_LIMIT {
            if states.iter().all(|state| state.end.is_some()) {
                return Ok(());
            }
            let (swept, found) = self.sweep(rows.clone(), states)?;
            *rows = self.keep(rows.clone(), swept, states);
            for (state, found) in states.iter_mut().zip(found.chunks_exact(3)) {
                self.judge(state, found);
            }
        }
        for state in &mut *states {
            state.end = state.end.or((state.noise_sweeps > 0).then_some(End::Noise));
        }
        if states.iter().all(|state| state.end.is_some()) {
            return Ok(());
        }
        Err(Error::NotConverged { rows: self.height, columns: self.columns })
    }

    /// Takes in what a sweep found: the largest cosine, the same above noise, the largest squared norm.
    fn judge(&self, state: &mut State, found: &[f64]) {
        if state.end.is_some() {
            return;
        }
        state.sweeps += 1;
        state.floor = found[2] * (self.columns as f64 * self.epsilon).powi(2);
        if found[0] <= state.enough {
            state.end = Some(End::Converged);
        } else if found[1] <= state.enough {
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

    /// One sweep; finds for each matrix the largest cosines and squared norm that it met.
    fn sweep(&self, mut rows: Tensor<E, 2>, states: &[State]) -> Result<(Tensor<E, 2>, Vec<f64>), Error> {
        let [all, width] = rows.dims();
        let pairs = self.padded / (2 * BLOCK);
        let floors: Vec<f64> = states.iter().flat_map(|state| vec![state.floor; pairs]).collect();
        let floors = TensorData::new(floors, [states.len() * pairs]).convert_dtype(rows.dtype());
        let floors = Tensor::<E, 1>::from_data(floors, (&self.device, rows.dtype()));
        let mut found = Tensor::<E, 2>::zeros([states.len() * pairs, 3], (&self.device, rows.dtype()));
        for places in &self.moves {
            let sets = rows.reshape([all / (2 * BLOCK), 2 * BLOCK, width]);
            let (rotations, met) =
                rotations(sets.clone(), self.height, floors.clone(), found, ROTATED * self.tolerance)?;
            found = met;
            rows = turn(rotations, sets, places.clone());
        }
        let of_each = found.reshape([states.len(), pairs, 3]).max_dim(1);
        Ok((rows, entries(of_each)?))
    }

    /// The factors of a matrix, from its columns as they are now and the rotations that brought them there.
    fn finish(&self, rows: Tensor<E, 2>, state: State) -> Result<Factors<E>, Error> {
        let n = self.columns;
        let w = rows.clone().narrow(1, 0, self.height);
        let v = rows.narrow(1, self.height, self.padded);
        let norms = row_norms(&w);
        let order = self.descending(&norms, &v);
        let (s, w) = (norms.select(0, order.clone()), w.select(0, order.clone()));
        let v = v.select(0, order).slice([0..n, 0..n]);
        // Where every cosine is small, only columns of zeros have no direction; otherwise those at rounding level.
        let share = if state.end == Some(End::Converged) { 0.0 } else { n as f64 * self.epsilon };
        let floor = (s.clone().narrow(0, 0, 1) * share).expand([n]);
        let zeros = entries(s.clone().lower_equal(floor).float().sum())?[0] as usize;
        let u = w / s.clone().clamp_min(f64::from(f32::MIN_POSITIVE)).unsqueeze_dim::<2>(1);
        let u = complete(u, n - zeros)?;
        Ok(Factors { u, s, v, sweeps: state.sweeps })
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

/// For each round of a tournament of `blocks` in places `(0, 1), (2, 3), ..`, the place that each place's block goes to.
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
            if swapped { from ^ 1 } else { from }
        };
        let mut places = vec![0; blocks];
        (0..blocks).for_each(|place| places[source(place)] = place as i64);
        all.push(places);
        ids = (0..blocks).map(|place| ids[circle(place)]).collect();
    }
    all
}

fn place_of(pair: usize, side: usize) -> usize {
    2 * pair + side
}

/// The largest norm of a row and the smallest that is not zero, `[2]`.
fn spread<E: Engine>(rows: &Tensor<E, 2>) -> Tensor<E, 1> {
    let norms = row_norms(rows);
    let largest = norms.clone().max();
    // Columns of zeros have no digits to lose.
    let smallest = norms.clone().mask_fill(norms.lower_equal_elem(0.0), f64::from(f32::MAX)).min();
    Tensor::cat(vec![largest, smallest], 0)
}

/// One Newton-Schulz step `(3 - v v^T) v / 2`, which squares the distance of `v` from orthonormal rows.
fn newton_schulz<E: Engine>(v: Tensor<E, 3>) -> Tensor<E, 3> {
    let gram = product(v.clone(), v.clone().swap_dims(1, 2));
    v.clone() * 1.5 - product(gram, v) * 0.5
}

/// Bound of the errors of `s`: how far `a v` is from `u s`, and both sets of vectors from orthonormal.
pub(crate) fn error_bound<E: Engine>(task: &Task<E>, factors: &Factors<E>) -> Result<f64, Error> {
    let (Task { a, .. }, Factors { u, s, v, .. }) = (task, factors);
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
                let before = std::mem::replace(&mut ids, vec![blocks; blocks]);
                places.iter().zip(before).for_each(|(&place, id)| ids[place as usize] = id);
            }
            assert_eq!(met.len(), blocks * (blocks - 1) / 2);
            assert_eq!(ids, (0..blocks).collect::<Vec<_>>());
        }
    }
}
