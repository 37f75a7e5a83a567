//! The description of what an adapter has from the base's weights alone, by which it is known again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::parameters::Tensors;
use crate::seed::Seed;

/// Largest difference of a projection, relative to the tensor's norm, at which what was computed again counts as the
/// same: a decomposition on another device differs by some 1e-5, another matrix by about 1.
const TOLERANCE: f64 = 1e-3;
/// Projections of a tensor that are stored.
const PROJECTIONS: usize = 4;

/// What `adapter.json` says of `frozen.safetensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// Bytes of the values.
    pub bytes: usize,
    /// SHA-256 of the names and values, in the order of the names.
    pub hash: String,
    /// Of each tensor its products with four random tensors, over its norm: what is computed again is never equal to the
    /// bit on another device.
    pub projections: BTreeMap<String, [f64; PROJECTIONS]>,
}

impl Frozen {
    /// The description of these tensors.
    pub(super) fn of(tensors: &Tensors) -> Self {
        Self {
            bytes: tensors.values().map(|data| data.as_bytes().len()).sum(),
            hash: Self::hash(tensors),
            projections: tensors.keys().map(|name| (name.clone(), projections(name, tensors))).collect(),
        }
    }

    pub(super) fn hash(tensors: &Tensors) -> String {
        let mut hash = Sha256::new();
        for (name, data) in tensors {
            hash.update(name.as_bytes());
            hash.update(data.as_bytes());
        }
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Whether what was computed again is the same.
    ///
    /// # Errors
    /// [`Error::OtherBase`].
    pub(super) fn check(&self, computed: &Tensors) -> Result<()> {
        for name in computed.keys() {
            let (own, stored) = (projections(name, computed), self.projections.get(name));
            let difference = match stored {
                Some(stored) => {
                    own.iter().zip(stored).map(|(own, stored)| (own - stored).abs()).fold(0.0, f64::max)
                }
                None => f64::INFINITY,
            };
            if difference.is_nan() || difference > TOLERANCE {
                return Err(Error::OtherBase { name: name.clone(), difference });
            }
        }
        Ok(())
    }
}

fn projections(name: &str, tensors: &Tensors) -> [f64; PROJECTIONS] {
    let values: Vec<f64> = tensors.get(name).map(|data| data.iter::<f64>().collect()).unwrap_or_default();
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    std::array::from_fn(|i| {
        let mut rng = Seed(0).rng(&format!("{name}/{i}"));
        // Uniform with deviation 1, so that a product over the norm is of size one.
        let product: f64 =
            values.iter().map(|value| value * (rng.random::<f64>() - 0.5) * 12f64.sqrt()).sum();
        if norm == 0.0 { 0.0 } else { product / norm }
    })
}
