//! The matrices that every implementation is tried on, by name.

use nalgebra::DMatrix;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// A named matrix.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) a: DMatrix<f64>,
}

/// Standard normal entries by Box and Muller, the same for the same seed.
pub(crate) fn gaussian(m: usize, n: usize, seed: u64) -> DMatrix<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    DMatrix::from_fn(m, n, |_, _| {
        let (radius, angle): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    })
}

/// Orthonormal columns.
pub(crate) fn orthonormal(m: usize, n: usize, seed: u64) -> DMatrix<f64> {
    gaussian(m, n, seed).qr().q()
}

/// `m x n` with the singular values `s`.
pub(crate) fn planted(m: usize, n: usize, s: &[f64], seed: u64) -> DMatrix<f64> {
    let scaled = DMatrix::from_fn(m, s.len(), {
        let u = orthonormal(m, s.len(), seed);
        move |i, j| u[(i, j)] * s[j]
    });
    scaled * orthonormal(n, s.len(), seed + 1).transpose()
}

/// Square, with the singular values `s`, between reflections: for sizes where [`planted`] takes long.
pub(crate) fn reflected(s: &[f64], seed: u64) -> DMatrix<f64> {
    let n = s.len();
    let mut a = DMatrix::from_diagonal(&s.to_vec().into());
    let vectors = gaussian(n, 8, seed);
    for (i, v) in vectors.column_iter().enumerate() {
        let v = v.normalize();
        if i % 2 == 0 {
            let row = a.tr_mul(&v);
            a.ger(-2.0, &v, &row, 1.0);
        } else {
            let column = &a * &v;
            a.ger(-2.0, &column, &v, 1.0);
        }
    }
    a
}

/// `f(i / (k - 1))` for `i` in `0..k`.
pub(crate) fn spectrum(k: usize, f: impl Fn(f64) -> f64) -> Vec<f64> {
    (0..k).map(|i| f(i as f64 / (k - 1) as f64)).collect()
}

/// Kahan's matrix: triangular, graded, and with columns at rounding level for most solvers.
pub(crate) fn kahan(n: usize, theta: f64) -> DMatrix<f64> {
    let (sin, cos) = theta.sin_cos();
    DMatrix::from_fn(n, n, |i, j| {
        sin.powi(i as i32)
            * match i.cmp(&j) {
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Less => -cos,
                std::cmp::Ordering::Greater => 0.0,
            }
    })
}

/// Columns scaled from 1 down to `smallest`, in scrambled order.
pub(crate) fn graded_columns(n: usize, smallest: f64, seed: u64) -> DMatrix<f64> {
    let mut a = gaussian(n, n, seed);
    for (i, mut column) in a.column_iter_mut().enumerate() {
        // 7 is coprime to the sizes used here, so every grade occurs once.
        column *= smallest.powf((i * 7 % n) as f64 / (n - 1) as f64);
    }
    a
}

fn hilbert(n: usize) -> DMatrix<f64> {
    DMatrix::from_fn(n, n, |i, j| 1.0 / (i + j + 1) as f64)
}

fn tridiagonal(n: usize, lower: f64, diagonal: impl Fn(usize) -> f64, upper: f64) -> DMatrix<f64> {
    DMatrix::from_fn(n, n, |i, j| {
        if i == j {
            diagonal(i)
        } else if i == j + 1 {
            lower
        } else if j == i + 1 {
            upper
        } else {
            0.0
        }
    })
}

/// Every finite case, scaled so that f32 can hold it; entries are rounded to f32.
pub(crate) fn all() -> Vec<Case> {
    let mut duplicated = gaussian(96, 64, 3);
    for j in 0..32 {
        let column = duplicated.column(j).clone_owned();
        duplicated.set_column(j + 32, &column);
    }
    let mut blocks = DMatrix::zeros(60, 60);
    for (block, scale) in [1e12, 1.0, 1e-12].into_iter().enumerate() {
        blocks.view_mut((20 * block, 20 * block), (20, 20)).copy_from(&(gaussian(20, 20, 4) * scale));
    }
    let mut wild_column = gaussian(48, 32, 5);
    for (i, x) in wild_column.column_mut(7).iter_mut().enumerate() {
        *x = 10_f64.powi(30 - i as i32);
    }
    let permutation = DMatrix::from_fn(41, 41, |i, j| f64::from(j == i * 7 % 41));
    let mut pascal = DMatrix::from_element(16, 16, 1.0);
    for i in 1..16 {
        for j in 1..16 {
            pascal[(i, j)] = pascal[(i - 1, j)] + pascal[(i, j - 1)];
        }
    }
    let mut lotkin = hilbert(40);
    lotkin.fill_row(0, 1.0);
    let orthogonal_diagonal = planted(50, 50, &spectrum(50, |x| 1e-9_f64.powf(x)), 6);

    let cases = [
        ("gaussian", gaussian(96, 64, 1)),
        ("gaussian, wide", gaussian(40, 120, 2)),
        ("gaussian, square", gaussian(128, 128, 2)),
        ("gaussian x 1e30", gaussian(96, 64, 1) * 1e30),
        ("gaussian x 1e36", gaussian(96, 64, 1) * 1e36),
        ("gaussian x 1e-30", gaussian(96, 64, 1) * 1e-30),
        ("denormals", gaussian(96, 64, 1) * 1e-40),
        ("one denormal", DMatrix::from_fn(5, 4, |i, j| if (i, j) == (3, 2) { 1e-45 } else { 0.0 })),
        ("kahan", kahan(256, 0.285)),
        ("kahan 1.2", kahan(100, 1.2)),
        ("ones", DMatrix::from_element(64, 64, 1.0)),
        ("ones, wide", DMatrix::from_element(3, 64, -1.0)),
        ("duplicated columns", duplicated),
        ("graded columns", graded_columns(120, 1e-6, 7)),
        ("graded columns, steep", graded_columns(120, 1e-14, 7)),
        ("graded rows", graded_columns(120, 1e-6, 8).transpose()),
        ("hilbert", hilbert(64)),
        ("lotkin", lotkin),
        ("rank 5", planted(80, 60, &[5.0, 4.0, 3.0, 2.0, 1.0], 9)),
        ("zeros", DMatrix::zeros(20, 30)),
        ("negative zeros", DMatrix::from_element(4, 3, -0.0)),
        ("identity", DMatrix::identity(48, 48)),
        ("identity with noise", DMatrix::identity(48, 48) + gaussian(48, 48, 10) * 1e-4),
        ("permutation", permutation),
        ("one row", gaussian(1, 37, 11)),
        ("one column", gaussian(37, 1, 12)),
        ("one entry", DMatrix::from_element(1, 1, -3.0)),
        ("two by two", DMatrix::from_row_slice(2, 2, &[1.0, 2.0, 3.0, 4.0])),
        ("two by two, nearly singular", DMatrix::from_row_slice(2, 2, &[1.0, 1.0, 1.0, 1.0 + 1e-6])),
        ("triangular ones", DMatrix::from_fn(64, 64, |i, j| f64::from(i <= j))),
        ("repeated values", planted(64, 64, &spectrum(64, |x| 1.0 + (3.99 * x).floor()), 13)),
        ("even spectrum to eps", planted(70, 50, &spectrum(50, |x| 1.0 - x * (1.0 - f64::EPSILON)), 14)),
        ("geometric spectrum to eps", planted(70, 50, &spectrum(50, |x| f64::EPSILON.powf(x)), 15)),
        ("kappa within the Gram path", planted(90, 60, &spectrum(60, |x| 1.2e-5_f64.powf(x)), 17)),
        ("kappa within the Gram path, square", planted(80, 80, &spectrum(80, |x| 1.2e-5_f64.powf(x)), 18)),
        (
            "many at the Gram path's end",
            planted(90, 60, &spectrum(60, |x| if x < 0.3 { 1.0 } else { 1.1e-5 }), 19),
        ),
        ("one large, rest tiny", planted(50, 70, &spectrum(50, |x| if x > 0.0 { 1e-7 } else { 1.0 }), 16)),
        ("orthogonal x diagonal", orthogonal_diagonal),
        ("far blocks", blocks),
        ("wild column", wild_column),
        ("vandermonde", DMatrix::from_fn(40, 20, |i, j| (i as f64 / 39.0).powi(j as i32))),
        ("cauchy", DMatrix::from_fn(30, 30, |i, j| 1.0 / (i as f64 - j as f64 + 0.5))),
        ("pascal", pascal),
        ("frank", DMatrix::from_fn(20, 20, |i, j| if i <= j + 1 { (20 - i.max(j)) as f64 } else { 0.0 })),
        ("wilkinson", tridiagonal(41, 1.0, |i| (i as f64 - 20.0).abs(), 1.0)),
        (
            "grcar",
            DMatrix::from_fn(50, 50, |i, j| if i == j + 1 { -1.0 } else { f64::from(i <= j && j <= i + 3) }),
        ),
        ("bidiagonal, geometric", tridiagonal(60, 0.0, |i| 0.5_f64.powi(i as i32), 1.0)),
    ];
    cases.into_iter().map(|(name, a)| Case { name, a: a.map(|x| f64::from(x as f32)) }).collect()
}

/// Row by row, as f32.
pub(crate) fn single(a: &DMatrix<f64>) -> Vec<f32> {
    a.transpose().iter().map(|&x| x as f32).collect()
}

/// Row by row.
pub(crate) fn double(a: &DMatrix<f64>) -> Vec<f64> {
    a.transpose().iter().copied().collect()
}

/// Singular values by nalgebra in f64, descending.
pub(crate) fn oracle(a: &DMatrix<f64>) -> Vec<f64> {
    let mut s: Vec<f64> = a.clone().singular_values().iter().copied().collect();
    s.sort_by(|x, y| y.total_cmp(x));
    s
}

/// Powers of two that bring a matrix to about one, where the test's own arithmetic is safe.
pub(crate) fn comfortable(a: &DMatrix<f64>) -> f64 {
    let largest = a.amax();
    if largest == 0.0 { 1.0 } else { 2_f64.powi(-(largest.log2().floor() as i32).clamp(-1000, 1000)) }
}
