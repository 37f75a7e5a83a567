//! The public functions on tensors, the same suite on every CPU backend.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use nalgebra::DMatrix;
use sara_svd::{Convention, Error, Svd, SvdOps, host, singular_values, spectrum_rank, svd};

use crate::matrices::{all, gaussian, single};

/// `a` in f32.
pub(crate) fn upload<B: Backend>(a: &DMatrix<f64>) -> Tensor<B, 2> {
    upload_as(a, DType::F32)
}

/// What a tensor holds.
pub(crate) fn matrix<B: Backend>(a: Tensor<B, 2>) -> DMatrix<f64> {
    let [m, n] = a.dims();
    DMatrix::from_row_iterator(m, n, a.into_data().iter::<f64>())
}

fn upload_as<B: Backend>(a: &DMatrix<f64>, dtype: DType) -> Tensor<B, 2> {
    let data = TensorData::new(single(a), [a.nrows(), a.ncols()]);
    Tensor::<B, 2>::from_data(data, &B::Device::default()).cast(dtype)
}

pub(crate) fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// What must hold where the host computes: bit for bit what it computes from slices.
fn host_suite<B: SvdOps>() {
    results_are_the_host_results_rounded::<B>();
    views_are_read_in_their_own_order::<B>();
    suite::<B>();
}

/// What must hold on every backend; written out once, run on each.
fn suite<B: SvdOps>() {
    doubles_stay_doubles::<B>();
    empty_shapes_come_back_empty::<B>();
    errors_are_values::<B>();
}

fn results_are_the_host_results_rounded<B: SvdOps>() {
    let rounded = |values: &[f64]| -> Vec<f64> { values.iter().map(|&x| f64::from(x as f32)).collect() };
    for case in all() {
        let (m, n) = case.a.shape();
        let k = m.min(n);
        let a = upload::<B>(&case.a);
        let expected = host::svd(&single(&case.a), m, n).unwrap();
        let Svd { u, s, vt, .. } = svd(a.clone()).unwrap();
        assert_eq!((u.dims(), s.dims(), vt.dims()), ([m, k], [k], [k, n]), "{}", case.name);
        assert_eq!((u.dtype(), s.dtype(), vt.dtype()), (DType::F32, DType::F32, DType::F32));
        assert_eq!(values(u), rounded(&expected.u), "{}", case.name);
        assert_eq!(values(s), rounded(&expected.s), "{}", case.name);
        assert_eq!(values(vt), rounded(&expected.vt), "{}", case.name);

        let spectrum = host::singular_values(&single(&case.a), m, n).unwrap();
        assert_eq!(values(singular_values(a.clone()).unwrap()), rounded(&spectrum), "{}", case.name);
        let decided = spectrum_rank(a, 0.3, Convention::Floor).unwrap();
        assert_eq!(decided.values, spectrum, "{}: not rounded before the rule", case.name);
        assert_eq!(decided.rank, host::rank_of(&spectrum, 0.3, Convention::Floor).unwrap());
    }
}

fn views_are_read_in_their_own_order<B: SvdOps>() {
    let a = gaussian(12, 30, 40);
    let columns = a.columns(3, 9).clone_owned();
    let view = upload::<B>(&a).slice([0..12, 3..12]).transpose();
    let expected = host::svd(&single(&columns.transpose()), 9, 12).unwrap();
    let Svd { u, s, vt, .. } = svd(view).unwrap();
    assert_eq!((u.dims(), vt.dims()), ([9, 9], [9, 12]));
    assert_eq!(values(s), expected.s.iter().map(|&x| f64::from(x as f32)).collect::<Vec<_>>());
    assert_eq!(values(u), expected.u.iter().map(|&x| f64::from(x as f32)).collect::<Vec<_>>());
}

fn doubles_stay_doubles<B: SvdOps>() {
    let a = upload_as::<B>(&gaussian(15, 10, 41), DType::F64) * 1e200 * 1e-190;
    let data: Vec<f64> = values(a.clone());
    let expected = host::svd(&data, 15, 10).unwrap();
    let Svd { u, s, vt, .. } = svd(a).unwrap();
    assert_eq!((u.dtype(), s.dtype(), vt.dtype()), (DType::F64, DType::F64, DType::F64));
    assert_eq!((values(u), values(s), values(vt)), (expected.u, expected.s, expected.vt));
}

fn empty_shapes_come_back_empty<B: SvdOps>() {
    for [m, n] in [[0, 4], [4, 0]] {
        let a = Tensor::<B, 2>::zeros([m, n], &B::Device::default());
        let Svd { u, s, vt, .. } = svd(a.clone()).unwrap();
        assert_eq!((u.dims(), s.dims(), vt.dims()), ([m, 0], [0], [0, n]));
        assert_eq!(singular_values(a.clone()).unwrap().dims(), [0]);
        assert_eq!(spectrum_rank(a, 0.5, Convention::Reach).unwrap().rank, 0);
    }
}

fn errors_are_values<B: SvdOps>() {
    let mut a = gaussian(6, 5, 42);
    let finite = upload::<B>(&a);
    let error = spectrum_rank(finite, 1.5, Convention::Reach).unwrap_err();
    assert_eq!(error, Error::Share { share: 1.5 });
    a[(4, 2)] = f64::INFINITY;
    let infinite = upload::<B>(&a);
    let expected = Error::NonFinite { row: 4, column: 2, value: f64::INFINITY };
    assert_eq!(svd(infinite.clone()).unwrap_err(), expected);
    assert_eq!(singular_values(infinite.clone()).unwrap_err(), expected);
    assert_eq!(spectrum_rank(infinite, 0.5, Convention::Reach).unwrap_err(), expected);
    // Every entry fits into f32, their common singular value does not.
    let large = Tensor::<B, 2>::full([4, 4], f32::MAX, &B::Device::default());
    assert_eq!(svd(large.clone()).unwrap_err(), Error::Overflow { dtype: "f32" });
    assert!(spectrum_rank(large, 0.5, Convention::Reach).unwrap().spectral_norm > f64::from(f32::MAX));
}

#[test]
fn flex() {
    host_suite::<Flex>();
}

#[test]
fn ndarray() {
    host_suite::<NdArray>();
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu() {
    suite::<burn_wgpu::Wgpu<f32, i32>>();
}

#[test]
fn autodiff() {
    host_suite::<Autodiff<Flex>>();
}

#[test]
fn results_are_constants_to_the_graph() {
    let a = upload::<Autodiff<Flex>>(&gaussian(6, 5, 43)).require_grad();
    let Svd { u, s, vt, .. } = svd(a.clone() * 2.0).unwrap();
    assert!(!u.is_require_grad() && !s.is_require_grad() && !vt.is_require_grad());
    let loss = u.matmul(a.clone().transpose().slice([0..5, 0..6])).sum();
    let gradient = a.grad(&loss.backward()).expect("the graph of a itself is untouched");
    assert_eq!(gradient.dims(), [6, 5]);
}

/// ndarray has neither type.
#[test]
fn half_precision_is_decomposed_from_what_it_holds() {
    let a = gaussian(24, 16, 44);
    for dtype in [DType::F16, DType::BF16] {
        let tensor = upload_as::<Flex>(&a, dtype);
        let held: Vec<f32> = values(tensor.clone()).into_iter().map(|x| x as f32).collect();
        let expected = host::svd(&held, 24, 16).unwrap();
        let Svd { u, s, vt, .. } = svd(tensor.clone()).unwrap();
        for (found, expected) in [(u.dtype(), dtype), (s.dtype(), dtype), (vt.dtype(), dtype)] {
            assert_eq!(found, expected);
        }
        let round = |x: f64| match dtype {
            DType::F16 => half::f16::from_f64(x).to_f64(),
            _ => half::bf16::from_f64(x).to_f64(),
        };
        assert_eq!(values(s), expected.s.iter().map(|&x| round(x)).collect::<Vec<_>>());
        assert_eq!(values(u), expected.u.iter().map(|&x| round(x)).collect::<Vec<_>>());
        let decided = spectrum_rank(tensor, 0.3, Convention::Reach).unwrap();
        assert_eq!(decided.values, host::singular_values(&held, 24, 16).unwrap());
    }
    let large = upload_as::<Flex>(&DMatrix::from_element(40, 40, 6e4), DType::F16);
    assert_eq!(svd(large.clone()).unwrap_err(), Error::Overflow { dtype: "f16" });
    assert!(spectrum_rank(large, 0.5, Convention::Reach).is_ok());
}
