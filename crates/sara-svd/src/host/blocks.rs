//! The building blocks of [`crate::Engine`] on slices, in f64: what every kernel must compute.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a dispatch does not use vector registers"
)]

use rayon::prelude::*;

/// Sweeps of rotations over one Gram matrix: two bring the outer iteration as far as running to convergence.
const INNER_SWEEPS: usize = 2;

/// Largest modulus; not finite where an entry is not.
///
/// Compares bits as integers: they sort as the moduli do, with the infinite and then NaN above all numbers.
pub(crate) fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.par_chunks(PIECE).map(|piece| wide(|| largest_bits(piece))).max().unwrap_or(0))
}

#[inline(always)]
fn largest_bits(values: &[f32]) -> u32 {
    values.iter().map(|x| x.to_bits() & !SIGN).max().unwrap_or(0)
}

const SIGN: u32 = 1 << 31;

/// Sum of squares, in pieces whose bounds do not depend on the threads.
pub(crate) fn squared_norm<T: Copy + Sync + Into<f64>>(values: &[T]) -> f64 {
    let pieces: Vec<f64> = values.par_chunks(PIECE).map(|piece| wide(|| squares(piece))).collect();
    pieces.iter().sum()
}

#[inline(always)]
fn squares<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    let (parts, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    for part in parts {
        for (sum, &x) in sums.iter_mut().zip(part) {
            let x: f64 = x.into();
            *sum += x * x;
        }
    }
    let rest = rest.iter().map(|&x| x.into()).map(|x: f64| x * x);
    sums.into_iter().chain(rest).sum::<f64>()
}

/// [`largest`] and [`squared_norm`], with every piece read from memory once.
pub(crate) fn norms(values: &[f32]) -> (f32, f64) {
    let piece = |piece: &[f32]| {
        let near = |part: &[f32]| wide(|| (largest_bits(part), squares(part)));
        piece.chunks(NEAR).map(near).fold((0, 0.0), |(x, sum), (y, squares)| (x.max(y), sum + squares))
    };
    let pieces: Vec<(u32, f64)> = values.par_chunks(PIECE).map(piece).collect();
    let largest = pieces.iter().map(|piece| piece.0).max().unwrap_or(0);
    (f32::from_bits(largest), pieces.iter().map(|piece| piece.1).sum())
}

/// Numbers that a task takes, and those of them that stay in the nearest cache.
const PIECE: usize = 1 << 16;
const NEAR: usize = 1 << 10;
const LANES: usize = 16;

/// Compiled for the widest registers that the processor has.
pub(super) fn wide<T>(work: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(work)
}

/// See [`crate::Engine::rotations`]: `gram` holds `d x d` matrices one after the other and is used up.
pub(crate) fn rotations(gram: &mut [f64], d: usize, floors: &[f64], tolerance: f64) -> (Vec<f64>, Vec<f64>) {
    let mut j = vec![0.0; gram.len()];
    let found: Vec<[f64; 3]> = gram
        .par_chunks_exact_mut(d * d)
        .zip(j.par_chunks_exact_mut(d * d))
        .zip(floors)
        .map(|((g, j), &floor)| rotate(g, j, d, tolerance, floor))
        .collect();
    (j, found.concat())
}

fn rotate(g: &mut [f64], j: &mut [f64], d: usize, tolerance: f64, floor: f64) -> [f64; 3] {
    let mut found = [0.0_f64; 3];
    for p in 0..d {
        j[p * d + p] = 1.0;
        found[2] = found[2].max(g[p * d + p]);
        for q in 0..p {
            let (gpp, gqq) = (g[p * d + p], g[q * d + q]);
            let scale = gpp.max(0.0).sqrt() * gqq.max(0.0).sqrt();
            if scale > 0.0 {
                let cosine = g[p * d + q].abs() / scale;
                found[0] = found[0].max(cosine);
                if gpp.min(gqq) > floor {
                    found[1] = found[1].max(cosine);
                }
            }
        }
    }
    for _ in 0..INNER_SWEEPS {
        for step in 0..d - 1 {
            for pair in 0..d / 2 {
                let (p, q) = opponents(d, step, pair);
                rotate_pair(g, j, d, (p, q), tolerance);
            }
        }
    }
    found
}

/// The pairs of step `0..d - 1` of a tournament of `d` players, each pair once in all steps; `p < q`.
fn opponents(d: usize, step: usize, pair: usize) -> (usize, usize) {
    let (p, q) =
        if pair == 0 { (step, d - 1) } else { ((step + pair) % (d - 1), (step + d - 1 - pair) % (d - 1)) };
    (p.min(q), p.max(q))
}

/// Diagonalises the `2 x 2` block `(p, q)` where its cosine is above `tolerance`, and puts the larger of the
/// two diagonal entries first.
fn rotate_pair(g: &mut [f64], j: &mut [f64], d: usize, (p, q): (usize, usize), tolerance: f64) {
    let (gpp, gqq, gpq) = (g[p * d + p], g[q * d + q], g[p * d + q]);
    let active = gpq.abs() > tolerance * (gpp.max(0.0).sqrt() * gqq.max(0.0).sqrt());
    let exchange = gpp < gqq;
    if !active && !exchange {
        return;
    }
    let (c, s) = if active {
        let zeta = (gqq - gpp) / (2.0 * gpq);
        let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
        let c = 1.0 / (1.0 + t * t).sqrt();
        (c, t * c)
    } else {
        (1.0, 0.0)
    };
    // The columns of the rotation, exchanged or not.
    let ((pp, pq), (qp, qq)) = if exchange { ((s, c), (c, -s)) } else { ((c, -s), (s, c)) };
    let turn = |x: &mut f64, y: &mut f64| (*x, *y) = (pp * *x + pq * *y, qp * *x + qq * *y);
    for rows in [&mut *g, j] {
        for row in rows.chunks_exact_mut(d) {
            let (low, high) = row.split_at_mut(q);
            turn(&mut low[p], &mut high[0]);
        }
    }
    let (low, high) = g.split_at_mut(q * d);
    for (x, y) in low[p * d..(p + 1) * d].iter_mut().zip(&mut high[..d]) {
        turn(x, y);
    }
}

/// See [`crate::Engine::cholesky_inverse`].
pub(crate) fn cholesky_inverse(gram: &[f64], l: usize, shift: f64) -> Vec<f64> {
    wide(|| {
        // Row by row, each less multiples of those above: of the transposed factor, then of its inverse's transpose.
        let mut factor = gram.to_vec();
        let mut inverse = vec![0.0; l * l];
        for i in 0..l {
            let (above, rest) = factor.split_at_mut(i * l);
            let row = &mut rest[i..l];
            for above in above.chunks_exact(l) {
                subtract(row, above[i], &above[i..]);
            }
            let diagonal = (row[0] + shift * gram[i * l + i]).sqrt();
            divide(row, diagonal);
            let (known, rest) = inverse.split_at_mut(i * l);
            let row = &mut rest[..=i];
            row[i] = 1.0;
            for (known, factors) in known.chunks_exact(l).zip(above.chunks_exact(l)) {
                subtract(row, factors[i], &known[..=i]);
            }
            divide(row, diagonal);
        }
        inverse
    })
}

/// Squared norm of the inverse of a factor of a Gram matrix, as if that were one of rows of length one.
pub(crate) fn growth(inverse: &[f64], gram: &[f64], l: usize) -> f64 {
    let of_row = |row: &[f64]| row.iter().enumerate().map(|(j, x)| x * x * gram[j * l + j]).sum::<f64>();
    inverse.chunks_exact(l).map(of_row).sum()
}

/// Takes a multiple of `y` out of `x`.
fn subtract(x: &mut [f64], factor: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x -= factor * y);
}

fn divide(x: &mut [f64], by: f64) {
    for x in x {
        *x /= by;
    }
}

/// Share of its length that a row must keep when the rows above it are taken out, to count as independent.
pub(crate) const INDEPENDENT: f64 = 1e-5;

/// See [`crate::Engine::gram_schmidt`].
pub(crate) fn gram_schmidt(rows: &mut [f64], l: usize, n: usize, seed: u32) {
    let mut spare = 0;
    for i in 0..l {
        let (above, rest) = rows.split_at_mut(i * n);
        let row = &mut rest[..n];
        loop {
            let before = norm(row);
            for _ in 0..2 {
                for other in above.chunks_exact(n) {
                    let dot: f64 = other.iter().zip(&*row).map(|(x, y)| x * y).sum();
                    row.iter_mut().zip(other).for_each(|(x, y)| *x -= dot * y);
                }
            }
            let after = norm(row);
            if after > INDEPENDENT * before {
                for x in row.iter_mut() {
                    *x /= after;
                }
                break;
            }
            row.iter_mut().enumerate().for_each(|(j, x)| *x = random(spare, j as u32, seed));
            spare += 1;
        }
    }
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// See [`crate::Engine::sketch`].
pub(crate) fn sketch([rows, columns]: [usize; 2], seed: u32) -> Vec<f64> {
    let mut all = vec![0.0; rows * columns];
    all.par_chunks_mut(columns.max(1)).enumerate().for_each(|(i, row)| {
        wide(|| row.iter_mut().enumerate().for_each(|(j, x)| *x = random(i as u32, j as u32, seed)));
    });
    all
}

/// A number between -1 and 1 with 24 random bits, which f32 holds exactly.
fn random(i: u32, j: u32, seed: u32) -> f64 {
    let bits = mix(mix(mix(seed) ^ i) ^ j);
    f64::from(bits >> 8) / f64::from(1_u32 << 23) - 1.0
}

/// A bijection of 32 bits in which every bit of the input moves half of those of the output.
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_add(0x9E37_79B9).wrapping_mul(0x7FEB_352D);
    x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_factor_turns_the_gram_matrix_into_the_identity() {
        for l in [1, 2, 7, 64] {
            let n = l + 3;
            let x = sketch([l, n], 4);
            let entry = |i: usize, j: usize| (0..n).map(|k| x[i * n + k] * x[j * n + k]).sum::<f64>();
            let gram: Vec<f64> = (0..l * l).map(|at| entry(at / l, at % l)).collect();
            let inverse = cholesky_inverse(&gram, l, 0.0);
            for i in 0..l {
                assert!(
                    inverse[i * l + i + 1..(i + 1) * l].iter().all(|&x| x == 0.0),
                    "{l}: lower triangular"
                );
                for j in 0..l {
                    let row = |i: usize| &inverse[i * l..(i + 1) * l];
                    let product: f64 = (0..l * l).map(|at| row(i)[at / l] * gram[at] * row(j)[at % l]).sum();
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() <= 1e-9, "{l}: {i}, {j}: {product}");
                }
            }
        }
        assert!(
            !cholesky_inverse(&[1.0, 2.0, 2.0, 1.0], 2, 0.0).iter().all(|x| x.is_finite()),
            "it is not definite"
        );
    }
}
