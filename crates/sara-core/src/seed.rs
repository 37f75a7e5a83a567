//! First values drawn on the host, so that they are the same on every backend and in any order.

use std::fmt::Display;

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

/// The seed of a run. Every value drawn is a function of it and of a path, never of what was drawn before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// A generator for `path`.
    pub fn rng(self, path: &str) -> ChaCha12Rng {
        // FNV-1a over the path, continued from the seed; ChaCha's own key expansion does the rest.
        let start = 0xcbf2_9ce4_8422_2325 ^ self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let key = path.bytes().fold(start, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        ChaCha12Rng::seed_from_u64(key)
    }

    /// A trained parameter with uniform values in `-bound..bound`.
    pub fn uniform<B: Backend, const D: usize>(
        self,
        path: &str,
        shape: [usize; D],
        bound: f64,
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        let mut rng = self.rng(path);
        let values =
            (0..shape.iter().product()).map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect();
        trained(values, shape, device)
    }

    /// A trained parameter with normal values of mean 0.
    pub fn normal<B: Backend, const D: usize>(
        self,
        path: &str,
        shape: [usize; D],
        deviation: f64,
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        let mut rng = self.rng(path);
        // Box-Muller, one value of the pair; `1 - u` keeps the logarithm finite.
        let mut draw = || {
            let (u, v) = (rng.random::<f64>(), rng.random::<f64>());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let values = (0..shape.iter().product()).map(|_| (draw() * deviation) as f32).collect();
        trained(values, shape, device)
    }

    /// The seed of one draw of device noise, so that a position in the run is all that a snapshot of it needs.
    pub fn of_draw(self, step: usize, micro_batch: usize, path: impl Display) -> u64 {
        self.rng(&format!("noise/{step}/{micro_batch}/{path}")).random()
    }
}

fn trained<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}
