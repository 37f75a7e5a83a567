//! What a model offers to adapters: its linear layers, by site.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::backend::Backend;

use crate::adapter::Adapter;
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::ops::LinearOps;
use crate::site::Site;

/// A model whose linear layers can be adapted.
pub trait Backbone<B: Backend>: Module<B> {
    /// Every linear layer that may be adapted, with its site.
    fn linears(&self) -> Vec<(Site, &Linear<B>)>;

    /// The same, to be changed in place.
    fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)>;

    /// Folds the adapter into the weights, in f32: afterwards the model alone computes what it computed with the adapter.
    ///
    /// Returns the model and the Frobenius norm of each site's change.
    ///
    /// # Errors
    /// [`Error::NotMergeable`] where the method cannot be folded in, [`Error::NothingToMerge`] where no weight would
    /// change.
    fn merge<A: Adapter<B>>(mut self, adapter: &A) -> Result<(Self, Vec<(Site, f64)>)>
    where
        B: LinearOps,
    {
        let mut norms = Vec::new();
        for (site, linear) in self.linears_mut() {
            let Some(Delta { weight, bias }) = adapter.delta(site, linear)? else { continue };
            let change = weight.dense();
            norms.push((site, frobenius(change.clone())));
            // Detached and without gradient: a merged weight is a value again, not a step of a graph.
            linear.weight = linear.weight.clone().map(|w| {
                let dtype = w.dtype();
                (w.cast(change.dtype()) + change).cast(dtype).detach().set_require_grad(false)
            });
            if let Some(bias) = bias {
                linear.bias = linear
                    .bias
                    .take()
                    .map(|param| param.map(|b| (b + bias).detach().set_require_grad(false)));
            }
        }
        if norms.iter().all(|&(_, norm)| norm == 0.0) {
            return Err(Error::NothingToMerge);
        }
        Ok((self, norms))
    }
}

fn frobenius<B: Backend>(change: Tensor2<B>) -> f64 {
    let values = change.into_data().convert::<f32>();
    values.iter::<f32>().map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

type Tensor2<B> = burn::tensor::Tensor<B, 2>;
