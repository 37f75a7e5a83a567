//! What a model offers to adapters: its linear layers, by site.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use sara_ops::LayerOps;
use sara_ops::packed::is_packed;

use crate::adapter::Adapter;
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::site::Site;

/// A model whose linear layers can be adapted.
pub trait Backbone<B: Backend>: Module<B> {
    /// Every linear layer that may be adapted, with its site.
    fn linears(&self) -> Vec<(Site, &Linear<B>)>;

    /// The same, to be changed in place.
    fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)>;

    /// Folds the adapter into the weights, in f32: afterwards the model alone computes what it computed with the adapter.
    ///
    /// Returns the model and the Frobenius norm of the change of each site's weight.
    ///
    /// # Errors
    /// [`Error::NotMergeable`] where the method cannot be folded in, [`Error::NoBias`] where it changes a bias that the
    /// layer does not have, [`Error::Packed`] where the weight is in 8 or 4 bits, [`Error::NothingToMerge`] where neither a
    /// weight nor a bias would change.
    fn merge<A: Adapter<B>>(mut self, adapter: &A) -> Result<(Self, Vec<(Site, f64)>)>
    where
        B: LayerOps,
    {
        let mut norms = Vec::new();
        let mut changes_bias = false;
        for (site, linear) in self.linears_mut() {
            let Some(Delta { weight, bias }) = adapter.delta(site, linear)? else { continue };
            if bias.is_some() && linear.bias.is_none() {
                return Err(Error::NoBias { site });
            }
            if is_packed(linear.weight.dtype()) {
                return Err(Error::Packed { site });
            }
            let change = weight.dense();
            norms.push((site, norm(change.clone())));
            // Detached and without gradient: a merged weight is a value again, not a step of a graph.
            linear.weight = linear.weight.clone().map(|w| {
                let dtype = w.dtype();
                (w.cast(change.dtype()) + change).cast(dtype).detach().set_require_grad(false)
            });
            if let Some(change) = bias {
                changes_bias |= norm(change.clone()) != 0.0;
                linear.bias = linear.bias.take().map(|bias| {
                    bias.map(|b| {
                        let dtype = b.dtype();
                        let sum = b.cast(DType::F32) + change.cast(DType::F32);
                        sum.cast(dtype).detach().set_require_grad(false)
                    })
                });
            }
        }
        if !changes_bias && norms.iter().all(|&(_, norm)| norm == 0.0) {
            return Err(Error::NothingToMerge);
        }
        Ok((self, norms))
    }
}

/// The root of the sum of all squares.
fn norm<B: Backend, const D: usize>(change: Tensor<B, D>) -> f64 {
    let values = change.into_data().convert::<f32>();
    values.iter::<f32>().map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}
