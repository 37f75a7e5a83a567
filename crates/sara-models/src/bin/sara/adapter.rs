//! The model that commands open, with an adapter beside it.

use std::path::{Path, PathBuf};

use clap::Args;
use sara_models::adapted::{Adapted, Base, Opening, Opens};
use sara_models::architecture::Kind;
use sara_models::checkpoint::WeightType;
use sara_models::hub::locate;

use crate::device::Compute;

/// A model, and the adapter that is put beside it.
#[derive(Args)]
pub(crate) struct Opened {
    /// Directory of the model.
    #[arg(long)]
    model: PathBuf,
    /// Directory of the adapter, native or PEFT's, or of the run that trained it.
    #[arg(long)]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    beside: Beside,
    /// How the weights of a model that writes lie in memory.
    #[arg(long, value_enum, default_value = "checkpoint")]
    dtype: WeightType,
}

/// Which base an adapter may be put beside.
#[derive(Args, Clone, Copy)]
pub(crate) struct Beside {
    /// Use the adapter beside a model of the same shape that it was not trained on.
    #[arg(long)]
    any_base: bool,
}

impl Beside {
    /// The base.
    pub(crate) fn base(self) -> Base {
        if self.any_base { Base::Any } else { Base::TrainedOn }
    }
}

/// What the model in `dir` is made for.
pub(crate) fn kind(dir: &Path) -> sara_models::Result<Kind> {
    Kind::of(&locate(dir)?)
}

impl Opened {
    /// What the model is made for.
    pub(crate) fn kind(&self) -> sara_models::Result<Kind> {
        kind(&self.model)
    }

    /// Opens both.
    pub(crate) fn open<B: Compute, F: Opens>(
        &self,
        device: &B::Device,
    ) -> sara_models::Result<Adapted<B, F>> {
        let opening = Opening { base: self.beside.base(), weight_type: self.dtype };
        Adapted::open_beside(&self.model, self.adapter.as_deref(), opening, device)
    }

    /// Everything that is read: the model, the adapter and one file more.
    pub(crate) fn files<'a>(&'a self, other: Option<&'a PathBuf>) -> Vec<&'a Path> {
        [Some(&self.model), self.adapter.as_ref(), other]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }
}
