//! What a family's task is to a run.

use std::fmt::{Debug, Display};

use burn_autodiff::Autodiff;
use sara_core::AnyAdapter;
use sara_core::parameters::Tensors;
use sara_ops::LayerOps;
use sara_svd::SvdOps;
use serde_json::Value;

use super::{Data, Learner, Prepared, Run};
use crate::adapted::Answer;
use crate::architecture::{Architecture, Family};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::train::{Journal, Options, Outcome, Snapshot};

/// Examples that a run learns from.
pub trait Learnable: Debug + Sync {
    /// How many an epoch has, as batches count them.
    fn rows(&self, data: &Data) -> usize;

    /// How many there are.
    fn examples(&self) -> usize;

    /// A hash of them in their order.
    fn fingerprint(&self) -> String;

    /// What they are like, for people.
    fn report(&self) -> &dyn Display;

    /// What a dry run says of them to a script, if anything; the model's files hold `weight_bytes`.
    fn plan(&self, run: &Run, config: &dyn Architecture, weight_bytes: usize) -> Option<Value> {
        let _ = (run, config, weight_bytes);
        None
    }
}

/// What a run learns from.
#[derive(Debug)]
pub struct Learned<D> {
    /// What the head will answer.
    pub answer: Answer,
    /// The examples to learn from.
    pub train: D,
    /// The examples to choose the best model by.
    pub valid: D,
    /// A hash of how a text becomes tokens.
    pub tokenizer: String,
    /// What was decided.
    pub notes: Vec<String>,
}

/// A frozen model and the head beside it, ready to be trained.
pub type Ready<F, B> = (<F as Family>::Model<Autodiff<B>>, <F as Family>::Head<Autodiff<B>>);

/// What training came to.
pub type Fitted<F, B> = Outcome<Autodiff<B>, AnyAdapter<Autodiff<B>>, <F as Family>::Head<Autodiff<B>>>;

/// A family and the task that a run trains it for.
pub trait Trains: Family {
    /// Its examples.
    type Data: Learnable;

    /// Reads what a run learns from.
    ///
    /// # Errors
    /// What reading said, or where the data and the model do not fit.
    fn learn(run: &Run, checkpoint: &Checkpoint<Self>) -> Result<Learned<Self::Data>>;

    /// The frozen model, and the head to start from: that of `start`, where it has one. What is decided on the way goes to
    /// `say`, with a word for what it is about.
    ///
    /// # Errors
    /// What loading said.
    fn open<B: LayerOps>(
        prepared: &Prepared<Self>,
        start: &Tensors,
        say: &mut dyn FnMut(&'static str, &str),
        device: &B::Device,
    ) -> Result<Ready<Self, B>>;

    /// Trains, from the start or from where `resume` stands.
    ///
    /// # Errors
    /// What training said.
    fn train<B: LayerOps + SvdOps>(
        prepared: &Prepared<Self>,
        model: &Self::Model<Autodiff<B>>,
        options: Options,
        trained: Learner<Self, B>,
        resume: Option<Snapshot>,
        journal: &mut impl Journal<Learner<Self, B>>,
    ) -> Result<Fitted<Self, B>>;

    /// Both without gradients.
    fn inner<B: LayerOps>(
        model: Self::Model<Autodiff<B>>,
        head: Self::Head<Autodiff<B>>,
    ) -> (Self::Model<B>, Self::Head<B>);
}
