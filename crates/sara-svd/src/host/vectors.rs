//! Sums over vectors, in the widest registers that the processor has.
#![expect(clippy::inline_always, reason = "what is not inlined into a dispatch does not use them")]

use pulp::{Simd, WithSimd};

/// Sum of the products.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    struct Dot<'a>(&'a [f64], &'a [f64]);
    impl WithSimd for Dot<'_> {
        type Output = f64;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f64 {
            dot_with(simd, self.0, self.1)
        }
    }
    pulp::Arch::new().dispatch(Dot(x, y))
}

/// [`dot`] inside a dispatch.
#[inline(always)]
pub(super) fn dot_with<S: Simd>(simd: S, x: &[f64], y: &[f64]) -> f64 {
    let ((x, x_rest), (y, y_rest)) = (S::as_simd_f64s(x), S::as_simd_f64s(y));
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    let mut sums = [simd.splat_f64s(0.0); 4];
    let (x4, x1) = pulp::as_arrays::<4, _>(x);
    let (y4, y1) = pulp::as_arrays::<4, _>(y);
    for (x, y) in x4.iter().zip(y4) {
        for i in 0..4 {
            sums[i] = simd.mul_add_e_f64s(x[i], y[i], sums[i]);
        }
    }
    for (&x, &y) in x1.iter().zip(y1) {
        sums[0] = simd.mul_add_e_f64s(x, y, sums[0]);
    }
    let sum = simd.add_f64s(simd.add_f64s(sums[0], sums[1]), simd.add_f64s(sums[2], sums[3]));
    rest + simd.reduce_sum_f64s(sum)
}

/// `y` plus multiples of vectors.
pub(super) fn add(y: &mut [f64], terms: &[(f64, &[f64])]) {
    struct Add<'a, 'b>(&'a mut [f64], &'a [(f64, &'b [f64])]);
    impl WithSimd for Add<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            add_with(simd, self.0, self.1);
        }
    }
    pulp::Arch::new().dispatch(Add(y, terms));
}

/// [`add`] inside a dispatch.
#[inline(always)]
pub(super) fn add_with<S: Simd>(simd: S, y: &mut [f64], terms: &[(f64, &[f64])]) {
    let (y, y_rest) = S::as_mut_simd_f64s(y);
    let (fours, last) = terms.as_chunks::<4>();
    for &(factor, x) in last {
        let (x, x_rest) = S::as_simd_f64s(x);
        let f = simd.splat_f64s(factor);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd.mul_add_e_f64s(f, x, *y);
        }
        for (y, x) in y_rest.iter_mut().zip(x_rest) {
            *y += factor * x;
        }
    }
    for &[(f0, x0), (f1, x1), (f2, x2), (f3, x3)] in fours {
        let ((x0, r0), (x1, r1)) = (S::as_simd_f64s(x0), S::as_simd_f64s(x1));
        let ((x2, r2), (x3, r3)) = (S::as_simd_f64s(x2), S::as_simd_f64s(x3));
        let (s0, s1) = (simd.splat_f64s(f0), simd.splat_f64s(f1));
        let (s2, s3) = (simd.splat_f64s(f2), simd.splat_f64s(f3));
        for ((((y, &x0), &x1), &x2), &x3) in y.iter_mut().zip(x0).zip(x1).zip(x2).zip(x3) {
            let sum = simd.mul_add_e_f64s(x0, s0, *y);
            let sum = simd.mul_add_e_f64s(x1, s1, sum);
            let sum = simd.mul_add_e_f64s(x2, s2, sum);
            *y = simd.mul_add_e_f64s(x3, s3, sum);
        }
        for (i, y) in y_rest.iter_mut().enumerate() {
            *y += f0 * r0[i] + f1 * r1[i] + f2 * r2[i] + f3 * r3[i];
        }
    }
}

/// Adds multiples of four vectors to `y`, and returns the products of each with `v`: each is read once.
#[inline(always)]
pub(super) fn add_and_dot_with<S: Simd>(
    simd: S,
    [x0, x1, x2, x3]: [&[f64]; 4],
    [f0, f1, f2, f3]: [f64; 4],
    v: &[f64],
    y: &mut [f64],
) -> [f64; 4] {
    let ((v, v_rest), (y, y_rest)) = (S::as_simd_f64s(v), S::as_mut_simd_f64s(y));
    let ((x0, r0), (x1, r1)) = (S::as_simd_f64s(x0), S::as_simd_f64s(x1));
    let ((x2, r2), (x3, r3)) = (S::as_simd_f64s(x2), S::as_simd_f64s(x3));
    let (s0, s1) = (simd.splat_f64s(f0), simd.splat_f64s(f1));
    let (s2, s3) = (simd.splat_f64s(f2), simd.splat_f64s(f3));
    let zero = simd.splat_f64s(0.0);
    let (mut d0, mut d1, mut d2, mut d3) = (zero, zero, zero, zero);
    for (((((y, &v), &x0), &x1), &x2), &x3) in y.iter_mut().zip(v).zip(x0).zip(x1).zip(x2).zip(x3) {
        let sum = simd.mul_add_e_f64s(x0, s0, *y);
        let sum = simd.mul_add_e_f64s(x1, s1, sum);
        let sum = simd.mul_add_e_f64s(x2, s2, sum);
        *y = simd.mul_add_e_f64s(x3, s3, sum);
        d0 = simd.mul_add_e_f64s(x0, v, d0);
        d1 = simd.mul_add_e_f64s(x1, v, d1);
        d2 = simd.mul_add_e_f64s(x2, v, d2);
        d3 = simd.mul_add_e_f64s(x3, v, d3);
    }
    let (mut d0, mut d1) = (simd.reduce_sum_f64s(d0), simd.reduce_sum_f64s(d1));
    let (mut d2, mut d3) = (simd.reduce_sum_f64s(d2), simd.reduce_sum_f64s(d3));
    for (i, (y, v)) in y_rest.iter_mut().zip(v_rest).enumerate() {
        *y += f0 * r0[i] + f1 * r1[i] + f2 * r2[i] + f3 * r3[i];
        d0 += r0[i] * v;
        d1 += r1[i] * v;
        d2 += r2[i] * v;
        d3 += r3[i] * v;
    }
    [d0, d1, d2, d3]
}
