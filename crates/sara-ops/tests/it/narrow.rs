//! Weights of 16 bits: products are those with the same values in f32, forward, back and by rows, turned or not.

use burn::tensor::{DType, Tensor};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use burn_ndarray::NdArray;
use sara_ops as ops;
use sara_ops::linear::linear_of_rows;

use super::{F32_TOLERANCE, flat, noise, read};

type Train = Autodiff<Flex>;

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1.0, |size: f64, x| size.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= F32_TOLERANCE * size, "{what}: {found}, expected {expected}");
    }
}

#[test]
fn products_are_those_of_the_widened_weight() {
    for kind in [DType::BF16, DType::F16] {
        for (n, d_in, d_out) in [
            (1, 3, 5),
            (1, 300, 70),
            (3, 130, 600),
            (4, 64, 64),
            (5, 7, 300),
            (10, 200, 65),
            (32, 64, 9),
            (150, 40, 33),
            (70, 600, 513),
        ] {
            for is_turned in [false, true] {
                let what = format!("{kind:?} {n} x {d_in} x {d_out}, turned {is_turned}");
                let values = noise(7, d_in * d_out);
                let weight = if is_turned {
                    flat::<Flex>(&values, kind).reshape([d_out, d_in]).transpose()
                } else {
                    flat::<Flex>(&values, kind).reshape([d_in, d_out])
                };
                let wide =
                    Tensor::<Flex, 2>::from_data(weight.clone().cast(DType::F32).into_data(), &FlexDevice);
                let bias = flat::<Flex>(&noise(8, d_out), DType::F32);
                let x = flat::<Flex>(&noise(9, n * d_in), DType::F32).reshape([1, n, d_in]);
                let run = |weight: Tensor<Flex, 2>| {
                    let leaf = Tensor::<Train, 3>::from_inner(x.clone()).require_grad();
                    let bias = Tensor::from_inner(bias.clone());
                    let y = ops::linear(leaf.clone(), Tensor::from_inner(weight), Some(bias));
                    let towards = flat::<Train>(&noise(10, n * d_out), DType::F32).reshape([1, n, d_out]);
                    let grads = (y.clone() * towards).sum().backward();
                    (read(y.inner()), read(leaf.grad(&grads).unwrap()))
                };
                let (found, expected) = (run(weight.clone()), run(wide.clone()));
                assert_near(&found.0, &expected.0, &what);
                assert_near(&found.1, &expected.1, &format!("gradient of {what}"));
                // A table of rows, as files have it.
                let by_rows = linear_of_rows(x.clone(), weight.transpose());
                assert_near(
                    &read(by_rows),
                    &read(linear_of_rows(x.clone(), wide.transpose())),
                    &format!("rows of {what}"),
                );
            }
        }
    }
}

/// Every finite value of 16 bits, subnormal ones too, times one.
#[test]
fn every_value_is_widened_exactly() {
    for (kind, exponent) in [(DType::BF16, 0x7f80_u16), (DType::F16, 0x7c00)] {
        let finite: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & exponent != exponent).collect();
        let bytes = burn::tensor::Bytes::from_elems(finite.clone());
        let data = burn::tensor::TensorData::from_bytes(bytes, [1, finite.len()], kind);
        let table = Tensor::<Flex, 2>::from_data(data.clone(), (&FlexDevice, kind));
        let one = Tensor::<Flex, 2>::from_data([[1.0_f32]], &FlexDevice);
        // Zeros of either sign are one.
        let bits = |data: burn::tensor::TensorData| -> Vec<u32> {
            data.iter::<f32>().map(|value| (value + 0.0).to_bits()).collect()
        };
        let (found, expected) = (bits(ops::linear(one, table, None).into_data()), bits(data));
        assert_eq!(found.len(), finite.len());
        assert!(found == expected, "{kind:?}");
    }
}

#[test]
fn other_backends_widen_the_weight() {
    let x = flat::<NdArray>(&noise(1, 12), DType::F64).reshape([1, 3, 4]);
    let weight = flat::<NdArray>(&noise(2, 20), DType::F32).reshape([4, 5]);
    let expected = ops::linear(x.clone(), weight.clone().cast(DType::F64), None);
    assert_eq!(read(ops::linear(x, weight, None)), read(expected));
}
