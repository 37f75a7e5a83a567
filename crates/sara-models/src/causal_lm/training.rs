//! Training on texts that go on.

use std::num::NonZeroUsize;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use sara_core::Trainable;
use sara_ops::TrainOps;

use super::batch::Packing;
use super::evaluate::observe;
use super::{Batch, CausalLoss, Dataset, Kept};
use crate::decoder::Decoder;
use crate::error::Result;
use crate::train::{Course, Inner, Journal, Measured, NoHead, Options, Outcome, Snapshot, Trained, fit};

/// What is trained on, and how.
#[derive(Debug)]
pub struct CausalLm<'a, B: AutodiffBackend> {
    /// The frozen model.
    pub model: &'a Decoder<B>,
    /// The texts to learn from.
    pub train: &'a Dataset,
    /// The texts to choose the best model by.
    pub valid: Option<&'a Dataset>,
    /// How texts share rows.
    pub packing: Packing,
    /// What is kept for the way back.
    pub kept: Kept,
    /// How to train.
    pub options: Options,
}

/// The adapter of a language model.
type Writer<B, A> = Trained<B, A, NoHead<B>>;

/// Trains an adapter beside the frozen model, from the start or from where `resume` stands.
///
/// A step is the mean over all its trained tokens; the loop is [`fit`](crate::train::fit()).
///
/// # Errors
/// Those of [`fit`](crate::train::fit()).
pub fn causal_lm<B, A>(
    task: &CausalLm<'_, B>,
    trained: Writer<B, A>,
    resume: Option<Snapshot>,
    journal: &mut impl Journal<Writer<B, A>>,
) -> Result<Outcome<B, A, NoHead<B>>>
where
    B: TrainOps,
    A: Trainable<B>,
{
    let CausalLm { model, train, valid, packing, kept, options } = task;
    let course = Texts {
        objective: CausalLoss { model, kept: *kept },
        frozen: model.valid(),
        train,
        rows: train.rows(*packing),
        valid: *valid,
    };
    fit(&course, options, trained, resume, journal)
}

/// The texts of a run beside its model.
struct Texts<'a, B: AutodiffBackend> {
    objective: CausalLoss<'a, B>,
    frozen: Decoder<B::InnerBackend>,
    train: &'a Dataset,
    /// Which texts stand in each row.
    rows: Vec<Vec<usize>>,
    valid: Option<&'a Dataset>,
}

impl<'a, B: TrainOps, A: Trainable<B>> Course<B, A, NoHead<B>> for Texts<'a, B> {
    type Batch = Batch;
    type Objective = CausalLoss<'a, B>;

    fn objective(&self) -> &Self::Objective {
        &self.objective
    }

    fn lengths(&self) -> Vec<usize> {
        let lengths = self.train.lengths();
        self.rows.iter().map(|row| row.iter().map(|&item| lengths[item]).sum()).collect()
    }

    fn batch(&self, rows: &[usize]) -> Batch {
        let items = |&row: &usize| self.rows[row].iter().map(|&item| &self.train.items[item]).collect();
        Batch::new(&rows.iter().map(items).collect::<Vec<_>>())
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.tokens()
    }

    fn measure(
        &self,
        trained: &Inner<B, A, NoHead<B>>,
        batch_size: NonZeroUsize,
    ) -> Result<Option<Measured<B>>> {
        self.valid.map(|valid| observe(&self.frozen, &trained.adapter, valid, batch_size)).transpose()
    }
}
