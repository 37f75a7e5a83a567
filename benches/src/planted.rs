//! Matrices whose singular values are known.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use faer::Mat;

/// `[m, n]` by rows in f32, with these singular values.
#[derive(Debug, Clone)]
pub struct Planted {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Row by row.
    pub values: Vec<f32>,
    /// `[min(m, n)]`, descending.
    pub spectrum: Vec<f64>,
}

impl Planted {
    /// With a spectrum like those of pretrained attention weights: slow, nearly linear decay with a few tiny
    /// values at the end.
    pub fn pretrained(m: usize, n: usize, seed: u64) -> Self {
        let k = m.min(n);
        let spectrum: Vec<f64> = (0..k).map(|i| (1.0 - (i as f64 / k as f64).powf(0.4)).max(3e-4)).collect();
        let (u, v) = (orthonormal(m, k, seed), orthonormal(n, k, seed + 1));
        let scaled = Mat::from_fn(m, k, |i, j| u[(i, j)] * spectrum[j]);
        let a = scaled * v.transpose();
        let values = (0..m * n).map(|at| a[(at / n, at % n)] as f32).collect();
        Self { m, n, values, spectrum }
    }

    /// On a device.
    pub fn upload<B: Backend>(&self) -> Tensor<B, 2> {
        let data = TensorData::new(self.values.clone(), [self.m, self.n]);
        Tensor::from_data(data, &B::Device::default())
    }

    /// Largest error of `values`, relative to the largest singular value.
    pub fn error(&self, values: &[f64]) -> f64 {
        let off = values.iter().zip(&self.spectrum).map(|(found, planted)| (found - planted).abs());
        off.fold(0.0, f64::max) / self.spectrum[0]
    }
}

fn orthonormal(m: usize, n: usize, seed: u64) -> Mat<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let random = Mat::from_fn(m, n, |_, _| {
        // xorshift64: the columns only have to be independent.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    });
    random.qr().compute_thin_Q()
}
