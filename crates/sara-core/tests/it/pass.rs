//! What a forward pass drops and records.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use sara_core::{Noise, Pass, Role, Seed, Site};

use crate::tiny::values;

/// The device's generator is one for the whole process: tests that seed it and draw from it take turns.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! pass_on {
    ($module:ident, $backend:ty) => {
        mod $module {
            #[test]
            fn records_add_up_without_padding() {
                super::records_add_up_without_padding::<$backend>();
            }
            #[test]
            fn draws_depend_on_their_place_alone() {
                super::draws_depend_on_their_place_alone::<$backend>();
            }
            #[test]
            fn dropout_keeps_the_mean() {
                super::dropout_keeps_the_mean::<$backend>();
            }
        }
    };
}

pass_on!(flex, burn_autodiff::Autodiff<burn_flex::Flex>);
pass_on!(ndarray, burn_autodiff::Autodiff<burn_ndarray::NdArray>);
#[cfg(feature = "wgpu")]
pass_on!(wgpu, burn_autodiff::Autodiff<burn_wgpu::Wgpu<f32, i32>>);

const SITE: Site = Site { layer: 3, role: Role::Query };

fn records_add_up_without_padding<B: AutodiffBackend>() {
    let device = B::Device::default();
    let rows = [[[1.0, 2.0], [3.0, -4.0], [100.0, 100.0]], [[5.0, 0.0], [100.0, 100.0], [100.0, 100.0]]];
    let x = Tensor::<B, 3>::from_data(rows, &device);
    let record = |tokens: Option<TensorData>| {
        let mut pass = Pass::<B>::training(Noise::default()).recording();
        pass.set_tokens(tokens.map(|tokens| Tensor::from_data(tokens, &device)));
        pass.record_sum(SITE, "values", || pass.sum_over_tokens(x.clone()));
        pass.record_max(SITE, "largest", || pass.sum_over_tokens(x.clone()));
        pass.record_sum(SITE, "squares", || pass.sum_over_tokens(x.clone().powi_scalar(2)));
        pass.into_seen().inner()
    };
    let sum = |seen: &sara_core::Seen<B::InnerBackend>, name| values(seen.sum(SITE, name).unwrap().clone());
    let first = TensorData::from([[true, true, false], [true, false, false]]);
    let second = TensorData::from([[true, false, false], [false, false, false]]);
    // Small whole numbers: every sum is exact.
    let mut seen = record(Some(first));
    assert_eq!(sum(&seen, "values"), [9.0, -2.0]);
    assert_eq!(sum(&seen, "squares"), [35.0, 20.0]);
    // A second micro-batch of the same step: as one batch of both.
    seen.merge(record(Some(second)));
    assert_eq!(sum(&seen, "values"), [10.0, 0.0]);
    assert_eq!(sum(&seen, "squares"), [36.0, 24.0]);
    assert_eq!(values(seen.max(SITE, "largest").unwrap().clone()), [9.0, 2.0]);
    assert_eq!(sum(&record(None), "squares"), [30035.0, 30020.0]);
    assert!(seen.sum(SITE, "largest").is_none() && seen.max(SITE, "values").is_none());

    // Without being asked, a pass records nothing and computes nothing for it.
    for pass in [Pass::<B>::evaluation(), Pass::training(Noise::default())] {
        pass.record_sum(SITE, "values", || unreachable!("nobody asked"));
        assert!(!pass.is_recording() && pass.into_seen().is_empty());
    }
}

/// What is drawn is a function of seed, step, micro-batch and path, whatever was drawn before.
fn draws_depend_on_their_place_alone<B: AutodiffBackend>() {
    let _drawing = one_at_a_time();
    let device = B::Device::default();
    let draw = |noise, path: &str| {
        let drawn = Pass::<B>::training(noise).uniform([50], path, &device).unwrap();
        values::<B, 1>(drawn)
    };
    let start = Noise { seed: Seed(3), step: 4, micro_batch: 0 };
    let (a, b) = (draw(start, "0-query"), draw(start, "1-query"));
    assert_eq!((draw(start, "1-query"), draw(start, "0-query")), (b.clone(), a.clone()));
    for other in
        [Noise { seed: Seed(4), ..start }, Noise { step: 5, ..start }, Noise { micro_batch: 1, ..start }]
    {
        assert_ne!(draw(other, "0-query"), a);
    }
    assert_ne!(a, b);
    assert!(a.iter().all(|value| (0.0..1.0).contains(value)));
    assert!(Pass::<B>::evaluation().uniform([50], "0-query", &device).is_none());
    // A block that is computed again drops the same values.
    let ones = Tensor::<B, 2>::ones([20, 20], &device);
    let pass = Pass::training(start);
    let dropped = |path: &str| values(pass.dropout(ones.clone(), 0.5, path));
    let first = dropped("0-query");
    assert_ne!(dropped("1-query"), first);
    assert_eq!(dropped("0-query"), first);
}

fn dropout_keeps_the_mean<B: AutodiffBackend>() {
    const P: f64 = 0.25;
    /// Five deviations of the mean of 10,000 draws, `sqrt(p / (1 - p)) / 100`.
    const MEAN: f64 = 0.03;
    let _drawing = one_at_a_time();
    let device = B::Device::default();
    let ones = Tensor::<B, 2>::ones([100, 100], &device);
    let dropped = values(Pass::training(Noise::default()).dropout(ones.clone(), P, SITE));
    assert!(dropped.iter().all(|&value| value == 0.0 || (value - 1.0 / (1.0 - P)).abs() < 1e-6));
    let mean = dropped.iter().sum::<f64>() / dropped.len() as f64;
    assert!((mean - 1.0).abs() < MEAN, "{mean}");
    assert_eq!(values(Pass::evaluation().dropout(ones.clone(), P, SITE)), values(ones));
}
