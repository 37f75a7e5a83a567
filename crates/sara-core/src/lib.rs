//! Adapters of the LoRA family beside frozen linear layers, generic over [burn](https://burn.dev)'s backends.
//!
//! Fine-tuning a large model changes each of its weights by little, and a few thin factors are enough to say how. This
//! crate holds such methods behind one trait: a model calls [`Adapter::project`] where it would call a linear layer, and
//! never learns which method answers; a method sees a [`Site`], a linear layer and an input, and never learns which model
//! asks.
//!
//! # From a configuration to an output
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::Tensor;
//! use burn_flex::{Flex, FlexDevice};
//! use sara_core::{Adapter, MethodConfig, ModelShape, NoWeights, Pass, Role, Seed, Site, Target};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = FlexDevice;
//! let shape = ModelShape { n_layers: 1, n_heads: 2, n_kv_heads: 2, head_dim: 4 };
//! let site = Site { layer: 0, role: Role::Query };
//! let name = "encoder.layer.0.attention.self.query".to_owned();
//! let targets = [Target { site, name, d_in: 8, d_out: 6 }];
//!
//! let method: MethodConfig = serde_json::from_str(r#"{"lora": {"rank": 2, "alpha": 4.0}}"#)?;
//! let plan = method.plan::<Flex>(&targets, &mut NoWeights)?;
//! let adapter = method.init::<Flex>(shape, &plan, Seed(0), &device)?;
//! assert_eq!(method.count(shape, &plan), 2 * (8 + 6));
//!
//! let query = LinearConfig::new(8, 6).init::<Flex>(&device);
//! let x = Tensor::ones([1, 3, 8], &device);
//! let y = adapter.project(site, &query, x, &Pass::evaluation());
//! assert_eq!(y.dims(), [1, 3, 6]);
//! # Ok(())
//! # }
//! ```
//!
//! # The life of an adapter
//!
//! 1. **Plan.** [`Method::plan`] gives every [`Target`] its rank. Only SARA reads the weights for it. The plan is saved
//!    with the adapter, so that nothing is decomposed twice.
//! 2. **Start.** [`Method::init`] draws the first values on the host, each a function of the seed and its own path: the
//!    same on every backend. The adapted model equals the backbone.
//! 3. **Train.** The loop adds [`Adapter::penalty`] to its loss, and after the optimizer step calls
//!    [`Trainable::after_step`] with the gradients of that step and what the [`Pass`] saw. The backbone gets no
//!    gradient.
//! 4. **Use.** [`Backbone::merge`] folds the [`Delta`] of each site into the weights, [`StoredAdapter`] writes the
//!    native directory, [`export`] writes other programs' formats, [`import`] reads them.
//!
//! # Where to look
//!
//! | to | see |
//! |---|---|
//! | learn a method: idea, equations, differences from the paper | [`methods`], one file each |
//! | name linear layers | [`site`] |
//! | make a model adaptable | [`Backbone`] and [`LayerAdapter`] |
//! | edit, count, save or restore parameters by path | [`parameters`] |
//! | read and write files | [`store`], [`export::peft`], [`import::peft`] |
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
//! `ndarray` and `wgpu` let weights on these backends be decomposed. The CPU backend flex needs no feature.

pub mod adapter;
pub mod backbone;
pub mod delta;
pub mod error;
pub mod export;
pub mod import;
pub mod low_rank;
pub mod methods;
pub mod parameters;
pub mod pass;
pub mod rank_plan;
pub mod seed;
pub mod site;
pub mod store;

pub use adapter::{Adapter, Figure, LayerAdapter, Progress, Trainable};
pub use backbone::Backbone;
pub use delta::{Change, Delta};
pub use error::{Error, Result};
pub use methods::{AnyAdapter, Method, MethodConfig};
pub use pass::{Pass, Seen};
pub use rank_plan::{NoWeights, Planned, RankPlan, WeightSource};
pub use seed::Seed;
pub use site::{ModelShape, Role, Site, SiteMap, Target, Targets};
pub use store::{Manifest, StoredAdapter};
