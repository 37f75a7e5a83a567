//! A Hugging Face checkpoint of any family: opened, looked into, loaded strictly, and written again with other weights.

use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use sara_core::{AnyAdapter, LayerOps, MethodConfig, RankPlan, Seed, Target, Targets, WeightSource};
use sara_svd::SvdOps;

use self::loader::Loader;
use self::weights::{Weights, to_f32_transposed};
use crate::architecture::{Architecture, Family, describe};
use crate::error::Error;

pub mod loader;
mod save;
pub mod weights;

pub use save::SavedHead;

/// The directory of a checkpoint, with its weights mapped and not yet read.
#[derive(Debug)]
pub struct Checkpoint<A> {
    /// The directory.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub config: A,
    weights: Weights,
    names: Names,
}

/// How a checkpoint's files name the tensors of a model with a head.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The first component of every path in the model, with a dot.
    full: String,
    /// The same in the files: nothing, where they are of a bare model.
    prefix: String,
}

impl Names {
    fn of(weights: &Weights, family: &str) -> Self {
        let full = format!("{family}.");
        let prefixed = weights.names().any(|name| name.starts_with(&full));
        Self { prefix: if prefixed { full.clone() } else { String::new() }, full }
    }

    /// A name of the model with a head, as the files have it.
    fn in_file(&self, name: &str) -> String {
        match name.strip_prefix(&self.full) {
            Some(rest) => format!("{}{rest}", self.prefix),
            None => name.to_owned(),
        }
    }

    /// A name of the files, as a model with a head has it.
    fn completed(&self, name: &str) -> String {
        if self.prefix.is_empty() { format!("{}{name}", self.full) } else { name.to_owned() }
    }
}

impl<A: Family> Checkpoint<A> {
    /// Opens a directory with `config.json` and safetensors files.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] where a file is missing, damaged, or of another family.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::with_config(dir, A::read(dir)?)
    }
}

impl Checkpoint<Box<dyn Architecture>> {
    /// Opens a directory of whichever family, for what needs no model.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_any(dir: &Path) -> Result<Self, Error> {
        Self::with_config(dir, describe(dir)?)
    }
}

impl<A: Architecture> Checkpoint<A> {
    fn with_config(dir: &Path, config: A) -> Result<Self, Error> {
        let weights = Weights::open(dir)?;
        let names = Names::of(&weights, config.name());
        Ok(Self { dir: dir.to_owned(), config, weights, names })
    }

    /// The path of a linear layer in this checkpoint's own files, without `.weight`.
    pub fn path_of(&self, target: &Target) -> String {
        self.names.in_file(&target.name)
    }

    /// The pretrained weights of linear layers, one at a time, for methods that start from them.
    pub fn weight_source<B: Backend>(&self, device: &B::Device) -> impl WeightSource<B> {
        WeightReader::<A, B> { checkpoint: self, device: device.clone() }
    }

    /// A new adapter beside this model, of which the ranks are planned, the first values drawn and the weights asked.
    ///
    /// # Errors
    /// Where the method or the targets do not fit the model, or what reading or decomposing a weight said.
    pub fn new_adapter<B: LayerOps + SvdOps>(
        &self,
        method: &MethodConfig,
        targets: &Targets,
        seed: Seed,
        device: &B::Device,
    ) -> Result<(AnyAdapter<B>, RankPlan), Error> {
        let (shape, targets) = (self.config.shape(), targets.select(&self.config.linears())?);
        let mut weights = self.weight_source::<B>(device);
        let plan = method.plan(shape, &targets, &mut weights)?;
        let adapter = method.start(shape, &plan, seed, &mut weights, device)?;
        Ok((adapter, plan))
    }

    /// A loader of this checkpoint's tensors, under the names of a model with a head.
    pub(crate) fn loader<'a, B: Backend>(&'a self, device: &'a B::Device) -> Loader<'a, B> {
        Loader::new(&self.weights, self.names.clone(), device)
    }

    /// Whether there is a tensor whose name begins so.
    pub(crate) fn has_names(&self, start: &str) -> bool {
        self.weights.names().any(|name| name.starts_with(start))
    }

    /// Whether the tensor `name` of the files is left out without a word.
    pub(crate) fn leaves_out(&self, name: &str) -> bool {
        self.config.leaves_out(name, name.strip_prefix(&self.names.prefix))
    }
}

/// Reads the weights of one checkpoint.
struct WeightReader<'a, A, B: Backend> {
    checkpoint: &'a Checkpoint<A>,
    device: B::Device,
}

impl<A: Architecture, B: Backend> WeightSource<B> for WeightReader<'_, A, B> {
    fn weight(&mut self, target: &Target) -> sara_core::Result<Tensor<B, 2>> {
        let name = format!("{}.weight", self.checkpoint.path_of(target));
        let (in_file, shape) = ([target.d_out, target.d_in], [target.d_in, target.d_out]);
        let mismatch = |found: &str| sara_core::Error::Mismatch {
            what: self.checkpoint.weights.path().display().to_string(),
            mismatches: vec![format!("{name}: expected {in_file:?}, {found}")],
        };
        let view = self.checkpoint.weights.tensor(&name).ok_or_else(|| mismatch("missing"))?;
        let found = format!("found {:?} {}", view.shape(), view.dtype());
        let values =
            to_f32_transposed(&view).filter(|_| view.shape() == in_file).ok_or_else(|| mismatch(&found))?;
        self.checkpoint.weights.release(&name);
        Ok(Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32)))
    }
}
