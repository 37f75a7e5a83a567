//! The integration tests of this crate, in one binary.

// Tests may unwrap; the lint looks for this mark around helper functions too.
#![cfg(test)]

mod blocks;
mod decompose;
mod interval;
mod jacobi;
mod laws;
mod matrices;
mod randomized;
mod rank_rule;
mod tensors;

/// One test for each backend that computes, of a suite that takes where its results must come from.
#[macro_export]
macro_rules! on_backends {
    ($suite:ident) => {
        #[test]
        fn flex() {
            $suite::<burn_flex::Flex>(sara_svd::Place::Host);
        }

        #[test]
        fn ndarray() {
            $suite::<burn_ndarray::NdArray>(sara_svd::Place::Host);
        }

        #[test]
        fn autodiff() {
            $suite::<burn_autodiff::Autodiff<burn_flex::Flex>>(sara_svd::Place::Host);
        }

        #[cfg(feature = "wgpu")]
        #[test]
        fn wgpu() {
            $suite::<burn_wgpu::Wgpu<f32, i32>>(sara_svd::Place::Device);
        }

        #[cfg(feature = "cuda")]
        #[test]
        fn cuda() {
            $suite::<burn_cuda::Cuda<f32, i32>>(sara_svd::Place::Device);
        }
    };
}
