//! What a forward pass drops and records.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use sara_core::{Pass, Role, Site};

use crate::tiny::{distance, values};

/// The device's generator is one for the whole process: tests that seed it and draw from it take turns.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! pass_on {
    ($module:ident, $backend:ty) => {
        mod $module {
            #[test]
            fn input_norms_leave_out_padding() {
                super::input_norms_leave_out_padding::<$backend>();
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

fn input_norms_leave_out_padding<B: AutodiffBackend>() {
    /// Square roots of small whole numbers, in f32.
    const ROUNDING: f64 = 1e-6;
    let device = B::Device::default();
    let rows = [[[1.0, 2.0], [3.0, -4.0], [100.0, 100.0]], [[5.0, 0.0], [100.0, 100.0], [100.0, 100.0]]];
    let tokens = TensorData::from([[true, true, false], [true, false, false]]);
    let x = Tensor::<B, 3>::from_data(rows, &device);

    let record = |tokens: Option<TensorData>| {
        let tokens = tokens.map(|tokens| Tensor::from_data(tokens, &device));
        let pass = Pass::<B>::training(tokens).recording();
        pass.record_input(SITE, &x);
        pass.into_seen()
    };
    let norms = |seen: &sara_core::Seen<B::InnerBackend>| values(seen.input_norms[&SITE].clone());
    let mut seen = record(Some(tokens.clone()));
    assert!(distance(&norms(&seen), &[35f64.sqrt(), 20f64.sqrt()]) < ROUNDING);
    // A second micro-batch of the same step: as one batch of both.
    seen.merge(record(Some(tokens)));
    assert!(distance(&norms(&seen), &[70f64.sqrt(), 40f64.sqrt()]) < 2.0 * ROUNDING);
    let all = norms(&record(None));
    assert!((all[0] - 30035f64.sqrt()).abs() < 1e-4, "{all:?}");

    // Without being asked, a pass records nothing.
    for pass in [Pass::<B>::evaluation(), Pass::training(None)] {
        pass.record_input(SITE, &x);
        assert!(!pass.is_recording() && pass.into_seen().input_norms.is_empty());
    }
}

fn dropout_keeps_the_mean<B: AutodiffBackend>() {
    const P: f64 = 0.25;
    /// Five deviations of the mean of 10,000 draws, `sqrt(p / (1 - p)) / 100`.
    const MEAN: f64 = 0.03;
    let _drawing = one_at_a_time();
    let device = B::Device::default();
    B::seed(&device, 5);
    let ones = Tensor::<B, 2>::ones([100, 100], &device);
    let dropped = values(Pass::training(None).dropout(ones.clone(), P));
    assert!(dropped.iter().all(|&value| value == 0.0 || (value - 1.0 / (1.0 - P)).abs() < 1e-6));
    let mean = dropped.iter().sum::<f64>() / dropped.len() as f64;
    assert!((mean - 1.0).abs() < MEAN, "{mean}");
    assert_eq!(values(Pass::evaluation().dropout(ones.clone(), P)), values(ones));
}
