//! The rank rule, from lists of singular values and from matrices.

use sara_svd::{Algorithm, Convention, Error, SpectrumRank, host};

use crate::matrices::{all, double, oracle, planted, single};

const SHARES: [f64; 8] = [0.0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0];

/// The rule as its definition reads, for the smallest `k` that reaches the share.
fn smallest_that_reaches(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().sum();
    (1..values.len()).find(|&k| values[..k].iter().sum::<f64>() >= share * total).unwrap_or(values.len())
}

/// The unofficial code's count, of which 0 becomes 1.
fn count_below(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().sum();
    (1..=values.len()).filter(|&k| values[..k].iter().sum::<f64>() < share * total).count().max(1)
}

#[test]
fn both_conventions_by_hand() {
    let values = [4.0, 2.0, 1.0, 1.0]; // partial sums 4, 6, 7, 8
    for (share, reach, floor) in [
        (0.0, 1, 1),
        (0.25, 1, 1),
        (0.5, 1, 1), // reached exactly
        (0.51, 2, 1),
        (0.75, 2, 1),
        (0.76, 3, 2),
        (0.875, 3, 2),
        (0.9, 4, 3),
        (1.0, 4, 3),
    ] {
        assert_eq!(host::rank_of(&values, share, Convention::Reach).unwrap(), reach, "reach {share}");
        assert_eq!(host::rank_of(&values, share, Convention::Floor).unwrap(), floor, "floor {share}");
    }
}

#[test]
fn the_rank_is_at_least_one_and_at_most_the_number_of_values() {
    for convention in [Convention::Reach, Convention::Floor] {
        for share in SHARES {
            assert_eq!(host::rank_of(&[0.0; 5], share, convention).unwrap(), 1, "zeros");
            assert_eq!(host::rank_of(&[2.0], share, convention).unwrap(), 1, "one value");
            assert_eq!(host::rank_of(&[], share, convention).unwrap(), 0, "no value");
        }
        // Partial sums that round differently from one share to the next still end at the last value.
        let uneven: Vec<f64> = (1..200).map(|i| 1.0 / f64::from(i)).collect();
        assert!(host::rank_of(&uneven, 1.0, convention).unwrap() <= uneven.len());
    }
    // What adds nothing to the sum is not needed to reach it.
    assert_eq!(host::rank_of(&[1.0, 1.0, 0.0], 1.0, Convention::Reach).unwrap(), 2);
}

#[test]
fn bad_shares_and_bad_values_are_errors() {
    for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = host::rank_of(&[1.0], share, Convention::Reach).unwrap_err();
        assert!(matches!(error, Error::Share { .. }), "{error:?}");
        let error = host::spectrum_rank(&[f32::NAN], 1, 1, share, Convention::Floor).unwrap_err();
        assert!(matches!(error, Error::Share { .. }), "checked before the matrix: {error:?}");
    }
    for values in [&[1.0, 2.0][..], &[1.0, f64::NAN], &[f64::INFINITY, 1.0], &[1.0, -1.0]] {
        let error = host::rank_of(values, 0.5, Convention::Reach).unwrap_err();
        assert!(matches!(error, Error::Spectrum { .. }), "{values:?}: {error:?}");
    }
    let error = host::rank_of(&[f64::MAX, f64::MAX], 0.5, Convention::Reach).unwrap_err();
    assert_eq!(error, Error::Overflow { dtype: "f64" });
}

/// Shares at which no partial sum of any case is equal up to rounding, so that the decision is not a tie.
#[test]
fn every_matrix_gets_the_rank_of_its_exact_spectrum() {
    for case in all() {
        let (m, n) = case.a.shape();
        let scaled = &case.a / case.a.amax().max(f64::MIN_POSITIVE);
        let expected = oracle(&scaled);
        for share in [0.0123, 0.0517, 0.1031, 0.2057, 0.5081] {
            for (found, convention, rank) in [
                (
                    host::spectrum_rank(&single(&case.a), m, n, share, Convention::Reach),
                    "reach",
                    smallest_that_reaches(&expected, share),
                ),
                (
                    host::spectrum_rank(&single(&case.a), m, n, share, Convention::Floor),
                    "floor",
                    count_below(&expected, share),
                ),
                (
                    host::spectrum_rank(&double(&scaled), m, n, share, Convention::Reach),
                    "reach f64",
                    smallest_that_reaches(&expected, share),
                ),
            ] {
                assert_eq!(found.unwrap().rank, rank, "{}: share {share}, {convention}", case.name);
            }
        }
    }
}

/// Mean spectrum of a pretrained attention query, by position among 384 values, stretched to `size` values.
fn stretched_query_spectrum(size: usize) -> Vec<f64> {
    const MEASURED: [(f64, f64); 10] = [
        (0.0, 1.0),
        (1.0, 0.928),
        (4.0, 0.807),
        (16.0, 0.654),
        (64.0, 0.435),
        (128.0, 0.291),
        (192.0, 0.187),
        (256.0, 0.104),
        (320.0, 0.039),
        (383.0, 3e-4),
    ];
    // Linear in the logarithm of the position, since the head falls fastest.
    let between = |x: f64, [(x0, y0), (x1, y1)]: [(f64, f64); 2]| {
        let (x, x0, x1) = (x.ln_1p(), x0.ln_1p(), x1.ln_1p());
        y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    };
    (0..size)
        .map(|i| {
            let x = ((i as f64 + 0.5) * 384.0 / size as f64 - 0.5).clamp(0.0, 383.0);
            let right = (1..MEASURED.len() - 1).find(|&j| MEASURED[j].0 > x).unwrap_or(MEASURED.len() - 1);
            between(x, [MEASURED[right - 1], MEASURED[right]])
        })
        .collect()
}

#[test]
fn a_planted_pretrained_spectrum_gets_its_planted_ranks() {
    const SIZE: usize = 1024;
    let data = single(&planted(SIZE, SIZE, &stretched_query_spectrum(SIZE), 30));
    let values = host::singular_values(&data, SIZE, SIZE).unwrap();
    for (share, floor) in [(0.01, 2), (0.03, 7), (0.05, 13), (0.1, 29), (0.2, 67), (0.5, 221)] {
        assert_eq!(host::rank_of(&values, share, Convention::Floor).unwrap(), floor, "share {share}");
        assert_eq!(host::rank_of(&values, share, Convention::Reach).unwrap(), floor + 1, "share {share}");
    }
}

#[test]
fn the_spectrum_comes_with_the_rank() {
    let found = host::spectrum_rank(&[3.0_f32, 0.0, 0.0, -5.0], 2, 2, 0.5, Convention::Reach).unwrap();
    let expected = SpectrumRank {
        rank: 1,
        nuclear_norm: 8.0,
        spectral_norm: 5.0,
        values: vec![5.0, 3.0],
        algorithm: Algorithm::Gram,
    };
    assert_eq!(found, expected);
    let empty = host::spectrum_rank::<f32>(&[], 0, 7, 0.5, Convention::Reach).unwrap();
    assert_eq!(
        empty,
        SpectrumRank {
            rank: 0,
            nuclear_norm: 0.0,
            spectral_norm: 0.0,
            values: vec![],
            algorithm: Algorithm::Bidiagonal
        }
    );
}

#[test]
fn conventions_are_written_in_snake_case_and_reach_is_the_default() {
    assert_eq!(serde_json::to_string(&Convention::Reach).unwrap(), r#""reach""#);
    assert_eq!(serde_json::from_str::<Convention>(r#""floor""#).unwrap(), Convention::Floor);
    assert!(serde_json::from_str::<Convention>(r#""Floor""#).is_err());
    assert_eq!(Convention::default(), Convention::Reach);
}
