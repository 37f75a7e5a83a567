//! The loops over slices, compiled for each instruction set and chosen at run time.
//!
//! They use no fused multiply-add, so every instruction set of one architecture gives the same bits.

#![expect(
    clippy::inline_always,
    reason = "a part is compiled for the instruction set of the loop that it is in"
)]

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, PI};

use crate::quantize::DOUBLINGS;

/// Partial sums of a reduction: one AVX-512 register.
pub(super) const LANES: usize = 16;

/// Values that are copied into the nearest cache before a long computation on each: a copy keeps many loads from memory
/// on their way at once, the computation only a few.
const AT_HAND: usize = 1024;

/// Declares functions that exist once for each instruction set.
macro_rules! vectorized {
    ($($(#[$doc:meta])* fn $name:ident$(<$lifetime:lifetime>)?($($argument:ident: $type:ty),* $(,)?) $(-> $returned:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi2",
            "x86_64+avx2+fma",
            "aarch64+neon",
        ))]
        pub(super) fn $name$(<$lifetime>)?($($argument: $type),*) $(-> $returned)? $body
    )*};
}
pub(super) use vectorized;

vectorized! {
    /// GELU of each value, in place.
    fn gelu(values: &mut [f32]) {
        for x in values {
            *x *= normal_cdf(*x);
        }
    }

    /// Turns the gradient of GELU's output into that of its input `x`.
    fn gelu_backward(grad: &mut [f32], x: &[f32]) {
        let peak = (2.0 * PI).sqrt().recip();
        let mut near = [0.0; AT_HAND];
        for (grad, x) in grad.chunks_mut(AT_HAND).zip(x.chunks(AT_HAND)) {
            let near = &mut near[..x.len()];
            near.copy_from_slice(x);
            for (grad, &x) in grad.iter_mut().zip(&*near) {
                *grad *= normal_cdf(x) + x * peak * exp(-0.5 * x * x);
            }
        }
    }

    /// Layer norm of each row of `gamma.len()` values, in place.
    fn layer_norm(values: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
        for row in values.chunks_exact_mut(gamma.len()) {
            let (mean, inverse) = mean_and_inverse_deviation(row, epsilon);
            for ((x, &gamma), &beta) in row.iter_mut().zip(gamma).zip(beta) {
                *x = (*x - mean) * inverse * gamma + beta;
            }
        }
    }

    /// Turns the gradient of layer norm's output into that of its input `x`.
    fn layer_norm_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
        let share = (gamma.len() as f32).recip();
        for (x, grad) in x.chunks_exact(gamma.len()).zip(grad.chunks_exact_mut(gamma.len())) {
            let (mean, inverse) = mean_and_inverse_deviation(x, epsilon);
            for (grad, &gamma) in grad.iter_mut().zip(gamma) {
                *grad *= gamma;
            }
            let level = share * sum(grad, grad, |grad, _| grad);
            let along = share * inverse * inverse * sum(grad, x, |grad, x| grad * (x - mean));
            for (grad, &x) in grad.iter_mut().zip(x) {
                *grad = inverse * (*grad - level - (x - mean) * along);
            }
        }
    }

    /// Adds the gradient of gamma over these rows of `total.len()` values.
    fn layer_norm_gamma(x: &[f32], grad: &[f32], epsilon: f32, total: &mut [f32]) {
        for (x, grad) in x.chunks_exact(total.len()).zip(grad.chunks_exact(total.len())) {
            let (mean, inverse) = mean_and_inverse_deviation(x, epsilon);
            for ((total, &x), &grad) in total.iter_mut().zip(x).zip(grad) {
                *total += grad * ((x - mean) * inverse);
            }
        }
    }

    /// Softmax of `scale * scores + bias` in each row of `bias.len()` scores, in place.
    fn softmax(scores: &mut [f32], bias: &[f32], scale: f32) {
        for row in scores.chunks_exact_mut(bias.len()) {
            for (score, &bias) in row.iter_mut().zip(bias) {
                *score = *score * scale + bias;
            }
            let highest = maximum(row);
            for score in row.iter_mut() {
                *score = exp(*score - highest);
            }
            let share = sum(row, row, |p, _| p).recip();
            for p in row.iter_mut() {
                *p *= share;
            }
        }
    }

    /// Cross entropy at the target, and in place of the logits its gradient by them.
    fn cross_entropy(logits: &mut [f32], target: usize) -> f32 {
        let (highest, of_target) = (maximum(logits), logits[target]);
        for logit in logits.iter_mut() {
            *logit = exp(*logit - highest);
        }
        let total = sum(logits, logits, |p, _| p);
        let share = total.recip();
        for p in logits.iter_mut() {
            *p *= share;
        }
        logits[target] -= 1.0;
        total.ln() - (of_target - highest)
    }

    /// Softmax of `scale * scores` in each row over the columns from the first to before the second number of `seen`,
    /// zero elsewhere, in place.
    fn causal_softmax(scores: &mut [f32], seen: &[(usize, usize)], scale: f32) {
        let n = scores.len() / seen.len();
        for (row, &(from, to)) in scores.chunks_exact_mut(n).zip(seen) {
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            let row = &mut row[from..to];
            let highest = maximum(row) * scale;
            for score in row.iter_mut() {
                *score = exp(*score * scale - highest);
            }
            let share = sum(row, row, |p, _| p).recip();
            for p in row.iter_mut() {
                *p *= share;
            }
        }
    }

    /// Each row of `gamma.len()` values over the root of the mean of its squares, times `gamma`, in place.
    fn rms_norm(values: &mut [f32], gamma: &[f32], epsilon: f32) {
        for row in values.chunks_exact_mut(gamma.len()) {
            let inverse = inverse_root_mean_square(row, epsilon);
            for (x, &gamma) in row.iter_mut().zip(gamma) {
                *x = *x * inverse * gamma;
            }
        }
    }

    /// Turns the gradient of RMS norm's output into that of its input `x`.
    fn rms_norm_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
        let share = (gamma.len() as f32).recip();
        for (x, grad) in x.chunks_exact(gamma.len()).zip(grad.chunks_exact_mut(gamma.len())) {
            let inverse = inverse_root_mean_square(x, epsilon);
            for (grad, &gamma) in grad.iter_mut().zip(gamma) {
                *grad *= gamma;
            }
            let along = share * inverse * inverse * sum(grad, x, |grad, x| grad * x);
            for (grad, &x) in grad.iter_mut().zip(x) {
                *grad = inverse * (*grad - x * along);
            }
        }
    }

    /// Turns the features of each row of heads by its token's angles, in place.
    fn rotary(values: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        for head in values.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), &cos), &sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    /// `SwiGLU` of each gate and value, in place of the gates.
    fn swiglu(gate: &mut [f32], up: &[f32]) {
        for (gate, &up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }

    /// Turns the gradient of `SwiGLU`'s output into that of its values.
    fn swiglu_up_backward(grad: &mut [f32], gate: &[f32]) {
        for (grad, &gate) in grad.iter_mut().zip(gate) {
            *grad *= gate / (1.0 + exp(-gate));
        }
    }

    /// Turns the gradient of `SwiGLU`'s output into that of its gates.
    fn swiglu_gate_backward(grad: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((grad, &gate), &up) in grad.iter_mut().zip(gate).zip(up) {
            let open = 1.0 / (1.0 + exp(-gate));
            *grad *= up * open * (1.0 + gate * (1.0 - open));
        }
    }

    /// Turns the gradient of [`softmax`]'s result `p`, rows of `n` values, into that of its scores.
    fn softmax_backward(p: &[f32], grad: &mut [f32], n: usize, scale: f32) {
        for (p, grad) in p.chunks_exact(n).zip(grad.chunks_exact_mut(n)) {
            let along = sum(p, grad, |p, grad| p * grad);
            for (grad, &p) in grad.iter_mut().zip(p) {
                *grad = scale * p * (*grad - along);
            }
        }
    }

    /// Rounds each value to the parts that the gates leave, in place.
    fn quantize(values: &mut [f32], steps: [f32; DOUBLINGS + 1], open: [f32; DOUBLINGS]) {
        for x in values {
            let (coarse, behind) = parts(*x, steps, open);
            *x = coarse + open[0] * behind[0];
        }
    }

    /// The sum of the gradient times what stands behind each gate.
    fn quantize_behind(
        x: &[f32],
        grad: &[f32],
        steps: [f32; DOUBLINGS + 1],
        open: [f32; DOUBLINGS],
    ) -> [f32; DOUBLINGS] {
        let mut lanes = [[0.0; LANES]; DOUBLINGS];
        let ((x, x_rest), (grad, grad_rest)) = (x.as_chunks::<LANES>(), grad.as_chunks::<LANES>());
        // Zeros add nothing.
        let mut last = [[0.0; LANES]; 2];
        last[0][..x_rest.len()].copy_from_slice(x_rest);
        last[1][..grad_rest.len()].copy_from_slice(grad_rest);
        let pairs = x.iter().zip(grad).chain([(&last[0], &last[1])]);
        for (x, grad) in pairs {
            for lane in 0..LANES {
                let (_, behind) = parts(x[lane], steps, open);
                for i in 0..DOUBLINGS {
                    lanes[i][lane] += grad[lane] * behind[i];
                }
            }
        }
        lanes.map(|lanes| lanes.iter().sum())
    }
}

/// A value at the coarsest step, and what stands behind each gate of its quantiser.
#[inline(always)]
fn parts(x: f32, steps: [f32; DOUBLINGS + 1], open: [f32; DOUBLINGS]) -> (f32, [f32; DOUBLINGS]) {
    let mut rest = x;
    let parts = steps.map(|step| {
        let part = (rest / step).round_ties_even() * step;
        rest -= part;
        part
    });
    let mut behind = [parts[1], parts[2], parts[3], parts[4]];
    for i in (0..DOUBLINGS - 1).rev() {
        behind[i] += open[i + 1] * behind[i + 1];
    }
    (parts[0], behind)
}

#[inline(always)]
fn mean_and_inverse_deviation(row: &[f32], epsilon: f32) -> (f32, f32) {
    let share = (row.len() as f32).recip();
    let mean = share * sum(row, row, |x, _| x);
    let variance = share * sum(row, row, |x, _| (x - mean) * (x - mean));
    (mean, (variance + epsilon).sqrt().recip())
}

#[inline(always)]
fn inverse_root_mean_square(row: &[f32], epsilon: f32) -> f32 {
    let share = (row.len() as f32).recip();
    (share * sum(row, row, |x, y| x * y) + epsilon).sqrt().recip()
}

/// Sum of `term` over two slices of one length, in an order that depends on the length alone.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += term(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += term(a, b);
    }
    lanes.iter().sum()
}

#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(value);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Distribution function of the standard normal, `(1 + erf(x / sqrt(2))) / 2`.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `e^x` to two units in the last place; zero where the result would be subnormal, NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.0;
    /// ln 2 in two parts, the first so short that its products with an exponent are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Minimax fit of `(e^r - 1 - r) / r^2` on half of ln 2 either side, relative error 3e-9.
    const P: [f32; 5] = [0.001_381_459_9, 0.008_368_717, 0.041_668_39, 0.166_665_21, 0.499_999_94];
    // `clamp` keeps NaN, which `max` and `min` would lose.
    let inside = x.clamp(LOWEST, 88.0);
    let shifted = inside * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = inside - n * LN_2[0] - n * LN_2[1];
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let y = (polynomial(r, P) * r * r + r + 1.0) * power;
    if x < LOWEST { 0.0 } else { y }
}

/// Error function as a ratio of polynomials, absolute error below 4e-7; exactly 1 beyond `END`.
#[inline(always)]
fn erf(x: f32) -> f32 {
    /// From here the error function rounds to 1.
    const END: f32 = 4.0;
    /// Minimax fit of `erf(x) / x` in `x^2` up to `END`, error 2e-8 without that of rounding.
    const P: [f32; 6] =
        [1.974_82e-6, 2.880_418_4e-4, 0.004_003_678_4, 0.053_467_58, 0.196_249_78, FRAC_2_SQRT_PI];
    const Q: [f32; 6] = [3.748_078e-5, 0.001_216_367_2, 0.015_444_487, 0.116_476_76, 0.507_253, 1.0];
    let inside = x.clamp(-END, END);
    let y = inside * polynomial(inside * inside, P) / polynomial(inside * inside, Q);
    // Else GELU would keep a multiple of x far below zero.
    if x.abs() < END { y } else { x.clamp(-1.0, 1.0) }
}

/// The polynomial with these coefficients, highest power first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients.into_iter().reduce(|sum, c| sum * x + c).unwrap_or(0.0)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "whole numbers and limits are exact")]
mod tests {
    use super::{erf, exp, maximum, sum};

    /// Two units in the last place of a result in [1, 2): the polynomial's error and the last rounding.
    const EXP_RELATIVE: f64 = 2.4e-7;
    /// The fit's error and, for the most part, the rounding of two polynomials and their ratio.
    const ERF_ABSOLUTE: f64 = 4e-7;

    #[test]
    fn exp_is_accurate_and_ends_well() {
        for i in -86_000..88_000 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < EXP_RELATIVE, "exp({x}) = {}", exp(x));
        }
        assert_eq!([exp(-87.5), exp(f32::NEG_INFINITY), exp(0.0)], [0.0, 0.0, 1.0]);
        assert!(exp(f32::NAN).is_nan() && exp(1e30).is_finite());
    }

    #[test]
    fn erf_is_accurate_and_ends_well() {
        // Its derivative is known: integrate by Simpson's rule in f64.
        let density = |x: f64| std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp();
        let (mut expected, h) = (0.0, f64::from(2.0_f32.powi(-10)));
        for i in 0..6000 {
            let x = f64::from(i) * h;
            for (sign, x) in [(1.0, x as f32), (-1.0, -x as f32)] {
                assert!((f64::from(erf(x)) - sign * expected).abs() < ERF_ABSOLUTE, "erf({x}) = {}", erf(x));
            }
            expected += h / 6.0 * (density(x) + 4.0 * density(x + h / 2.0) + density(x + h));
        }
        assert_eq!([erf(4.0), erf(-4.0), erf(f32::NEG_INFINITY)], [1.0, -1.0, -1.0]);
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_see_every_value_once() {
        for n in [0, 1, 15, 16, 17, 40] {
            let values: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(sum(&values, &values, |a, b| a + b), (n * (n + 1)) as f32);
            let descending: Vec<f32> = values.iter().map(|x| -x).collect();
            assert_eq!(maximum(&descending), if n == 0 { f32::NEG_INFINITY } else { -1.0 });
            assert_eq!(maximum(&values), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
        }
    }
}
