//! The sum of the singular values between two bounds, from products alone.
//!
//! A polynomial of `a` that brings every singular value near one, and none above it, gives a matrix `x` whose
//! inner product with `a` is nearly the sum and never more. How much is missing can be bounded from `x` too.

use burn::tensor::Tensor;
use serde::Serialize;

use crate::host::times_power_of_two;
use crate::ops::{Engine, enter, entries, gram, product};
use crate::prepare::{Prepared, epsilon};
use crate::rows::{identity, squares};
use crate::svd::{host_spectrum, on_host};
use crate::{Algorithm, Error, SvdOps, Way};

/// Bounds of the nuclear norm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NuclearNorm {
    /// Not more than the sum of the singular values.
    pub lower: f64,
    /// Not less than it.
    pub upper: f64,
    /// [`Algorithm::Interval`], or what the singular values were computed by.
    pub algorithm: Algorithm,
}

/// Share of the norm that the distance of the bounds is brought below, where rounding allows it.
const TARGET: f64 = 1e-5;
/// Smallest singular value, as a share of the largest, that the polynomials are made for.
const SMALLEST: f64 = 1e-3;
/// Polynomials of degree five that are made for it.
const STEPS: usize = 6;
/// Steps after those, each of which nearly doubles what is still small.
const FURTHER_STEPS: usize = 12;

/// Bounds of the sum of the singular values of `a`.
///
/// On a device by the polar iteration, which is products alone; on the host from the singular values.
///
/// # Shapes
/// - `a`: `[m, n]`
///
/// # Errors
/// As [`crate::svd()`].
pub fn nuclear_norm<B: SvdOps>(a: Tensor<B, 2>) -> Result<NuclearNorm, Error> {
    let a = enter::<B, 2>(a);
    B::Engine::run(|| norm(a))
}

fn norm<E: Engine>(a: Tensor<E, 2>) -> Result<NuclearNorm, Error> {
    let [m, n] = a.dims();
    if on_host(&a, Way::Auto) || m.min(n) == 0 {
        let (s, solver) = host_spectrum(a)?;
        let (sum, slack) = (s.iter().sum::<f64>(), s.len() as f64 * solver.error_bound(&s, m.max(n)));
        return Ok(NuclearNorm {
            lower: (sum - slack).max(0.0),
            upper: sum + slack,
            algorithm: solver.algorithm(),
        });
    }
    let a = Prepared::new(a)?;
    let tall = if m < n { a.a.clone().transpose() } else { a.a.clone() };
    let (lower, upper) = bounds(&tall, a.size)?;
    Ok(NuclearNorm { lower: a.unscale(lower), upper: a.unscale(upper), algorithm: Algorithm::Interval })
}

/// Bounds of the nuclear norm of a finite `a [m, n]`, `m >= n > 0`, whose largest entry is near `2^size`.
pub(crate) fn bounds<E: Engine>(a: &Tensor<E, 2>, size: i32) -> Result<(f64, f64), Error> {
    if COMFORTABLE.contains(&size) {
        return comfortable_bounds(a);
    }
    let (lower, upper) = comfortable_bounds(&a.clone().mul_scalar(times_power_of_two(1.0, -size)))?;
    Ok((times_power_of_two(lower, size), times_power_of_two(upper, size)))
}

/// Powers of two that the largest entry may be near for the eighth powers of singular values to be numbers of f32.
const COMFORTABLE: std::ops::RangeInclusive<i32> = -8..=0;

fn comfortable_bounds<E: Engine>(a: &Tensor<E, 2>) -> Result<(f64, f64), Error> {
    let [_, n] = a.dims();
    let once = gram(a.clone());
    // Of a symmetric matrix the square.
    let twice = gram(once.clone());
    // The eighth root of the sum of the eighth powers: not below the largest value, and not far above it.
    let norm = entries(squares(twice.clone()))?[0].powf(0.125) * (1.0 + 1e-4);
    if norm == 0.0 {
        return Ok((0.0, 0.0));
    }
    let mut x = a.clone() * (1.0 / norm);
    let (mut h, mut hh) = (once * norm.powi(-2), twice * norm.powi(-4));
    let mut done: Vec<Quintic> = Vec::new();
    let planned = schedule(SMALLEST, STEPS);
    for step in 0..STEPS + 1 + FURTHER_STEPS {
        let last_planned = step + 1 >= planned.len();
        let quintic = planned.get(step).copied().unwrap_or(Quintic::NEWTON_SCHULZ);
        let inner = identity(n, a) * quintic.a + h * quintic.b + hh * quintic.c;
        x = product(x, inner);
        done.push(quintic);
        h = gram(x.clone());
        if last_planned {
            let (lower, upper) = interval(a, &x, &h, norm, &done)?;
            let rounding = (n as f64).sqrt() * epsilon(a);
            if upper - lower <= TARGET.max(4.0 * rounding) * upper || step == STEPS + FURTHER_STEPS {
                return Ok((lower, upper));
            }
        }
        hh = gram(h.clone());
    }
    unreachable!("the last step returns")
}

/// Bounds from `x`, whose singular values are those of `a / norm` after the polynomials, and `h = x^T x`.
fn interval<E: Engine>(
    a: &Tensor<E, 2>,
    x: &Tensor<E, 2>,
    h: &Tensor<E, 2>,
    norm: f64,
    done: &[Quintic],
) -> Result<(f64, f64), Error> {
    let [_, n] = a.dims();
    let dot = |x: Tensor<E, 2>, y: Tensor<E, 2>| (x * y).sum_dim(1).sum_dim(0).squeeze_dim::<1>(1);
    let terms =
        vec![dot(x.clone(), a.clone()), dot(product(x.clone(), h.clone()), a.clone()), squares(x.clone())];
    let terms = entries(Tensor::cat(terms, 0))?;
    let (inner, cubic, energy) = (terms[0], terms[1], terms[2]);
    // For values x_i of at least a half, 1 - x_i <= x_i (1 - x_i^2) / 0.75; the others are few, and small in a.
    let near = (inner - cubic).max(0.0) / 0.75;
    let far = ((n as f64 - energy).max(0.0) / 0.75) * norm * not_yet_half(done);
    let slack = (n as f64).sqrt() * epsilon(a) / 2.0 * inner;
    Ok((inner - slack, inner + near + far + slack))
}

/// `a x + b x^3 + c x^5`
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quintic {
    a: f64,
    b: f64,
    c: f64,
}

impl Quintic {
    /// Keeps what is between 0 and 1 there, and brings it closer to 1.
    const NEWTON_SCHULZ: Self = Self { a: 15.0 / 8.0, b: -10.0 / 8.0, c: 3.0 / 8.0 };
    /// Brings what is between 0 and sqrt(3) between 0 and 1.
    const CUBIC: Self = Self { a: 1.5, b: -0.5, c: 0.0 };

    fn at(self, x: f64) -> f64 {
        let xx = x * x;
        x * (self.a + xx * (self.b + xx * self.c))
    }

    /// The one that stays closest to 1 on `low..=1`, and how close, by Remez' exchange: the error takes its
    /// largest value with changing sign at four points.
    fn nearest_to_one(low: f64) -> (Self, f64) {
        let mut points = [low, low + (1.0 - low) / 3.0, low + 2.0 * (1.0 - low) / 3.0, 1.0];
        let mut best = (Self::CUBIC, 1.0);
        for _ in 0..100 {
            let rows = points.map(|x| [x, x.powi(3), x.powi(5)]);
            let signs = [1.0, -1.0, 1.0, -1.0];
            let [a, b, c, error] =
                solve(std::array::from_fn(|i| [rows[i][0], rows[i][1], rows[i][2], signs[i], 1.0]));
            best = (Self { a, b, c }, error.abs());
            // Where the slope a + 3 b x^2 + 5 c x^4 is zero.
            let root = (9.0 * b * b - 20.0 * a * c).max(0.0).sqrt();
            let mut ends = [(-3.0 * b - root) / (10.0 * c), (-3.0 * b + root) / (10.0 * c)];
            ends.sort_by(f64::total_cmp);
            let next = [low, ends[0].max(low * low).sqrt(), ends[1].min(1.0).sqrt(), 1.0];
            if points.iter().zip(&next).all(|(x, y)| (x - y).abs() < 1e-14) {
                break;
            }
            points = next;
        }
        best
    }
}

/// Solves four equations; each row ends with its right side.
fn solve(mut rows: [[f64; 5]; 4]) -> [f64; 4] {
    for column in 0..4 {
        let pivot = (column..4).max_by(|&i, &j| rows[i][column].abs().total_cmp(&rows[j][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let chosen = rows[column];
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column] / chosen[column];
            row.iter_mut().zip(chosen).for_each(|(x, y)| *x -= factor * y);
        }
    }
    std::array::from_fn(|i| rows[i][4] / rows[i][i])
}

/// Polynomials that bring `smallest..=1` close to 1 one after the other, each the best for what the one before
/// leaves, and a last one after which nothing is above 1.
fn schedule(smallest: f64, steps: usize) -> Vec<Quintic> {
    let (mut low, mut high) = (smallest, 1.0);
    let mut all = Vec::with_capacity(steps + 1);
    for _ in 0..steps {
        let (best, error) = Quintic::nearest_to_one(low / high);
        all.push(Quintic { a: best.a / high, b: best.b / high.powi(3), c: best.c / high.powi(5) });
        (low, high) = (1.0 - error, 1.0 + error);
    }
    // Rounding may leave values a little above `high`, where the cubic still falls below 1.
    let Quintic { a, b, c } = Quintic::CUBIC;
    all.push(Quintic { a: a / high, b: b / high.powi(3), c: c / high.powi(5) });
    all
}

/// Largest value that the polynomials leave below a half, looked up on a fine grid.
fn not_yet_half(done: &[Quintic]) -> f64 {
    const PER_DECADE: i32 = 400;
    let value = |i: i32| 10_f64.powf(-f64::from(i) / f64::from(PER_DECADE));
    let through = |x: f64| done.iter().fold(x, |x, quintic| quintic.at(x));
    (0..12 * PER_DECADE).find(|&i| through(value(i)) < 0.5).map_or(1e-12, |i| value(i - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_polynomial_errs_alike_at_four_points() {
        let (best, error) = Quintic::nearest_to_one(0.1);
        let grid = (0..=10_000).map(|i| 0.1 + 0.9 * f64::from(i) / 10_000.0);
        let off: Vec<f64> = grid.map(|x| best.at(x) - 1.0).collect();
        let worst = off.iter().fold(0.0_f64, |worst, x| worst.max(x.abs()));
        assert!((worst - error).abs() < 1e-6, "{worst} is the largest error, not {error}");
        let turns = off.windows(3).filter(|w| (w[1] - w[0]) * (w[2] - w[1]) < 0.0).count();
        assert_eq!(turns, 2);
        assert!((off[0] + error).abs() < 1e-9 && (off[10_000] - error).abs() < 1e-9, "{off:?}");
    }

    #[test]
    fn the_schedule_ends_close_to_one_and_never_above() {
        let done = schedule(1e-3, 6);
        for i in 0..=3000 {
            let x = 10_f64.powf(-f64::from(i) / 1000.0);
            let y = done.iter().fold(x, |x, quintic| quintic.at(x));
            assert!(y <= 1.0 + 1e-12 && y > 0.999, "{x} becomes {y}");
        }
        let half = not_yet_half(&done);
        assert!(half > 1e-6 && half < 1e-3, "{half}");
    }
}
