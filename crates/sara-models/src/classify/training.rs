//! Training for classification and regression of whole texts.

use std::num::NonZeroUsize;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use sara_core::Trainable;
use sara_ops::TrainOps;

use super::loss::ClassifyLoss;
use crate::classify::evaluate::observe;
use crate::classify::{Batch, Dataset};
use crate::encoder::Encoder;
use crate::encoder::head::Head;
use crate::error::Result;
use crate::train::optimizer::Group;
use crate::train::{Course, Inner, Journal, Measured, Options, Outcome, Snapshot, Trained, fit};

/// What is trained on, and how.
#[derive(Debug)]
pub struct Classify<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Encoder<B>,
    /// The examples to learn from.
    pub train: &'a Dataset,
    /// The examples to choose the best model by.
    pub valid: Option<&'a Dataset>,
    /// How to train.
    pub options: Options,
}

/// Adapter and head of a classifier.
type Classifier<B, A> = Trained<B, A, Head<B>>;

/// Trains an adapter and a head beside the frozen model, from the start or from where `resume` stands.
///
/// A step is the mean over all its examples; the loop is [`fit`](crate::train::fit()).
///
/// # Errors
/// Those of [`fit`](crate::train::fit()), and [`Error::NoTargets`](crate::Error::NoTargets) for data that nothing can be
/// learned from.
pub fn classify<B, A>(
    task: &Classify<'_, B>,
    trained: Classifier<B, A>,
    resume: Option<Snapshot>,
    journal: &mut impl Journal<Classifier<B, A>>,
) -> Result<Outcome<B, A, Head<B>>>
where
    B: TrainOps,
    A: Trainable<B>,
{
    let Classify { model, train, valid, options } = task;
    let n_labels = trained.head.n_labels();
    train.check_targets(n_labels)?;
    valid.map_or(Ok(()), |valid| valid.check_targets(n_labels))?;
    let course =
        Labelled { objective: ClassifyLoss { model }, frozen: model.valid(), train, valid: *valid, options };
    fit(&course, options, trained, resume, journal)
}

/// The examples of a run beside its model.
struct Labelled<'a, B: AutodiffBackend> {
    objective: ClassifyLoss<'a, B>,
    frozen: Encoder<B::InnerBackend>,
    train: &'a Dataset,
    valid: Option<&'a Dataset>,
    options: &'a Options,
}

impl<'a, B: TrainOps, A: Trainable<B>> Course<B, A, Head<B>> for Labelled<'a, B> {
    type Batch = Batch;
    type Objective = ClassifyLoss<'a, B>;

    fn objective(&self) -> &Self::Objective {
        &self.objective
    }

    fn lengths(&self) -> Vec<usize> {
        self.train.lengths()
    }

    fn batch(&self, rows: &[usize]) -> Batch {
        self.train.batch(rows, self.objective.model.pad_id())
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.mask.iter().filter(|&&counts| counts).count()
    }

    fn groups(&self, trained: &Classifier<B, A>) -> Vec<Group> {
        groups(&trained.head, self.options)
    }

    fn measure(
        &self,
        trained: &Inner<B, A, Head<B>>,
        batch_size: NonZeroUsize,
    ) -> Result<Option<Measured<B>>> {
        self.valid.map(|valid| observe(&self.frozen, trained, valid, batch_size)).transpose()
    }
}

/// Parameters of the head with a rate of their own, and its biases, which transformers' trainer leaves out of the
/// decay.
fn groups<B: AutodiffBackend>(head: &Head<B>, options: &Options) -> Vec<Group> {
    let rate = options.optimizer.head_rate();
    let biases = head.bias_paths().into_iter().map(|path| Group {
        under: format!("head.{path}"),
        rate,
        weight_decay: Some(0.0),
    });
    std::iter::once(Group { under: "head".into(), rate, weight_decay: None }).chain(biases).collect()
}
