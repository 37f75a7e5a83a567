//! The building blocks that a backend may override, the same suite on every backend that computes.

use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive};
use nalgebra::DMatrix;
use sara_svd::{Engine, Place, SvdOps};

use crate::matrices::gaussian;
use crate::on_backends;
use crate::tensors::{matrix, upload, values};

/// Of sums of a few hundred products, and of their factors, as a share of the largest.
const ROUNDING: f64 = 3e-6;

/// Rows and columns before a part.
const MARGIN: usize = 128;

on_backends!(suite);

fn suite<B: SvdOps>(place: Place) {
    assert_eq!(B::Engine::place(), place);
    products_of_any_size_and_layout::<B::Engine>();
    products_in_the_largest_tiles::<B::Engine>();
    products_of_stacks::<B::Engine>();
    gram_matrices_are_symmetric::<B::Engine>();
    rows_are_turned_and_sent_to_their_places::<B::Engine>();
    rotations_make_rows_more_orthogonal::<B::Engine>();
    the_inverse_of_the_factor_straightens_rows::<B::Engine>();
    all_entries_count::<B::Engine>();
}

fn primitive<E: Engine, const D: usize>(a: Tensor<E, D>) -> burn::tensor::ops::FloatTensor<E> {
    a.into_primitive().tensor()
}

fn tensor<E: Engine, const D: usize>(a: burn::tensor::ops::FloatTensor<E>) -> Tensor<E, D> {
    Tensor::from_primitive(TensorPrimitive::Float(a))
}

/// `a` as a tensor whose rows, or whose columns, are contiguous, as a part of a larger one or by itself.
fn laid_out<E: Engine>(a: &DMatrix<f64>, is_transposed: bool, is_part: bool) -> Tensor<E, 2> {
    let kept = if is_transposed { a.transpose() } else { a.clone() };
    let (m, n) = kept.shape();
    let tensor = if is_part {
        // Where devices allow a view to begin.
        let mut larger = DMatrix::from_element(m + MARGIN + 3, n + MARGIN + 5, 7.0);
        larger.view_mut((MARGIN, MARGIN), (m, n)).copy_from(&kept);
        upload::<E>(&larger).slice([MARGIN..m + MARGIN, MARGIN..n + MARGIN])
    } else {
        upload::<E>(&kept)
    };
    if is_transposed { tensor.transpose() } else { tensor }
}

fn assert_close(name: &str, found: &DMatrix<f64>, expected: &DMatrix<f64>) {
    assert_eq!(found.shape(), expected.shape(), "{name}");
    let off = (found - expected).amax() / expected.amax().max(1.0);
    assert!(off <= ROUNDING, "{name}: off by {off:.1e}");
}

/// With edges in every dimension, and with inner dimensions that are summed up in pieces.
fn products_of_any_size_and_layout<E: Engine>() {
    for (m, k, n) in
        [(1, 1, 1), (5, 9, 3), (33, 70, 41), (20, 32, 200), (64, 520, 36), (130, 68, 132), (257, 40, 300)]
    {
        let (a, b) = (gaussian(m, k, 90), gaussian(k, n, 91));
        for layout in 0..8 {
            let [first, second, part] = [1, 2, 4].map(|bit| layout & bit != 0);
            let (left, right) = (laid_out::<E>(&a, first, part), laid_out::<E>(&b, second, part));
            let found = tensor::<E, 2>(E::product(primitive(left), primitive(right)));
            assert_close(&format!("{m} x {k} x {n}, layout {layout}"), &matrix(found), &(&a * &b));
        }
    }
}

/// Which a device takes for large results alone.
fn products_in_the_largest_tiles<E: Engine>() {
    let (a, b) = (gaussian(2049, 20, 110), gaussian(20, 2050, 111));
    let (left, right) = (laid_out::<E>(&a, false, false), laid_out::<E>(&b, true, false));
    let found = tensor::<E, 2>(E::product(primitive(left), primitive(right)));
    assert_close("2049 x 20 x 2050", &matrix(found), &(&a * &b));
}

fn products_of_stacks<E: Engine>() {
    for (m, k, n) in [(32, 300, 32), (32, 32, 77), (3, 2, 65)] {
        let (a, b): (Vec<_>, Vec<_>) =
            (0..3).map(|i| (gaussian(m, k, 92 + i), gaussian(n, k, 95 + i))).unzip();
        let stack = |all: &[DMatrix<f64>]| Tensor::stack::<3>(all.iter().map(upload::<E>).collect(), 0);
        let right = stack(&b).swap_dims(1, 2);
        let found = tensor::<E, 3>(E::product(primitive(stack(&a)), primitive(right)));
        for i in 0..3 {
            let found = matrix(found.clone().narrow(0, i, 1).reshape([m, n]));
            assert_close(&format!("{m} x {k} x {n}, {i}"), &found, &(&a[i] * b[i].transpose()));
        }
    }
}

fn gram_matrices_are_symmetric<E: Engine>() {
    for (m, n) in [(4, 3), (70, 50), (90, 200), (300, 261), (20, 2050)] {
        let a = gaussian(m, n, 98);
        for is_transposed in [false, true] {
            let gram = matrix(tensor::<E, 2>(E::gram(primitive(laid_out::<E>(&a, is_transposed, false)))));
            assert_close(&format!("{m} x {n}"), &gram, &a.tr_mul(&a));
            if E::place() == Place::Device {
                assert_eq!(gram, gram.transpose(), "{m} x {n}");
            }
        }
    }
}

fn rows_are_turned_and_sent_to_their_places<E: Engine>() {
    const PLACES: [i64; 6] = [3, 0, 5, 1, 4, 2];
    for n in [7, 64, 150] {
        let (j, rows): (Vec<_>, Vec<_>) =
            (0..3).map(|i| (gaussian(32, 32, 99 + i), gaussian(32, n, 102 + i))).unzip();
        let stack = |all: &[DMatrix<f64>]| Tensor::stack::<3>(all.iter().map(upload::<E>).collect(), 0);
        let places = TensorData::new(PLACES.to_vec(), [6]);
        let places = Tensor::<E, 1, Int>::from_data(places, &E::Device::default());
        let (j_stack, rows_stack) = (primitive(stack(&j)), primitive(stack(&rows)));
        #[expect(unsafe_code, reason = "see there")]
        // SAFETY: the places are a permutation of the six blocks.
        let turned = unsafe { E::turn(j_stack, rows_stack, places.into_primitive()) };
        let turned = matrix(tensor::<E, 2>(turned));
        for (block, place) in PLACES.into_iter().enumerate() {
            let expected = j[block / 2].tr_mul(&rows[block / 2]);
            let expected = expected.rows(16 * (block % 2), 16).into_owned();
            let found = turned.rows(16 * place as usize, 16).into_owned();
            assert_close(&format!("block {block} of {n} columns"), &found, &expected);
        }
    }
}

/// Looks at the first entries of each row alone, and remembers what was found before.
fn rotations_make_rows_more_orthogonal<E: Engine>() {
    const WIDTH: usize = 300;
    let device = E::Device::default();
    let off_diagonal = |gram: &DMatrix<f64>| (gram - DMatrix::from_diagonal(&gram.diagonal())).norm();
    let rows = [gaussian(32, WIDTH + 20, 105), gaussian(32, WIDTH + 20, 106) * 3.0];
    let grams = rows.clone().map(|rows| rows.columns(0, WIDTH) * rows.columns(0, WIDTH).transpose());
    let stack = Tensor::stack::<3>(rows.iter().map(upload::<E>).collect(), 0);
    let numbers = |values: [f64; 6]| Tensor::<E, 1>::from_data(values.as_slice(), &device);
    let before = numbers([0.0, 0.0, 0.0, 0.0, 0.9, 1e9]).reshape([2, 3]);
    // All rows of the first are above its floor, and none of the second.
    let floors = Tensor::<E, 1>::from_data([0.0, 1e9], &device);
    let (j, found) =
        E::rotations(primitive(stack), WIDTH, primitive(floors), primitive(before), 1e-6).unwrap();
    let (j, found) = (tensor::<E, 3>(j), values(tensor::<E, 2>(found)));
    for (i, gram) in grams.iter().enumerate() {
        let j = matrix(j.clone().narrow(0, i, 1).reshape([32, 32]));
        assert_close("orthogonal", &j.tr_mul(&j), &DMatrix::identity(32, 32));
        let after = j.transpose() * gram * &j;
        assert!(off_diagonal(&after) <= 0.6 * off_diagonal(gram), "{i}: {}", off_diagonal(&after));
        let cosine = |p: usize, q: usize| gram[(p, q)].abs() / (gram[(p, p)] * gram[(q, q)]).sqrt();
        let largest =
            (0..32).flat_map(|p| (0..p).map(move |q| (p, q))).map(|(p, q)| cosine(p, q)).fold(0.0, f64::max);
        assert!((found[3 * i] - largest).abs() <= 1e-5, "{} instead of {largest}", found[3 * i]);
    }
    // Again and again, they become orthogonal.
    let mut turned = rows[0].clone();
    for _ in 0..6 {
        let set = upload::<E>(&turned).unsqueeze::<3>();
        let (floor, before) = (Tensor::<E, 1>::zeros([1], &device), Tensor::<E, 2>::zeros([1, 3], &device));
        let (j, _) = E::rotations(primitive(set), WIDTH, primitive(floor), primitive(before), 1e-6).unwrap();
        turned = matrix(tensor::<E, 3>(j).reshape([32, 32])).tr_mul(&turned);
    }
    let gram = turned.columns(0, WIDTH) * turned.columns(0, WIDTH).transpose();
    assert!(off_diagonal(&gram) <= 1e-4 * gram.norm(), "{}", off_diagonal(&gram));
    assert!((1..32).all(|i| gram[(i, i)] <= gram[(i - 1, i - 1)] * 1.001), "descending");
    assert!((found[1] - found[0]).abs() <= 1e-6 && (found[4] - 0.9).abs() <= 1e-6, "{found:?}");
    assert!((found[2] / grams[0].diagonal().max() - 1.0).abs() <= 1e-5 && found[5] >= 9.9e8, "{found:?}");
}

fn the_inverse_of_the_factor_straightens_rows<E: Engine>() {
    for l in [1, 7, 40, 64] {
        let x = gaussian(l, 150, 107);
        let gram = &x * x.transpose();
        for shift in [0.0, 0.25] {
            let (inverse, growth) = E::cholesky_inverse(primitive(upload::<E>(&gram)), shift).unwrap();
            let (inverse, growth) = (matrix(tensor::<E, 2>(inverse)), values(tensor::<E, 1>(growth))[0]);
            assert!(
                inverse.upper_triangle().iter().filter(|x| **x != 0.0).count() <= l,
                "{l}: lower triangular"
            );
            let shifted = &gram + DMatrix::from_diagonal(&gram.diagonal()) * shift;
            let identity = &inverse * shifted * inverse.transpose();
            assert_close(&format!("{l}, shift {shift}"), &identity, &DMatrix::identity(l, l));
            let expected =
                (&inverse * DMatrix::from_diagonal(&gram.diagonal().map(f64::sqrt))).norm_squared();
            assert!((growth / expected - 1.0).abs() <= 1e-4, "{l}: {growth} instead of {expected}");
        }
    }
    let indefinite = DMatrix::from_row_slice(2, 2, &[1.0, 2.0, 2.0, 1.0]);
    let (_, growth) = E::cholesky_inverse(primitive(upload::<E>(&indefinite)), 0.0).unwrap();
    assert!(!values(tensor::<E, 1>(growth))[0].is_finite());
}

fn all_entries_count<E: Engine>() {
    for (m, n) in [(1, 1), (3, 100), (700, 500)] {
        let mut a = gaussian(m, n, 108);
        a[(m - 1, n - 1)] = -9.0;
        let (largest, squares) = E::norms(primitive(upload::<E>(&a))).unwrap();
        assert!((squares / a.norm_squared() - 1.0).abs() <= 1e-5, "{squares}");
        for largest in [largest, E::largest(primitive(upload::<E>(&a))).unwrap()] {
            assert!((largest - 9.0).abs() <= 1e-6, "{largest}");
        }
    }
}
