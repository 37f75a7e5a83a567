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
            let ((x, x_rest), (y, y_rest)) = (S::as_simd_f64s(self.0), S::as_simd_f64s(self.1));
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
    }
    pulp::Arch::new().dispatch(Dot(x, y))
}

/// Divides a vector, whose entries are of moderate size, by its norm.
pub(super) fn normalize(x: &mut [f64]) {
    let norm = dot(x, x).sqrt();
    for x in x {
        *x /= norm;
    }
}

/// `y` plus multiples of vectors.
pub(super) fn add(y: &mut [f64], terms: &[(f64, &[f64])]) {
    struct Add<'a, 'b>(&'a mut [f64], &'a [(f64, &'b [f64])]);
    impl WithSimd for Add<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (y, y_rest) = S::as_mut_simd_f64s(self.0);
            let terms = self.1;
            let four = terms.chunks_exact(4);
            for &(factor, x) in four.remainder() {
                let (x, x_rest) = S::as_simd_f64s(x);
                let f = simd.splat_f64s(factor);
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = simd.mul_add_e_f64s(f, x, *y));
                y_rest.iter_mut().zip(x_rest).for_each(|(y, x)| *y += factor * x);
            }
            for four in four {
                let [(c0, r0), (c1, r1), (c2, r2), (c3, r3)] =
                    [four[0], four[1], four[2], four[3]].map(|(_, x)| S::as_simd_f64s(x));
                let [f0, f1, f2, f3] = [four[0], four[1], four[2], four[3]].map(|(f, _)| simd.splat_f64s(f));
                for ((((y, &c0), &c1), &c2), &c3) in y.iter_mut().zip(c0).zip(c1).zip(c2).zip(c3) {
                    let sum = simd.mul_add_e_f64s(c0, f0, *y);
                    let sum = simd.mul_add_e_f64s(c1, f1, sum);
                    let sum = simd.mul_add_e_f64s(c2, f2, sum);
                    *y = simd.mul_add_e_f64s(c3, f3, sum);
                }
                for (i, y) in y_rest.iter_mut().enumerate() {
                    *y += four[0].0 * r0[i] + four[1].0 * r1[i] + four[2].0 * r2[i] + four[3].0 * r3[i];
                }
            }
        }
    }
    pulp::Arch::new().dispatch(Add(y, terms));
}

/// Adds multiples of four vectors to `y`, and returns the products of each with `v`: each is read once.
pub(super) fn add_and_dot(four: [&[f64]; 4], factors: [f64; 4], v: &[f64], y: &mut [f64]) -> [f64; 4] {
    pulp::Arch::new().dispatch(Both { four, factors, v, y })
}

struct Both<'a> {
    four: [&'a [f64]; 4],
    factors: [f64; 4],
    v: &'a [f64],
    y: &'a mut [f64],
}

impl WithSimd for Both<'_> {
    type Output = [f64; 4];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 4] {
        let (v, v_rest) = S::as_simd_f64s(self.v);
        let (y, y_rest) = S::as_mut_simd_f64s(self.y);
        let [(c0, r0), (c1, r1), (c2, r2), (c3, r3)] = self.four.map(|c| S::as_simd_f64s(c));
        let [f0, f1, f2, f3] = self.factors.map(|f| simd.splat_f64s(f));
        let zero = simd.splat_f64s(0.0);
        let (mut s0, mut s1, mut s2, mut s3) = (zero, zero, zero, zero);
        for (((((y, &v), &c0), &c1), &c2), &c3) in y.iter_mut().zip(v).zip(c0).zip(c1).zip(c2).zip(c3) {
            let sum = simd.mul_add_e_f64s(c0, f0, *y);
            let sum = simd.mul_add_e_f64s(c1, f1, sum);
            let sum = simd.mul_add_e_f64s(c2, f2, sum);
            *y = simd.mul_add_e_f64s(c3, f3, sum);
            s0 = simd.mul_add_e_f64s(c0, v, s0);
            s1 = simd.mul_add_e_f64s(c1, v, s1);
            s2 = simd.mul_add_e_f64s(c2, v, s2);
            s3 = simd.mul_add_e_f64s(c3, v, s3);
        }
        let mut dots = [s0, s1, s2, s3].map(|s| simd.reduce_sum_f64s(s));
        let rest = [r0, r1, r2, r3];
        for (i, (y, v)) in y_rest.iter_mut().zip(v_rest).enumerate() {
            for c in 0..4 {
                *y += rest[c][i] * self.factors[c];
                dots[c] += rest[c][i] * v;
            }
        }
        dots
    }
}
