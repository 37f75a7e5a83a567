//! Laws of a decomposition, on every matrix of the collection, in single and in double precision.

use nalgebra::DMatrix;
use sara_svd::{
    Error,
    host::{self, Factors, Sample},
};

use crate::matrices::{
    Case, all, comfortable, double, gaussian, graded_columns, kahan, oracle, planted, single,
};

/// LAPACK's residual ratios, with room for the Gram path: its smallest accepted singular value is 3e-6 of the
/// largest, and an error of a few `f64::EPSILON` in an eigenvalue grows by the inverse of that.
const BACKWARD: f64 = 1e-9;
/// The Gram path leaves 1e-8 at worst, which is below the rounding of f32 by a factor of six.
const ORTHOGONAL: f64 = 1e-8;
/// Entries whose moduli differ by less count as equal, as the documentation says.
const TIE: f64 = 1e-4;
/// Both solvers round differently; relative to the largest singular value.
const VALUES: f64 = 1e-10;

/// Checks everything that the factors of `a` must fulfil, given that `data` holds `a` row by row.
fn assert_laws<T: Sample>(name: &str, a: &DMatrix<f64>, data: &[T]) -> Factors {
    let (m, n) = a.shape();
    let k = m.min(n);
    let factors = host::svd(data, m, n).unwrap_or_else(|error| panic!("{name}: {error}"));
    let Factors { u, s, vt } = &factors;
    assert_eq!((u.len(), s.len(), vt.len()), (m * k, k, k * n), "{name}: shapes");
    assert!(s.is_sorted_by(|x, y| x >= y) && s[k - 1] >= 0.0, "{name}: descending, not negative");

    let u = DMatrix::from_row_slice(m, k, u);
    let vt = DMatrix::from_row_slice(k, n, vt);
    for (what, gram) in [("u", u.tr_mul(&u)), ("vt", &vt * vt.transpose())] {
        let off = (gram - DMatrix::identity(k, k)).amax();
        assert!(off <= ORTHOGONAL, "{name}: {what} is {off:.1e} from orthonormal");
    }
    for (j, column) in u.column_iter().enumerate() {
        let largest = column.amax();
        let first = column.iter().find(|x| x.abs() >= largest * (1.0 - TIE)).unwrap();
        assert!(*first > 0.0, "{name}: sign of column {j}");
    }

    let scale = comfortable(a);
    let s = nalgebra::DVector::from_iterator(k, s.iter().map(|x| x * scale));
    let residual = (&u * DMatrix::from_diagonal(&s) * vt - a * scale).norm();
    assert!(residual <= BACKWARD * s[0], "{name}: residual {residual:.1e}");

    let values = host::singular_values(data, m, n).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(values.len(), k);
    for (value, with_vectors) in values.iter().zip(&s) {
        assert!((value * scale - with_vectors).abs() <= VALUES * s[0], "{name}: values only");
    }
    factors
}

/// Laws, and the values of another implementation.
fn assert_svd<T: Sample>(name: &str, a: &DMatrix<f64>, data: &[T]) {
    let factors = assert_laws(name, a, data);
    let scale = comfortable(a);
    let expected = oracle(&(a * scale));
    for (found, expected_value) in factors.s.iter().zip(&expected) {
        let off = (found * scale - expected_value).abs();
        assert!(off <= VALUES * expected[0], "{name}: {found:e}, not {expected_value:e}");
    }
}

#[test]
fn every_matrix_obeys_the_laws_and_agrees_with_nalgebra() {
    for Case { name, a } in all() {
        assert_svd(name, &a, &single(&a));
        assert_svd(name, &a, &double(&a));
    }
}

#[test]
fn the_ends_of_the_range_of_f64_are_no_exception() {
    for (name, a) in [
        ("kahan to 1e-140", kahan(256, 0.285)),
        ("kahan, underflowing", kahan(400, 0.1)),
        ("kahan, underflowing early", kahan(300, 0.02)),
        ("columns graded to 1e-200", graded_columns(120, 1e-200, 1)),
        ("largest", gaussian(60, 40, 1) * 1e305),
        ("denormal", gaussian(40, 60, 1) * 1e-310),
    ] {
        assert_svd(name, &a, &double(&a));
    }
}

#[test]
fn graded_columns_keep_their_relative_accuracy() {
    /// `f64::EPSILON` times a condition number of 3e7.
    const RELATIVE: f64 = 1e-8;
    let a = graded_columns(120, 1e-6, 7).map(|x| f64::from(x as f32));
    let values = host::singular_values(&single(&a), 120, 120).unwrap();
    for (value, expected) in values.iter().zip(oracle(&a)) {
        assert!((value - expected).abs() <= RELATIVE * expected, "{value:e}, not {expected:e}");
    }
}

#[test]
fn planted_values_come_back() {
    let planted_values = [9.0, 7.5, 3.25, 3.0, 0.125, 1e-3];
    let values = host::singular_values(&double(&planted(11, 6, &planted_values, 20)), 11, 6).unwrap();
    for (value, expected) in values.iter().zip(planted_values) {
        assert!((value - expected).abs() <= VALUES, "{value}, not {expected}");
    }
}

/// Large enough for the way by a band, with entries that meet again far from where they were.
#[test]
fn a_few_rows_on_a_large_identity() {
    const N: usize = 800;
    let mut a = vec![0.0_f32; (N + 3) * N];
    for i in 0..N {
        a[i * N + i] = 1.0;
    }
    for (row, [i, j]) in [[0, 32], [32, 64], [4, 33]].into_iter().enumerate() {
        (a[(N + row) * N + i], a[(N + row) * N + j]) = (0.5, 0.5);
    }
    let values = host::singular_values(&a, N + 3, N).unwrap();
    // The rows (1/2, 1/2, 0) and (0, 1/2, 1/2) add 3/4, 1/4 and 0 to the squares, the row (1/2, 1/2) adds 1/2 and 0.
    let expected = [1.75, 1.5, 1.25].map(f64::sqrt).into_iter().chain(std::iter::repeat(1.0));
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() <= VALUES, "{value}, not {expected}");
    }
}

#[test]
fn scaling_by_a_power_of_two_is_exact() {
    let a = gaussian(30, 20, 21);
    let factors = host::svd(&single(&a), 30, 20).unwrap();
    for exponent in [-100, -1, 1, 100] {
        let scaled = host::svd(&single(&(&a * 2_f64.powi(exponent))), 30, 20).unwrap();
        assert_eq!((&scaled.u, &scaled.vt), (&factors.u, &factors.vt), "2^{exponent}");
        let s: Vec<f64> = factors.s.iter().map(|x| x * 2_f64.powi(exponent)).collect();
        assert_eq!(scaled.s, s, "2^{exponent}");
    }
}

#[test]
fn transposing_swaps_the_factors() {
    let a = gaussian(30, 20, 22);
    let tall = host::svd(&single(&a), 30, 20).unwrap();
    let wide = host::svd(&single(&a.transpose()), 20, 30).unwrap();
    assert_eq!(tall.s, wide.s);
    let u = DMatrix::from_row_slice(30, 20, &tall.u);
    let v = DMatrix::from_row_slice(20, 30, &wide.vt).transpose();
    for j in 0..20 {
        // Each side fixes the sign of its own u.
        let sign = u.column(j).dot(&v.column(j)).signum();
        assert_eq!(u.column(j).clone_owned(), v.column(j) * sign, "column {j}");
    }
}

#[test]
fn the_same_matrix_gives_the_same_bits() {
    for a in [gaussian(300, 200, 23), planted(300, 200, &[3.0, 2.0, 1.0], 24)] {
        let data = single(&a);
        let first = host::svd(&data, 300, 200).unwrap();
        assert_eq!(host::svd(&data, 300, 200).unwrap(), first);
        let values = host::singular_values(&data, 300, 200).unwrap();
        assert_eq!(host::singular_values(&data, 300, 200).unwrap(), values);
    }
}

#[test]
fn empty_matrices_have_empty_factors() {
    let empty = Factors { u: Vec::new(), s: Vec::new(), vt: Vec::new() };
    for (m, n) in [(0, 0), (0, 5), (5, 0)] {
        assert_eq!(host::svd::<f32>(&[], m, n).unwrap(), empty);
        assert!(host::singular_values::<f64>(&[], m, n).unwrap().is_empty());
    }
}

#[test]
fn entries_that_are_not_finite_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut data = single(&gaussian(4, 7, 25));
        data[2 * 7 + 5] = bad;
        data[3 * 7] = f32::INFINITY;
        for error in [host::svd(&data, 4, 7).unwrap_err(), host::singular_values(&data, 4, 7).unwrap_err()] {
            let Error::NonFinite { row: 2, column: 5, value } = error else { panic!("{error:?}") };
            assert_eq!(value.to_string(), bad.to_string());
            assert!(!error.to_string().contains('\n'));
        }
    }
}

#[test]
fn misuse_is_an_error() {
    for (m, n) in [(2, 3), (5, 0), (usize::MAX, 2)] {
        let error = host::svd(&[1.0_f32; 5], m, n).unwrap_err();
        assert_eq!(error, Error::Shape { rows: m, columns: n, values: 5 });
    }
    // Every entry is finite, the largest singular value is not.
    assert_eq!(host::singular_values(&[f64::MAX; 4], 2, 2), Err(Error::Overflow { dtype: "f64" }));
}
