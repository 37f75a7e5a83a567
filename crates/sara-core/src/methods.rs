//! The adaptation methods, and the registry: one line for each, read by tests, command line and docs.
#![expect(missing_debug_implementations, reason = "the record type that burn derives for an enum")]
#![expect(clippy::large_enum_variant, reason = "a program has one adapter, and moves it once a step")]

use burn::module::Module;
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{LayerOps, TrainOps};
use sara_svd::SvdOps;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::adapter::{Adapter, Apart, Figure, Progress, Trainable};
use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::fields;
use crate::pass::{Pass, Seen};
use crate::rank_plan::{Planned, RankPlan, WeightSource};
use crate::seed::Seed;
use crate::site::{ModelShape, Site, Target};

pub mod adalora;
pub mod bayesian_lora;
pub mod lora;
pub mod lorta;
pub mod melora;
pub mod mo_sara;
pub mod prilora;
pub mod sara;
pub mod taps;

/// A method's configuration: what it needs to plan ranks and to make an adapter.
pub trait Method: Clone + std::fmt::Debug + Default + Serialize + DeserializeOwned {
    /// The adapter it makes.
    type Adapter<B: LayerOps>: Adapter<B>;

    /// The learning rate where a run names none; the method's page says which run chose it.
    const LEARNING_RATE: f64;

    /// The rank of each target. Only methods that need weights read them.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Rank`] where the configuration does not fit, or what reading a weight said.
    fn plan<B: SvdOps>(
        &self,
        shape: ModelShape,
        targets: &[Target],
        weights: &mut dyn WeightSource<B>,
    ) -> Result<RankPlan>;

    /// An adapter with first values that are a function of the seed alone; loading puts stored values in their place.
    ///
    /// # Errors
    /// [`Error::Config`] where the configuration does not fit.
    fn init<B: LayerOps>(
        &self,
        shape: ModelShape,
        plan: &RankPlan,
        seed: Seed,
        device: &B::Device,
    ) -> Result<Self::Adapter<B>>;

    /// What a new adapter takes from the pretrained weights, by default nothing. It is asked once, never when a stored
    /// adapter is loaded.
    ///
    /// # Errors
    /// What reading or decomposing a weight said.
    fn start_from<B: LayerOps + SvdOps>(
        &self,
        adapter: Self::Adapter<B>,
        weights: &mut dyn WeightSource<B>,
    ) -> Result<Self::Adapter<B>> {
        let _ = weights;
        Ok(adapter)
    }

    /// Number of trained values that belong to one site alone.
    fn count_at(&self, planned: &Planned) -> usize;

    /// Number of trained values that belong to no site but to the whole model.
    fn count_shared(&self, shape: ModelShape, plan: &RankPlan) -> usize {
        let _ = (shape, plan);
        0
    }

    /// Whether the method can run for so many optimizer steps.
    ///
    /// # Errors
    /// [`Error::Config`] where its phases do not fit into them.
    fn check_steps(&self, total: usize) -> Result<()> {
        let _ = total;
        Ok(())
    }
}

/// Makes the list of methods known: each line is `Adapter(Configuration) = "name in files"`.
macro_rules! methods {
    ($($module:ident :: $method:ident($config:ident) = $name:literal),* $(,)?) => {
        /// Any adapter, chosen at run time.
        #[derive(Module, Debug)]
        pub enum AnyAdapter<B: Backend> {
            $(
                #[doc = concat!("The method `", $name, "`.")]
                $method($module::$method<B>)
            ),*
        }

        /// The configuration of any method. In files: `{"lora": {...}}`.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub enum MethodConfig {
            $(
                #[doc = concat!("The method `", $name, "`.")]
                #[serde(rename = $name)]
                $method($module::$config)
            ),*
        }

        impl MethodConfig {
            /// The names of all methods.
            pub const NAMES: &[&str] = &[$($name),*];

            /// Every method with its defaults.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$method($module::$config::default())),*]
            }

            /// The name in files.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$method(_) => $name),* }
            }

            /// See [`Method::plan`].
            ///
            /// # Errors
            /// As there.
            pub fn plan<B: SvdOps>(
                &self,
                shape: ModelShape,
                targets: &[Target],
                weights: &mut dyn WeightSource<B>,
            ) -> Result<RankPlan> {
                match self { $(Self::$method(config) => config.plan(shape, targets, weights)),* }
            }

            /// See [`Method::init`].
            ///
            /// # Errors
            /// As there.
            pub fn init<B: LayerOps>(
                &self,
                shape: ModelShape,
                plan: &RankPlan,
                seed: Seed,
                device: &B::Device,
            ) -> Result<AnyAdapter<B>> {
                match self {
                    $(Self::$method(config) => config.init(shape, plan, seed, device).map(AnyAdapter::$method)),*
                }
            }

            /// A new adapter: [`Method::init`], then [`Method::start_from`] the weights.
            ///
            /// # Errors
            /// As there.
            pub fn start<B: LayerOps + SvdOps>(
                &self,
                shape: ModelShape,
                plan: &RankPlan,
                seed: Seed,
                weights: &mut dyn WeightSource<B>,
                device: &B::Device,
            ) -> Result<AnyAdapter<B>> {
                match self {
                    $(Self::$method(config) => {
                        let adapter = config.init(shape, plan, seed, device)?;
                        config.start_from(adapter, weights).map(AnyAdapter::$method)
                    }),*
                }
            }

            /// See [`Method::LEARNING_RATE`].
            pub fn learning_rate(&self) -> f64 {
                match self { $(Self::$method(_) => <$module::$config as Method>::LEARNING_RATE),* }
            }

            /// See [`Method::count_at`].
            pub fn count_at(&self, planned: &Planned) -> usize {
                match self { $(Self::$method(config) => config.count_at(planned)),* }
            }

            /// See [`Method::count_shared`].
            pub fn count_shared(&self, shape: ModelShape, plan: &RankPlan) -> usize {
                match self { $(Self::$method(config) => config.count_shared(shape, plan)),* }
            }

            /// Number of trained values of an adapter of this plan.
            pub fn count(&self, shape: ModelShape, plan: &RankPlan) -> usize {
                let at_sites: usize = plan.sites.iter().map(|planned| self.count_at(planned)).sum();
                at_sites + self.count_shared(shape, plan)
            }

            /// See [`Method::check_steps`].
            ///
            /// # Errors
            /// As there.
            pub fn check_steps(&self, total: usize) -> Result<()> {
                match self { $(Self::$method(config) => config.check_steps(total)),* }
            }
        }

        impl<'de> Deserialize<'de> for MethodConfig {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let (name, given) = fields::one_method(deserializer)?;
                match name.as_str() {
                    $($name => fields::read(&name, given).map(Self::$method).map_err(D::Error::custom),)*
                    _ => Err(D::Error::unknown_variant(&name, Self::NAMES)),
                }
            }
        }

        impl<B: LayerOps> Adapter<B> for AnyAdapter<B> {
            fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
                match self { $(Self::$method(adapter) => adapter.project(site, base, x, pass)),* }
            }

            fn delta(&self, site: Site, base: &Linear<B>) -> Result<Option<Delta<B>>> {
                match self { $(Self::$method(adapter) => adapter.delta(site, base)),* }
            }

            fn records(&self) -> bool {
                match self { $(Self::$method(adapter) => adapter.records()),* }
            }

            fn observes(&self) -> bool {
                match self { $(Self::$method(adapter) => adapter.observes()),* }
            }

            fn penalty(&self, progress: Progress) -> Option<Tensor<B, 1>> {
                match self { $(Self::$method(adapter) => adapter.penalty(progress)),* }
            }

            fn report(&self) -> Vec<Figure> {
                match self { $(Self::$method(adapter) => adapter.report()),* }
            }

            fn observed(&self, seen: &Seen<B>) -> Vec<Figure> {
                match self { $(Self::$method(adapter) => adapter.observed(seen)),* }
            }

            fn apart(&self) -> Apart {
                match self { $(Self::$method(adapter) => adapter.apart()),* }
            }

            fn collapse(self, seen: &Seen<B>) -> Option<Self> {
                match self { $(Self::$method(adapter) => adapter.collapse(seen).map(Self::$method)),* }
            }
        }

        impl<B: TrainOps> Trainable<B> for AnyAdapter<B> {
            fn after_step(
                self,
                grads: &GradientsParams,
                seen: &Seen<B::InnerBackend>,
                progress: Progress,
            ) -> Self {
                match self { $(Self::$method(adapter) => Self::$method(adapter.after_step(grads, seen, progress))),* }
            }
        }
    };
}

methods! {
    lora::Lora(LoraConfig) = "lora",
    sara::Sara(SaraConfig) = "sara",
    mo_sara::MoSara(MoSaraConfig) = "mo_sara",
    adalora::Adalora(AdaloraConfig) = "adalora",
    prilora::Prilora(PriloraConfig) = "prilora",
    melora::Melora(MeloraConfig) = "melora",
    bayesian_lora::BayesianLora(BayesianLoraConfig) = "bayesian_lora",
    lorta::Lorta(LortaConfig) = "lorta",
    taps::Taps(TapsConfig) = "taps",
}

/// Checks that a value lies in 0..=1.
fn fraction(field: &str, value: f64) -> Result<()> {
    in_range(field, value, (0.0..=1.0).contains(&value), "in 0..=1")
}

/// Checks that a value lies in 0..1, as a probability of dropout must: one that drops everything divides by zero.
pub(crate) fn below_one(field: &str, value: f64) -> Result<()> {
    in_range(field, value, (0.0..1.0).contains(&value), "a number from 0 to less than 1")
}

/// Checks that a value is a number.
pub(crate) fn finite(field: &str, value: f64) -> Result<()> {
    in_range(field, value, value.is_finite(), "a finite number")
}

/// Checks that a value is a number, and not negative.
fn not_negative(field: &str, value: f64) -> Result<()> {
    in_range(field, value, value.is_finite() && value >= 0.0, "a number from 0 on")
}

/// Checks that there is at least one.
fn at_least_one(field: &str, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::Config { field: field.to_owned(), found: value.to_string(), expected: "1 or more".to_owned() })
}

fn in_range(field: &str, value: f64, holds: bool, expected: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Config { field: field.to_owned(), found: value.to_string(), expected: expected.to_owned() })
}
