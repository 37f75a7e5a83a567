//! The one place where processes that train together meet.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use sara_core::Seen;

use crate::error::Result;

/// What one step has added up over its micro-batches.
#[derive(Debug)]
pub struct Totals<B: AutodiffBackend> {
    /// Mean gradients.
    pub gradients: GradientsParams,
    /// Mean loss of the task, `[1]`.
    pub loss: Tensor<B::InnerBackend, 1>,
    /// What the means are over: their sum over processes is divided by the sum of this.
    pub weight: f64,
    /// What the passes recorded.
    pub seen: Seen<B::InnerBackend>,
}

/// The processes of a run, each of which has its own examples of every step.
pub trait Processes<B: AutodiffBackend> {
    /// Makes the totals of this process those of all: weighted means, summed records.
    ///
    /// # Errors
    /// What the connection said.
    fn combine(&mut self, totals: Totals<B>) -> Result<Totals<B>>;
}

/// A single process.
impl<B: AutodiffBackend> Processes<B> for () {
    fn combine(&mut self, totals: Totals<B>) -> Result<Totals<B>> {
        Ok(totals)
    }
}
