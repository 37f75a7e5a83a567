//! Adapters of the LoRA family beside frozen linear layers, generic over [burn](https://burn.dev)'s backends.
//!
//! Fine-tuning a large model changes each of its weights by little, and a few thin factors are enough to say how. This
//! crate holds such methods behind one trait: a model calls [`Adapter::project`] where it would call a linear layer, and
//! never learns which method answers; a method sees a [`Site`], a linear layer and an input, and never learns which model
//! asks.
//!
//! # A model of two layers, from its ranks to its merged weights
//!
//! ```
//! use burn::module::{AutodiffModule, Module};
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::{GradientsParams, Optimizer, SgdConfig};
//! use burn::tensor::{Tensor, Tolerance, backend::Backend};
//! use burn_autodiff::Autodiff;
//! use burn_flex::{Flex, FlexDevice};
//! use sara_core::{
//!     Adapter, Backbone, LayerAdapter, LayerOps, MethodConfig, ModelShape, Noise, Pass, Role, Seed, Site, Target, WeightSource,
//! };
//!
//! /// The backbone: one block with a wide middle.
//! #[derive(Module, Debug)]
//! struct Toy<B: Backend> {
//!     up: Linear<B>,
//!     down: Linear<B>,
//! }
//!
//! const UP: Site = Site { layer: 0, role: Role::Up };
//! const DOWN: Site = Site { layer: 0, role: Role::Down };
//!
//! impl<B: LayerOps> Toy<B> {
//!     fn forward(&self, x: Tensor<B, 3>, adapter: &impl Adapter<B>, pass: &Pass<B>) -> Tensor<B, 3> {
//!         let block = LayerAdapter { adapter, pass, layer: 0 };
//!         let wide = block.project(Role::Up, &self.up, x).tanh();
//!         block.project(Role::Down, &self.down, wide)
//!     }
//! }
//!
//! impl<B: Backend> Backbone<B> for Toy<B> {
//!     fn linears(&self) -> Vec<(Site, &Linear<B>)> {
//!         vec![(UP, &self.up), (DOWN, &self.down)]
//!     }
//!     fn linears_mut(&mut self) -> Vec<(Site, &mut Linear<B>)> {
//!         vec![(UP, &mut self.up), (DOWN, &mut self.down)]
//!     }
//! }
//!
//! /// Its weights, for methods whose ranks come from them.
//! struct Weights<'a, B: Backend>(&'a Toy<B>);
//!
//! impl<B: Backend> WeightSource<B> for Weights<'_, B> {
//!     fn weight(&mut self, target: &Target) -> sara_core::Result<Tensor<B, 2>> {
//!         Ok(if target.site == UP { self.0.up.weight.val() } else { self.0.down.weight.val() })
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! type B = Autodiff<Flex>;
//! let device = FlexDevice;
//! let toy = Toy::<B> {
//!     up: LinearConfig::new(6, 10).init(&device),
//!     down: LinearConfig::new(10, 6).init(&device),
//! }
//! .no_grad();
//!
//! // Plan: the rank of each layer is what reaches half the sum of its singular values.
//! let targets = [
//!     Target { site: UP, name: "block.0.up".into(), d_in: 6, d_out: 10 },
//!     Target { site: DOWN, name: "block.0.down".into(), d_in: 10, d_out: 6 },
//! ];
//! let method: MethodConfig = serde_json::from_str(r#"{"sara": {"share": 0.5}}"#)?;
//! let shape = ModelShape { n_layers: 1, n_heads: 1, n_kv_heads: 1, head_dim: 6 };
//! let plan = method.plan(shape, &targets, &mut Weights(&toy))?;
//!
//! // Start: the adapted model equals the backbone.
//! let mut adapter = method.start(shape, &plan, Seed(0), &mut Weights(&toy), &device)?;
//! assert_eq!(method.count(shape, &plan), plan.total() * (6 + 10 + 1));
//!
//! // Train: the adapter moves, the backbone has no gradient.
//! let x = Tensor::<B, 3>::ones([1, 2, 6], &device);
//! let mut optimizer = SgdConfig::new().init();
//! for step in 0..3 {
//!     let out = toy.forward(x.clone(), &adapter, &Pass::training(Noise { step, ..Noise::default() }));
//!     let loss = (out - 1.0).powi_scalar(2).mean();
//!     let grads = GradientsParams::from_grads(loss.backward(), &adapter);
//!     adapter = optimizer.step(0.1, adapter, grads);
//! }
//!
//! // Merge: the model alone computes what it computed with the adapter.
//! let (toy, adapter, x) = (toy.valid(), adapter.valid(), x.inner());
//! let adapted = toy.forward(x.clone(), &adapter, &Pass::evaluation());
//! let (merged, _) = toy.merge(&adapter)?;
//! let alone = merged.forward(x, &None::<sara_core::AnyAdapter<Flex>>, &Pass::evaluation());
//! alone.into_data().assert_approx_eq::<f32>(&adapted.into_data(), Tolerance::default());
//! # Ok(())
//! # }
//! ```
//!
//! # The modules, in reading order
//!
//! 1. [`site`]: a [`Site`] is one linear layer of a model, by block and [`Role`]; a [`Target`] is one that is adapted,
//!    with its path in the Hugging Face model; [`Targets`] picks them by name; a [`SiteMap`] holds a module for each.
//! 2. [`adapter`]: [`Adapter`] is what a method can do and [`Trainable`] what changes between optimizer steps. A
//!    transformer block sees its part of an adapter as [`LayerAdapter`].
//! 3. [`pass`]: a [`Pass`] is what one forward pass knows beside its input. Only a pass of training draws, from its place
//!    in the run (its [`Noise`]) and a path; what adapters ask to record is what was [`Seen`].
//! 4. [`methods`]: [`Method`] is a method's configuration. The registry makes [`MethodConfig`] and [`AnyAdapter`], any of
//!    them at run time. One file for each: [`lora`](methods::lora), [`sara`](methods::sara),
//!    [`adalora`](methods::adalora), with idea, equations and differences from the paper.
//! 5. [`rank_plan`]: a [`RankPlan`] gives each target its rank, from a constant or from the weights that a
//!    [`WeightSource`] reads. It is saved with the adapter, so that nothing is decomposed twice.
//! 6. [`seed`]: first values are drawn on the host, each a function of the [`Seed`] and its own path: the same on every
//!    backend and in any order.
//! 7. [`low_rank`]: the branch that most methods are beside a frozen layer, with its options and its factors. The layer
//!    itself is `sara-ops`'s.
//! 8. [`backbone`] and [`delta`]: a [`Backbone`] lists its linear layers and merges the [`Delta`] of each site.
//! 9. [`parameters`]: parameters by path, to edit, count, save and restore them.
//! 10. [`store`], [`export`], [`import`]: a [`StoredAdapter`] is the native directory; [`export::peft`] and
//!     [`import::peft`] are PEFT's.
//!
//! # A training step
//!
//! The loop adds [`Adapter::penalty`] to its loss, and after the optimizer step calls [`Trainable::after_step`] with the
//! clipped gradients of that step and what the pass saw. The loop of `sara-models` shows it.
//!
//! # Adding a method
//!
//! One file in `methods/` with a configuration that implements [`Method`] and a module that implements [`Adapter`] and
//! [`Trainable`], one line in the registry in `methods.rs`, and one entry in the table of the contract tests, which then
//! hold for it: its start, its gradients against finite differences, its storage, its merge, its count.
//!
//! # What holds
//!
//! * No method compares parameter names, and no model names a method.
//! * Merging equals the adapted forward pass, or is refused with a reason.
//! * Loading uses every tensor and fills every site, or one [`Error`] lists all that does not fit.
//! * A directory is written whole or not at all.
//! * No data, file or configuration makes this crate panic. Tensors of the wrong shape do, as everywhere in burn.
//!
//! # Features
//!
//! One for each backend: `flex` (the CPU, on by default), `ndarray`, `wgpu`, `cuda`.

pub mod adapter;
pub mod backbone;
pub mod delta;
pub mod error;
pub mod export;
mod fields;
pub mod import;
pub mod low_rank;
pub mod methods;
pub mod nearest;
pub mod parameters;
pub mod pass;
pub mod rank_plan;
pub mod seed;
pub mod site;
pub mod store;

pub use adapter::{Adapter, Apart, Figure, LayerAdapter, Progress, Trainable};
pub use backbone::Backbone;
pub use delta::{Change, Delta};
pub use error::{Error, Result};
pub use methods::{AnyAdapter, Method, MethodConfig};
pub use pass::{Noise, Pass, Seen};
pub use rank_plan::{NoWeights, Planned, RankPlan, WeightSource};
pub use sara_ops::{LayerOps, TrainOps};
pub use seed::Seed;
pub use site::{ModelShape, Role, Site, SiteMap, Target, Targets};
pub use store::{Manifest, StoredAdapter};
