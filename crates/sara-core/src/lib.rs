//! Adapter layers of the LoRA family, generic over burn's backends.

pub mod adapter;
pub mod backbone;
pub mod delta;
pub mod error;
pub mod low_rank;
pub mod methods;
pub mod parameters;
pub mod pass;
pub mod rank_plan;
pub mod seed;
pub mod site;

pub use adapter::{Adapter, Figure, LayerAdapter, Progress, Trainable};
pub use backbone::Backbone;
pub use delta::{Change, Delta};
pub use error::{Error, Result};
pub use methods::{AnyAdapter, Method, MethodConfig};
pub use pass::{Pass, Seen};
pub use rank_plan::{NoWeights, Planned, RankPlan, WeightSource};
pub use seed::Seed;
pub use site::{ModelShape, Role, Site, SiteMap, Target, Targets};
