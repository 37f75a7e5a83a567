//! The rank rule from bounds, the same suite on every backend that computes.

use burn_flex::Flex;
use nalgebra::DMatrix;
use sara_svd::{Algorithm, Convention, Place, Rule, SvdOps, host, nuclear_norm, spectrum_rank_by};

use crate::matrices::{all, comfortable, oracle, planted, reflected, single, spectrum};
use crate::on_backends;
use crate::tensors::upload;

const SHARES: [f64; 6] = [0.01, 0.03, 0.05, 0.1, 0.2, 0.5];
const CONVENTIONS: [Convention; 2] = [Convention::Reach, Convention::Floor];

on_backends!(suite);

fn suite<B: SvdOps>(_place: Place) {
    every_matrix_gets_the_rank_of_its_spectrum::<B>();
    decisions_are_those_of_the_spectrum::<B>();
    bounds_hold_on_every_matrix::<B>();
    numbers_may_be_small_and_large::<B>();
}

/// Ties, repeated values, zeros and values that f32 can hardly hold: the rule may fall back, and never be wrong.
fn every_matrix_gets_the_rank_of_its_spectrum<B: SvdOps>() {
    for case in all() {
        let (m, n) = case.a.shape();
        let values = host::singular_values(&single(&case.a), m, n).unwrap();
        for share in [0.0, 0.3, 0.9] {
            let decided =
                spectrum_rank_by(upload::<B>(&case.a), share, Convention::Reach, Rule::Auto).unwrap();
            let expected = host::rank_of(&values, share, Convention::Reach).unwrap();
            assert_eq!(decided.rank, expected, "{}, share {share}", case.name);
        }
    }
}

/// Spectra between those of pretrained attention and feed-forward weights.
fn pretrained(n: usize) -> [Vec<f64>; 3] {
    [
        spectrum(n, |x| (1.0 - x.powf(0.4)).max(3e-4)),
        spectrum(n, |x| 1.0 / (1.0 + 1.2 * x.sqrt()) - 0.39 * x),
        spectrum(n, |x| 1.0 - 0.95 * x),
    ]
}

/// Number of decisions, and of those made by bounds alone; panics at a wrong one.
fn decide<B: SvdOps>(a: &DMatrix<f64>) -> (usize, usize) {
    let (m, n) = a.shape();
    let values = host::singular_values(&single(a), m, n).unwrap();
    let mut by_bounds = 0;
    for (share, convention) in SHARES.into_iter().zip(CONVENTIONS.into_iter().cycle()) {
        let decided = spectrum_rank_by(upload::<B>(a), share, convention, Rule::Interval).unwrap();
        let expected = host::rank_of(&values, share, convention).unwrap();
        assert_eq!(decided.rank, expected, "{m} x {n}, share {share}, {convention:?}");
        assert!(decided.values.len() >= decided.rank);
        let sum: f64 = values.iter().sum();
        assert!((decided.nuclear_norm / sum - 1.0).abs() < 1e-4, "{} of {sum}", decided.nuclear_norm);
        by_bounds += usize::from(decided.algorithm == Algorithm::Interval);
    }
    (SHARES.len(), by_bounds)
}

fn assert_nearly_all_by_bounds(counts: impl Iterator<Item = (usize, usize)>) {
    let (all, by_bounds) = counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert!(by_bounds * 100 >= all * 95, "{by_bounds} of {all} by bounds alone");
}

fn decisions_are_those_of_the_spectrum<B: SvdOps>() {
    let shapes = [(128, 128), (192, 128), (96, 160)];
    let count = |((m, n), s): ((usize, usize), &Vec<f64>)| decide::<B>(&planted(m, n, s, 80));
    assert_nearly_all_by_bounds(
        shapes
            .into_iter()
            .flat_map(|(m, n)| pretrained(m.min(n)).iter().map(|s| count(((m, n), s))).collect::<Vec<_>>()),
    );
}

fn bounds_hold_on_every_matrix<B: SvdOps>() {
    for case in all() {
        let scale = comfortable(&case.a);
        let sum: f64 = oracle(&(&case.a * scale)).iter().sum();
        let bounds = nuclear_norm(upload::<B>(&case.a)).unwrap();
        let (lower, upper) = (bounds.lower * scale, bounds.upper * scale);
        assert!(
            lower <= sum * (1.0 + 1e-12) && sum <= upper * (1.0 + 1e-12),
            "{}: {lower} <= {sum} <= {upper}",
            case.name
        );
    }
}

/// Also where their eighth powers are no numbers of f32.
fn numbers_may_be_small_and_large<B: SvdOps>() {
    for scale in [1e-6, 1e5] {
        decide::<B>(&(planted(96, 64, &pretrained(64)[0], 84) * scale));
    }
}

#[test]
fn large_matrices_are_decided_as_by_their_spectrum() {
    let counts = [512, 1024, 2048].map(|n| decide::<Flex>(&reflected(&pretrained(n)[0], 81)));
    assert_nearly_all_by_bounds(counts.into_iter());
}
