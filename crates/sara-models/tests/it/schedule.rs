//! Learning rates against those of transformers' `get_scheduler`.

use sara_models::train::schedule::{Schedule, warmup_steps};

/// Both sides compute in f64, in the same order but for the cosine's argument.
const ROUNDING: f64 = 1e-18;

const BASE: f64 = 5e-4;

fn check(schedule: Schedule, total: usize, warmup: usize, expected: &[(usize, f64)]) {
    for &(step, rate) in expected {
        let found = schedule.learning_rate(step, total, warmup, BASE);
        assert!((found - rate).abs() <= ROUNDING, "{schedule:?} step {step}: {found:e}, expected {rate:e}");
    }
}

#[test]
fn equals_transformers_with_a_warmup() {
    let warmup = warmup_steps(0.06, 101);
    assert_eq!(warmup, 7);
    let rise = [(0, 0.0), (1, 7.142_857_142_857_142e-5), (6, 0.000_428_571_428_571_428_55), (7, 0.0005)];
    for (schedule, fall) in [
        (
            Schedule::Linear,
            [(8, 0.000_494_680_851_063_829_8), (54, 0.00025), (100, 5.319_148_936_170_213e-6), (101, 0.0)],
        ),
        (
            Schedule::Cosine,
            [(8, 0.000_499_860_390_932_563_6), (54, 0.00025), (100, 1.396_090_674_363_470_6e-7), (101, 0.0)],
        ),
        (Schedule::Constant, [(8, BASE), (54, BASE), (100, BASE), (101, BASE)]),
    ] {
        check(schedule, 101, warmup, &rise);
        check(schedule, 101, warmup, &fall);
    }
}

#[test]
fn equals_transformers_without_a_warmup() {
    check(
        Schedule::Linear,
        3,
        0,
        &[(0, BASE), (1, 0.000_333_333_333_333_333_3), (2, 0.000_166_666_666_666_666_66)],
    );
    check(Schedule::Cosine, 3, 0, &[(0, BASE), (1, 0.000_375), (2, 0.000_125_000_000_000_000_06)]);
    check(Schedule::Constant, 3, 0, &[(0, BASE), (2, BASE)]);
}

#[test]
fn warmup_may_fill_the_run() {
    check(
        Schedule::Linear,
        4,
        warmup_steps(1.0, 4),
        &[(0, 0.0), (1, BASE / 4.0), (3, BASE * 0.75), (4, 0.0)],
    );
    assert_eq!(warmup_steps(0.0, 100), 0);
    assert_eq!(warmup_steps(0.001, 100), 1);
}
