//! Weights of 16, 8 and 4 bits: products are those with the same values in f32, forward, back and by rows, turned or not.

use burn::tensor::{DType, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use burn_ndarray::NdArray;
use sara_ops::linear::linear_of_rows;
use sara_ops::packed::Bits;
use sara_ops::{self as ops, LayerOps, Packed};

use super::{F32_TOLERANCE, flat, noise, read};

type Train = Autodiff<Flex>;

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert!(!expected.is_empty() && found.len() == expected.len(), "{what}");
    let size = expected.iter().fold(1.0, |size: f64, x| size.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= F32_TOLERANCE * size, "{what}: {found}, expected {expected}");
    }
}

/// Values that bf16 has: where the processor multiplies these, the other factor is rounded to them.
fn exact(seed: u64, n: usize) -> Tensor<Flex, 1> {
    flat::<Flex>(&noise(seed, n), DType::BF16).cast(DType::F32)
}

/// Products with a weight `[d_in, d_out]` of few bits, forward, back and by rows, are those with the same in f32.
fn assert_products(weight: &Tensor<Flex, 2>, wide: &Tensor<Flex, 2>, n: usize, what: &str) {
    let [d_in, d_out] = wide.dims();
    let bias = flat::<Flex>(&noise(8, d_out), DType::F32);
    let x = exact(9, n * d_in).reshape([1, n, d_in]);
    let run = |weight: Tensor<Flex, 2>| {
        let leaf = Tensor::<Train, 3>::from_inner(x.clone()).require_grad();
        let bias = Tensor::from_inner(bias.clone());
        let y = ops::linear(leaf.clone(), Tensor::from_inner(weight), Some(bias));
        let towards = Tensor::from_inner(exact(10, n * d_out)).reshape([1, n, d_out]);
        let grads = (y.clone() * towards).sum().backward();
        (read(y.inner()), leaf.grad(&grads).map(read).unwrap_or_default())
    };
    let (found, expected) = (run(weight.clone()), run(wide.clone()));
    assert_near(&found.0, &expected.0, what);
    assert_near(&found.1, &expected.1, &format!("gradient of {what}"));
    // A table of rows, as files have it.
    let by_rows = |weight: &Tensor<Flex, 2>| read(linear_of_rows(x.clone(), weight.clone().transpose()));
    assert_near(&by_rows(weight), &by_rows(wide), &format!("rows of {what}"));
    assert_eq!(read(ops::widened(weight.clone())), read(wide.clone()), "{what} as a whole");
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
            (40, 45, 101),
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
                assert_products(&weight, &wide, n, &what);
            }
        }
    }
}

/// The same of 8 and 4 bits, with a table of them besides, and its rows.
#[test]
fn products_are_those_of_the_codes() {
    for bits in [Bits::Eight, Bits::Four] {
        for (n, d_in, d_out) in
            [(1, 32, 5), (1, 320, 70), (3, 128, 600), (5, 64, 64), (33, 96, 65), (150, 640, 33)]
        {
            let what = format!("{bits:?} {n} x {d_in} x {d_out}");
            let values: Vec<f32> = noise(7, d_in * d_out).into_iter().map(|value| value as f32).collect();
            let packed = Packed::new(&values, [d_out, d_in], bits).unwrap();
            let wide = TensorData::new(packed.values(), packed.shape());
            let wide = Tensor::<Flex, 2>::from_data(wide, &FlexDevice);
            let weight = ops::tensor::<Flex, 2>(Flex::packed_weight(packed.clone(), &FlexDevice));
            assert_products(&weight, &wide.clone().transpose(), n, &what);
            // A table lies the other way round.
            let table = ops::tensor::<Flex, 2>(Flex::packed_table(packed, &FlexDevice));
            assert_products(&table, &wide, n, &format!("table of {what}"));
            let ids = Tensor::from_data([[0, d_out as i64 - 1, 1]], &FlexDevice);
            let rows = |table: &Tensor<Flex, 2>| read(ops::table_rows(table.clone(), ids.clone()));
            assert_eq!(rows(&table), rows(&wide), "{what}");
            let hidden = flat::<Flex>(&noise(9, 4 * d_in), DType::F32).reshape([4, d_in]);
            let targets = Tensor::from_data([1, 0, d_out as i64 - 1, 2], &FlexDevice);
            let loss = |rows: &Tensor<Flex, 2>| {
                let leaf = Tensor::<Train, 2>::from_inner(hidden.clone()).require_grad();
                let targets = Tensor::from_inner(targets.clone());
                let loss = ops::token_loss(leaf.clone(), Tensor::from_inner(rows.clone()), targets);
                let grads = loss.backward();
                [read(loss.inner()), read(leaf.grad(&grads).unwrap())].concat()
            };
            assert_near(&loss(&table), &loss(&wide), &format!("loss of {what}"));
        }
    }
}

/// The codes of a block by hand, and in general none farther than half a step, but for the rounding of the scale.
#[test]
fn codes_are_the_nearest() {
    let ramp: Vec<f32> = (0..64).map(|i| if i < 32 { (i as f32 - 16.0) / 4.0 } else { 0.0 }).collect();
    let of = |values: &[f32], bits| Packed::new(values, [1, values.len()], bits).unwrap().values();
    // The largest is -4 = -8 * 0.5: halves are exact, quarters go away from zero, and what is behind 7 stays there.
    let expected = ramp.iter().map(|x| (x * 2.0).round().min(7.0) / 2.0).collect::<Vec<_>>();
    assert_eq!(of(&ramp, Bits::Four), expected);
    let largest: Vec<f32> = ramp.iter().map(|x| x * 127.0 / 4.0).collect();
    assert_eq!(of(&largest, Bits::Eight), largest.iter().map(|x| x.round()).collect::<Vec<_>>());
    for (bits, levels) in [(Bits::Eight, 127.0), (Bits::Four, 8.0)] {
        let values: Vec<f32> = noise(3, 3200).into_iter().map(|value| value as f32).collect();
        for (block, found) in values.chunks(32).zip(of(&values, bits).chunks(32)) {
            let largest = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let step = largest / levels;
            // Four bits have no code for the largest of the other sign: a whole step there.
            let cut = if bits == Bits::Four { step } else { step / 2.0 };
            for (x, found) in block.iter().zip(found) {
                let allowed = if x.abs() > largest - step { cut } else { step / 2.0 };
                assert!((x - found).abs() <= allowed * 1.001 + largest * 5e-4, "{x} as {found}, step {step}");
            }
        }
    }
}

#[test]
fn what_blocks_cannot_hold_is_refused() {
    for bits in [Bits::Eight, Bits::Four] {
        assert!(Packed::new(&[1.0; 48], [1, 48], bits).is_none(), "32 do not divide 48");
        assert!(Packed::new(&[1e9; 32], [1, 32], bits).is_none(), "a scale beyond 16 bits");
        assert_eq!(Packed::new(&[0.0; 32], [1, 32], bits).unwrap().values(), [0.0; 32]);
    }
}

/// Every finite value of 16 bits, subnormal ones too, times one.
#[test]
fn every_value_is_widened_exactly() {
    for (kind, exponent) in [(DType::BF16, 0x7f80_u16), (DType::F16, 0x7c00)] {
        let finite: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & exponent != exponent).collect();
        let bytes = burn::tensor::Bytes::from_elems(finite.clone());
        let data = TensorData::from_bytes(bytes, [1, finite.len()], kind);
        let table = Tensor::<Flex, 2>::from_data(data.clone(), (&FlexDevice, kind));
        let one = Tensor::<Flex, 2>::from_data([[1.0_f32]], &FlexDevice);
        // Zeros of either sign are one.
        let bits = |data: TensorData| -> Vec<u32> {
            data.iter::<f32>().map(|value| (value + 0.0).to_bits()).collect()
        };
        let (found, expected) = (bits(ops::linear(one, table, None).into_data()), bits(data));
        assert_eq!(found.len(), finite.len());
        assert!(found == expected, "{kind:?}");
    }
}

/// Of many rows with bf16, what is no number stays so, and nothing goes to the other rows.
#[test]
fn what_is_no_number_stays_so() {
    let weight = flat::<Flex>(&noise(1, 40 * 70), DType::BF16).reshape([40, 70]);
    let mut values = noise(2, 50 * 40);
    values[3 * 40 + 7] = f64::NAN;
    values[5 * 40 + 1] = f64::INFINITY;
    let x = flat::<Flex>(&values, DType::F32).reshape([50, 40]);
    for weight in [weight.clone(), weight.clone().transpose().reshape([70, 40]).transpose()] {
        let y = read(ops::linear(x.clone(), weight, None));
        for (row, y) in y.chunks(70).enumerate() {
            assert!(y.iter().all(|y| y.is_finite() != [3, 5].contains(&row)), "row {row}: {y:?}");
        }
        assert!(y[3 * 70..4 * 70].iter().all(|y| y.is_nan()));
    }
}

#[test]
fn other_backends_widen_the_weight() {
    let x = flat::<NdArray>(&noise(1, 12), DType::F64).reshape([1, 3, 4]);
    let weight = flat::<NdArray>(&noise(2, 20), DType::F32).reshape([4, 5]);
    let expected = ops::linear(x.clone(), weight.clone().cast(DType::F64), None);
    assert_eq!(read(ops::linear(x, weight, None)), read(expected));
}
