//! Jacobi by itself, the same suite on every backend that computes.

use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use nalgebra::DMatrix;
use sara_svd::{Algorithm, Error, Place, Precision, Svd, SvdOps, Way, svd_batched, svd_by};

use crate::matrices::{Case, all, comfortable, double, gaussian, graded_columns, oracle};
use crate::on_backends;
use crate::tensors::{matrix, upload, values};

/// Error of a singular value, relative to the largest.
const VALUES: f64 = 5e-7;
/// Distance of the factors from orthonormal.
const ORTHOGONAL: f64 = 1e-5;
/// What a sweep tells the host: two cosines and a norm.
const BYTES_A_SWEEP: usize = 12;
/// What is read beside the sweeps for every 64 columns, among them those of `u` that have to be made up.
const BYTES_BESIDE: usize = 200;
/// Error of the product of the factors, in units of rounding times the longer side.
const RECONSTRUCTION: f64 = 30.0;

/// Entries whose moduli differ by less count as equal, as the documentation says.
const TIE: f64 = 1e-4;

on_backends!(suite);

/// Everything that must hold on a backend; `place` is where it must have been computed.
fn suite<B: SvdOps>(place: Place) {
    every_matrix_obeys_the_laws::<B>(place);
    graded_columns_keep_their_relative_accuracy::<B>();
    views_are_read_in_their_own_order::<B>();
    bad_input_is_an_error::<B>();
    the_same_input_gives_the_same_bits::<B>();
    signs_are_those_of_the_host::<B>();
}

/// Columns whose entries all have one modulus: which of them is the largest, rounding would decide.
fn signs_are_those_of_the_host<B: SvdOps>() {
    /// As the rest of this suite asks of vectors, with room for the small values' share of rounding.
    const VECTORS: f64 = 1e-4;
    for (size, flip) in [(2, 0), (4, 0), (4, 5), (8, 3), (16, 6)] {
        // Hadamard's matrix, with rows of other signs in front, between values that lie apart.
        let hadamard = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let sign = |i: usize| if (flip >> (i % 3)) & 1 == 1 { -1.0 } else { 1.0 };
        let u = DMatrix::from_fn(size, size, |i, j| sign(i) * hadamard(i, j));
        let v = DMatrix::from_fn(size, size, |i, j| hadamard(i, (j + 1) % size));
        let values = nalgebra::DVector::from_fn(size, |i, _| (size - i) as f64);
        let a = &u * DMatrix::from_diagonal(&values) * v.transpose();
        let Svd { u: found, .. } = by_jacobi(upload::<B>(&a));
        let rows: Vec<f32> = a.transpose().iter().map(|&x| x as f32).collect();
        let host = sara_svd::host::svd(&rows, size, size).unwrap();
        let (found, host) = (matrix(found), DMatrix::from_row_slice(size, size, &host.u));
        assert!((&found - &host).amax() < VECTORS, "{size}, {flip}: {found} {host}");
        assert!(found.row(0).iter().all(|&first| first > 0.0), "{size}, {flip}: {found}");
    }
}

fn by_jacobi<B: SvdOps>(a: Tensor<B, 2>) -> Svd<B> {
    svd_by(a, Way::Jacobi).unwrap()
}

fn every_matrix_obeys_the_laws<B: SvdOps>(place: Place) {
    let mut failed = Vec::new();
    for Case { name, a } in all() {
        let problems = laws::<B>(&a, place);
        if !problems.is_empty() {
            failed.push(format!("{name}: {}", problems.join(", ")));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What the decomposition of `a` gets wrong.
fn laws<B: SvdOps>(a: &DMatrix<f64>, place: Place) -> Vec<String> {
    let (m, n) = a.shape();
    let k = m.min(n);
    let Svd { u, s, vt, report } = match svd_by(upload::<B>(a), Way::Jacobi) {
        Ok(svd) => svd,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            problems.push(what);
        }
    };
    check(report.algorithm == Algorithm::Jacobi, format!("{:?} ran", report.algorithm));
    check(report.place == place, format!("it ran on the {:?}", report.place));
    check(report.precision == Precision::F32, format!("in {:?}", report.precision));
    let few = BYTES_A_SWEEP * (report.iterations + 2) + BYTES_BESIDE * k.div_ceil(64);
    let read = report.bytes_read;
    // Denormal numbers are scaled on the host.
    let reads_matrix = place == Place::Host || (a.amax() > 0.0 && a.amax() < 1e-36);
    check(reads_matrix || read <= few, format!("{read} bytes were read, not {few}"));
    check((u.dims(), s.dims(), vt.dims()) == ([m, k], [k], [k, n]), "shapes".into());

    let scale = comfortable(a);
    let (u, vt) = (matrix(u), matrix(vt));
    let found: Vec<f64> = values(s).into_iter().map(|x| x * scale).collect();
    let expected = oracle(&(a * scale));
    let largest = expected[0];
    check(found.is_sorted_by(|x, y| x >= y) && found[k - 1] >= 0.0, "not descending".into());
    let worst = found.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    // A denormal number is rounded to more than f32's unit when it is handed over.
    let handed_over = f64::from(f32::from_bits(1)) * scale;
    let off = format!("values off by {:.1e} of the largest", worst / largest);
    check(worst <= VALUES * largest + handed_over, off);
    let bound = report.error_bound * scale + handed_over;
    check(worst <= bound, format!("values off by {worst:.1e}, bound {bound:.1e}"));
    for (what, gram) in [("u", u.tr_mul(&u)), ("vt", &vt * vt.transpose())] {
        let off = (gram - DMatrix::identity(k, k)).amax();
        check(off <= ORTHOGONAL, format!("{what} is {off:.1e} from orthonormal"));
    }
    for (j, column) in u.column_iter().enumerate() {
        let largest = column.amax();
        let first = column.iter().find(|x| x.abs() >= largest * (1.0 - TIE));
        check(first.is_some_and(|&first| first > 0.0), format!("sign of column {j}"));
    }
    let s = DMatrix::from_diagonal(&nalgebra::DVector::from_vec(found));
    let residual = (&u * s * &vt - a * scale).norm();
    let limit = RECONSTRUCTION * m.max(n) as f64 * f64::from(f32::EPSILON) * largest;
    check(residual <= limit + handed_over, format!("residual {residual:.1e}, limit {limit:.1e}"));
    problems
}

fn graded_columns_keep_their_relative_accuracy<B: SvdOps>() {
    const RELATIVE: f64 = 5e-5;
    let a = graded_columns(120, 1e-6, 7).map(|x| f64::from(x as f32));
    for a in [a.clone(), a.transpose()] {
        let s = values(by_jacobi(upload::<B>(&a)).s);
        for (value, expected) in s.iter().zip(oracle(&a)) {
            assert!((value - expected).abs() <= RELATIVE * expected, "{value:e}, not {expected:e}");
        }
    }
}

fn views_are_read_in_their_own_order<B: SvdOps>() {
    let a = gaussian(12, 30, 40);
    let columns = a.columns(3, 9).transpose();
    let view = upload::<B>(&a).slice([0..12, 3..12]).transpose();
    let (through, plain) = (by_jacobi(view), by_jacobi(upload::<B>(&columns)));
    assert_eq!(through.u.dims(), [9, 9]);
    assert_eq!(values(through.s), values(plain.s));
    assert_eq!(values(through.u), values(plain.u));
    assert_eq!(values(through.vt), values(plain.vt));
}

fn bad_input_is_an_error<B: SvdOps>() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut a = gaussian(6, 5, 42);
        a[(4, 2)] = bad;
        match svd_by(upload::<B>(&a), Way::Jacobi).unwrap_err() {
            Error::NonFinite { row: 4, column: 2, value } => {
                assert_eq!(value.to_bits() & !(1 << 63), bad.to_bits() & !(1 << 63));
            }
            other => panic!("{other}"),
        }
    }
    for [m, n] in [[0, 4], [4, 0]] {
        let svd = by_jacobi(Tensor::<B, 2>::empty([m, n], &B::Device::default()));
        assert_eq!((svd.u.dims(), svd.s.dims(), svd.vt.dims()), ([m, 0], [0], [0, n]));
    }
    // Every entry fits into f32, their common singular value does not.
    let large = Tensor::<B, 2>::full([4, 4], f32::MAX, &B::Device::default());
    assert_eq!(svd_by(large, Way::Jacobi).unwrap_err(), Error::Overflow { dtype: "f32" });
}

fn the_same_input_gives_the_same_bits<B: SvdOps>() {
    // The second is done long before the others, the third never is more than noise in half of its columns.
    let duplicated = gaussian(50, 20, 48);
    let twice = DMatrix::from_fn(50, 40, |i, j| duplicated[(i, j % 20)]);
    let matrices = [gaussian(50, 40, 45), DMatrix::identity(50, 40), twice];
    let stack = Tensor::stack::<3>(matrices.iter().map(upload::<B>).collect(), 0);
    let together = svd_batched(stack, Way::Jacobi).unwrap();
    for (a, in_batch) in matrices.iter().zip(together) {
        let alone = by_jacobi(upload::<B>(a));
        assert_eq!(values(alone.u), values(in_batch.u));
        assert_eq!(values(alone.s), values(in_batch.s));
        assert_eq!(values(alone.vt), values(in_batch.vt));
    }
}

#[test]
fn doubles_stay_doubles() {
    let a = gaussian(40, 33, 47);
    let data = TensorData::new(double(&a), [40, 33]);
    let tensor = Tensor::<Flex, 2>::from_data(data, (&FlexDevice, DType::F64));
    let svd = by_jacobi(tensor);
    assert_eq!(svd.report.precision, Precision::F64);
    for (found, expected) in values(svd.s).into_iter().zip(oracle(&a)) {
        assert!((found - expected).abs() <= 1e-13 * expected, "{found}, not {expected}");
    }
}
