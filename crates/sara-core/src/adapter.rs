//! The two traits every adaptation method implements.

use burn::module::{AutodiffModule, Module, ModuleDisplay, ParamId};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{LayerOps, TrainOps};
use serde::Serialize;

use crate::delta::Delta;
use crate::error::Result;
use crate::low_rank::linear;
use crate::pass::{Pass, Seen};
use crate::site::{Role, Site};

/// Where training stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The optimizer step, from 0.
    pub step: usize,
    /// Planned optimizer steps.
    pub total: usize,
}

/// A figure worth a line in the metrics: rank, bits, router use, sparsity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Where; `None` where it is about the whole adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// What, for example `rank`.
    pub name: &'static str,
    /// How much.
    pub value: f64,
}

impl Figure {
    /// The name of the share of the tokens that goes to an expert: one figure for each, in their order.
    pub const EXPERT_USE: &str = "expert_use";

    /// A figure of one site.
    pub fn at(site: Site, name: &'static str, value: f64) -> Self {
        Self { site: Some(site), name, value }
    }

    /// A figure of the whole adapter.
    pub fn of_all(name: &'static str, value: f64) -> Self {
        Self { site: None, name, value }
    }
}

/// One adaptation method and its state for every adapted site of a model.
///
/// A method never looks at parameter names, and a model never names a method: this trait is all they share.
pub trait Adapter<B: LayerOps>: Module<B> + ModuleDisplay {
    /// Output of the linear layer `base` at `site`, correction included.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`
    /// - returns `[batch, seq, d_out]`
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3>;

    /// Change of the layer at `site` (weight, and bias where trained); `None` where the site is not adapted.
    ///
    /// # Errors
    /// [`Error::NotMergeable`](crate::Error::NotMergeable) where the change depends on the input.
    fn delta(&self, site: Site, base: &Linear<B>) -> Result<Option<Delta<B>>>;

    /// Whether [`Self::project`] records something in the pass, which costs time and is therefore asked for.
    fn records(&self) -> bool {
        false
    }

    /// Whether evaluation records too, for [`Self::observed`] and [`Self::collapse`].
    fn observes(&self) -> bool {
        false
    }

    /// Term the method adds to the training loss, `[1]`.
    fn penalty(&self, progress: Progress) -> Option<Tensor<B, 1>> {
        let _ = progress;
        None
    }

    /// Figures for metrics and pictures; a name with a dot, `bits.down`, is one of several of a kind.
    fn report(&self) -> Vec<Figure> {
        Vec::new()
    }

    /// Figures of what passes of evaluation saw, where the method [observes](Self::observes).
    fn observed(&self, seen: &Seen<B>) -> Vec<Figure> {
        let _ = seen;
        Vec::new()
    }

    /// What the stored adapter does not hold.
    fn apart(&self) -> Apart {
        Apart::default()
    }

    /// The same method without what depends on the input, at the mean over the tokens that `seen` recorded; `None` where
    /// nothing does.
    fn collapse(self, seen: &Seen<B>) -> Option<Self>
    where
        Self: Sized,
    {
        let _ = seen;
        None
    }
}

/// The parameters that a stored adapter does not hold.
#[derive(Debug, Clone, Default)]
pub struct Apart {
    /// Frozen, and a function of the base's weights alone: stored in a file of their own, or computed again.
    pub from_base: Vec<ParamId>,
    /// Without effect: where the stored adapter has none, their first values come back.
    pub unused: Vec<ParamId>,
}

/// What changes between optimizer steps.
pub trait Trainable<B: TrainOps>:
    Adapter<B> + AutodiffModule<B, InnerModule: Adapter<B::InnerBackend>>
{
    /// After the optimizer step, with the clipped gradients of that step and what the forward pass saw, where
    /// [`Adapter::records`] asks for it.
    fn after_step(self, grads: &GradientsParams, seen: &Seen<B::InnerBackend>, progress: Progress) -> Self {
        let _ = (grads, seen, progress);
        self
    }
}

/// The adapter as one transformer block sees it.
#[derive(Debug)]
pub struct LayerAdapter<'a, B: Backend, A> {
    /// The whole adapter.
    pub adapter: &'a A,
    /// The forward pass under way.
    pub pass: &'a Pass<B>,
    /// Index of the block.
    pub layer: usize,
}

impl<B: LayerOps, A: Adapter<B>> LayerAdapter<'_, B, A> {
    /// Output of this block's linear layer `base` in `role`, correction included.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`
    /// - returns `[batch, seq, d_out]`
    pub fn project(&self, role: Role, base: &Linear<B>, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.adapter.project(Site { layer: self.layer, role }, base, x, self.pass)
    }
}

/// No adapter is an adapter too: the bare backbone.
impl<B: LayerOps, A: Adapter<B>> Adapter<B> for Option<A> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        match self {
            Some(adapter) => adapter.project(site, base, x, pass),
            None => linear(base, x),
        }
    }

    fn delta(&self, site: Site, base: &Linear<B>) -> Result<Option<Delta<B>>> {
        self.as_ref().map_or(Ok(None), |adapter| adapter.delta(site, base))
    }

    fn records(&self) -> bool {
        self.as_ref().is_some_and(Adapter::records)
    }

    fn observes(&self) -> bool {
        self.as_ref().is_some_and(Adapter::observes)
    }

    fn penalty(&self, progress: Progress) -> Option<Tensor<B, 1>> {
        self.as_ref().and_then(|adapter| adapter.penalty(progress))
    }

    fn report(&self) -> Vec<Figure> {
        self.as_ref().map(Adapter::report).unwrap_or_default()
    }

    fn observed(&self, seen: &Seen<B>) -> Vec<Figure> {
        self.as_ref().map(|adapter| adapter.observed(seen)).unwrap_or_default()
    }

    fn apart(&self) -> Apart {
        self.as_ref().map(Adapter::apart).unwrap_or_default()
    }

    fn collapse(self, seen: &Seen<B>) -> Option<Self> {
        self.and_then(|adapter| adapter.collapse(seen)).map(Some)
    }
}

impl<B: TrainOps, A: Trainable<B>> Trainable<B> for Option<A> {
    fn after_step(self, grads: &GradientsParams, seen: &Seen<B::InnerBackend>, progress: Progress) -> Self {
        self.map(|adapter| adapter.after_step(grads, seen, progress))
    }
}
