//! The quantiser's values, one by one.

use burn::tensor::Tensor;
use burn_flex::Flex;
use sara_ops as ops;

use super::{STEP, read};

#[test]
fn gates_decide_the_bits() {
    let x = [0.5_f64, -1.3, 0.375, 1.125, 2.0].map(|x| x as f32);
    let with = |open: [f32; 4]| {
        let device = burn_flex::FlexDevice;
        let tensor = |values: &[f32]| Tensor::<Flex, 1>::from_data(values, &device);
        read(ops::quantize(tensor(&x), tensor(&[STEP as f32]), tensor(&open)))
    };
    // Ties to even multiples of 0.75.
    assert_eq!(with([0.0; 4]), [0.75, -1.5, 0.0, 1.5, 2.25]);
    assert_eq!(with([0.0, 1.0, 1.0, 1.0]), with([0.0; 4]));
    // Multiples of 0.15.
    let four_bits = with([1.0, 0.0, 1.0, 1.0]);
    for (y, expected) in four_bits.iter().zip([0.45, -1.35, 0.3, 1.2, 1.95]) {
        assert!((y - expected).abs() < 1e-6 && (y / 0.15 - (y / 0.15).round()).abs() < 1e-5, "{four_bits:?}");
    }
    for (y, x) in with([1.0; 4]).iter().zip(x) {
        assert!((y - f64::from(x)).abs() < 2e-7, "{y}, {x}");
    }
}
