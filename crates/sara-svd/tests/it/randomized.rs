//! Randomized SVD, the same suite on every backend that computes.

use burn::tensor::{DType, Tensor, TensorData};
use nalgebra::DMatrix;
use sara_svd::{
    Accuracy, Algorithm, Convention, Engine, Error, Place, Precision, Rule, Svd, SvdOps, Way, host,
    randomized_svd, spectrum_rank_by, svd_by,
};

use crate::matrices::{double, gaussian, oracle, planted, spectrum};
use crate::on_backends;
use crate::tensors::{matrix, upload, values};

/// What `Accuracy::Full` promises of every value.
const RELATIVE: f64 = 1e-4;
const ORTHOGONAL: f64 = 1e-5;

on_backends!(suite);

fn suite<B: SvdOps>(place: Place) {
    leading_values_and_vectors::<B>(place);
    low_rank_is_no_trouble::<B>();
    fast_is_the_power_iteration_of_the_textbook::<B>();
    where_a_subspace_is_no_cheaper_everything_is_decomposed::<B>();
    numbers_out_of_range_are_refused::<B>();
    the_same_seed_gives_the_same_bits::<B>();
    doubles_keep_their_digits::<B>();
}

/// Spectra as pretrained weights have them, and worse.
fn decays(n: usize) -> [(&'static str, Vec<f64>); 3] {
    [
        ("slow", spectrum(n, |x| 1.0 - 0.999 * x.sqrt())),
        ("power law", spectrum(n, |x| 1.0 / (1.0 + 99.0 * x))),
        ("geometric", spectrum(n, |x| 1e-6_f64.powf(x))),
    ]
}

fn check<B: SvdOps>(name: &str, a: &DMatrix<f64>, svd: Svd<B>, k: usize, relative: f64) {
    let (m, n) = a.shape();
    let expected = oracle(a);
    assert_eq!((svd.u.dims(), svd.s.dims(), svd.vt.dims()), ([m, k], [k], [k, n]), "{name}");
    let (u, s, vt) = (matrix(svd.u), values(svd.s), matrix(svd.vt));
    for (what, gram) in [("u", u.tr_mul(&u)), ("vt", &vt * vt.transpose())] {
        let off = (gram - DMatrix::identity(k, k)).amax();
        assert!(off <= ORTHOGONAL, "{name}: {what} is {off:.1e} from orthonormal");
    }
    for (i, (found, expected)) in s.iter().zip(&expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= relative * expected, "{name}: value {i} is {found}, not {expected}");
        let bound = svd.report.error_bound;
        assert!(off <= bound, "{name}: value {i} is off by {off:.1e}, bound {bound:.1e}");
    }
    let projected = u.transpose() * a * vt.transpose() - DMatrix::from_diagonal(&s.into());
    assert!(projected.amax() <= 1e-5 * expected[0], "{name}: u^T a v is {:.1e} from s", projected.amax());
}

fn leading_values_and_vectors<B: SvdOps>(place: Place) {
    for (name, s) in decays(120) {
        for (m, n) in [(160, 120), (120, 120), (120, 160)] {
            let a = planted(m, n, &s, 60).map(|x| f64::from(x as f32));
            for k in [1, 10, 30] {
                let svd = randomized_svd(upload::<B>(&a), k, Accuracy::Full, 7).unwrap();
                let name = format!("{name}, {m} x {n}, k = {k}");
                assert_eq!(svd.report.algorithm, Algorithm::Randomized, "{name}");
                assert_eq!(svd.report.place, place, "{name}");
                check(&name, &a, svd, k, RELATIVE);
            }
        }
    }
}

/// More values than the matrix has: the rest are zero, and the vectors orthonormal all the same.
fn low_rank_is_no_trouble<B: SvdOps>() {
    let a = planted(100, 90, &[5.0, 4.0, 3.0, 2.0, 1.0], 9).map(|x| f64::from(x as f32));
    for (name, a) in
        [("rank 5", a), ("zeros", DMatrix::zeros(100, 90)), ("ones", DMatrix::from_element(100, 90, 1.0))]
    {
        for accuracy in [Accuracy::Full, Accuracy::Fast { iterations: 2 }] {
            let svd = randomized_svd(upload::<B>(&a), 12, accuracy, 1).unwrap();
            let (expected, s) = (oracle(&a), values(svd.s));
            for (found, expected_value) in s.iter().zip(&expected) {
                let off = (found - expected_value).abs();
                assert!(off <= 1e-5 * expected[0], "{name}: {found}, not {expected_value}");
            }
            for factor in [matrix(svd.u), matrix(svd.vt.transpose())] {
                let off = (factor.tr_mul(&factor) - DMatrix::identity(12, 12)).amax();
                assert!(off <= ORTHOGONAL, "{name}: {off:.1e} from orthonormal");
            }
        }
    }
}

fn fast_is_the_power_iteration_of_the_textbook<B: SvdOps>() {
    const K: usize = 16;
    let a = planted(150, 110, &spectrum(110, |x| 1.0 - 0.999 * x.sqrt()), 61).map(|x| f64::from(x as f32));
    let device = B::Device::default();
    let sketch = B::Engine::sketch([K, 110], 3, DType::F32, &device);
    let sketch = matrix(Tensor::<B::Engine, 2>::from_primitive(burn::tensor::TensorPrimitive::Float(sketch)));
    let mut q = (&a * sketch.transpose()).qr().q();
    for _ in 0..2 {
        q = a.tr_mul(&q).qr().q();
        q = (&a * q).qr().q();
    }
    let expected = oracle(&(q.transpose() * &a));
    let svd = randomized_svd(upload::<B>(&a), K, Accuracy::Fast { iterations: 2 }, 3).unwrap();
    for (found, expected) in values(svd.s.clone()).into_iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-5, "{found}, not {expected}");
    }
    // Too small by up to a tenth, and the bound knows.
    check("fast", &a, svd, K, 0.2);
}

fn where_a_subspace_is_no_cheaper_everything_is_decomposed<B: SvdOps>() {
    let a = gaussian(40, 50, 62).map(|x| f64::from(x as f32));
    let svd = randomized_svd(upload::<B>(&a), 39, Accuracy::Full, 0).unwrap();
    assert_ne!(svd.report.algorithm, Algorithm::Randomized);
    check("nearly all", &a, svd, 39, RELATIVE);
}

fn numbers_out_of_range_are_refused<B: SvdOps>() {
    let a = gaussian(7, 5, 63);
    for k in [0, 6] {
        let error = randomized_svd(upload::<B>(&a), k, Accuracy::Full, 0).unwrap_err();
        assert_eq!(error, Error::Count { k, rows: 7, columns: 5 });
    }
    let mut bad = a;
    bad[(6, 4)] = f64::NAN;
    let error = randomized_svd(upload::<B>(&bad), 2, Accuracy::Fast { iterations: 1 }, 0).unwrap_err();
    assert!(matches!(error, Error::NonFinite { row: 6, column: 4, .. }), "{error}");
}

fn the_same_seed_gives_the_same_bits<B: SvdOps>() {
    let a = planted(90, 80, &spectrum(80, |x| 1.0 - 0.9 * x), 64);
    let run = |seed| randomized_svd(upload::<B>(&a), 5, Accuracy::Fast { iterations: 1 }, seed).unwrap();
    let (one, two, other) = (run(5), run(5), run(6));
    assert_eq!(values(one.u), values(two.u));
    assert_eq!(values(one.vt), values(two.vt));
    assert_ne!(values(one.s), values(other.s));
}

/// Also where the device has none, and the host does the work.
fn doubles_keep_their_digits<B: SvdOps>() {
    let a = planted(60, 50, &spectrum(50, |x| 1e-3_f64.powf(x)), 65);
    let data = TensorData::new(double(&a), [60, 50]);
    let a64 = || Tensor::<B, 2>::from_data(data.clone(), (&B::Device::default(), DType::F64));
    let svd = randomized_svd(a64(), 4, Accuracy::Full, 0).unwrap();
    assert_eq!(svd.report.precision, Precision::F64);
    let mut bad = double(&a);
    bad[7] = f64::NAN;
    let bad = Tensor::<B, 2>::from_data(TensorData::new(bad, [60, 50]), (&B::Device::default(), DType::F64));
    let error = randomized_svd(bad, 4, Accuracy::Full, 0).unwrap_err();
    assert!(matches!(error, Error::NonFinite { row: 0, column: 7, .. }), "{error}");
    check("doubles", &a, svd, 4, RELATIVE);
    let decided = spectrum_rank_by(a64(), 0.5, Convention::Reach, Rule::Interval).unwrap();
    assert_eq!(decided.rank, host::spectrum_rank(&double(&a), 60, 50, 0.5, Convention::Reach).unwrap().rank);
}

/// ndarray has no such type.
#[test]
fn the_bound_of_half_precision_covers_its_rounding() {
    let a = planted(80, 70, &spectrum(70, |x| 1.0 - 0.9 * x), 66);
    let tensor = upload::<burn_flex::Flex>(&a).cast(DType::BF16);
    let expected = oracle(&matrix(tensor.clone()));
    for svd in
        [randomized_svd(tensor.clone(), 5, Accuracy::Full, 0).unwrap(), svd_by(tensor, Way::Jacobi).unwrap()]
    {
        assert_eq!(svd.s.dtype(), DType::BF16);
        for (found, expected) in values(svd.s).iter().zip(&expected) {
            assert!((found - expected).abs() <= svd.report.error_bound, "{found}, not {expected}");
        }
    }
}
