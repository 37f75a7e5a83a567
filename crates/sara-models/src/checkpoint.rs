//! A Hugging Face checkpoint of any family: opened, looked into, loaded strictly, and written again with other weights.

use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::Dtype;
use sara_core::{AnyAdapter, LayerOps, MethodConfig, RankPlan, Seed, Target, Targets, WeightSource};
use sara_svd::SvdOps;

use self::loader::Loader;
use self::weights::{Weights, to_f32, to_f32_transposed};
use crate::architecture::{Architecture, CONFIG, Family, describe};
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::hub::locate;

pub mod loader;
mod save;
pub mod weights;

pub use loader::WeightType;
pub use save::SavedHead;

/// The directory of a checkpoint, with its weights mapped and not yet read.
#[derive(Debug)]
pub struct Checkpoint<A> {
    /// The directory.
    pub dir: PathBuf,
    /// What was given to find it: its path, or a name on the hub.
    pub given: PathBuf,
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
    /// What the files have in its place: nothing where they are of a bare model, more where a wrapper was saved along.
    backbone: String,
    /// What the files have before the name of anything else.
    around: String,
    /// The first components of the names inside the backbone.
    parts: &'static [&'static str],
}

impl Names {
    /// # Errors
    /// That there are several models in the files, or one with a wrapper of PEFT around its layers.
    fn of(weights: &Weights, config: &impl Architecture) -> Result<Self, Error> {
        let full = format!("{}.", config.root());
        let wrapped = |name: &&str| name.contains(".base_layer.") || name.contains(".lora_A.");
        if let Some(name) = weights.names().find(wrapped) {
            let problem = format!(
                "holds a model with its PEFT wrapper inside ({name}); save them apart: `model.save_pretrained(..)` for the \
                 adapter, `model.unload().save_pretrained(..)` for the model"
            );
            return Err(Error::format(weights.path(), problem));
        }
        let prefixes: Vec<&str> =
            weights.names().filter_map(|name| name.strip_suffix(config.embeddings())).collect();
        let backbone = match prefixes[..] {
            [prefix] => prefix.to_owned(),
            [] => {
                if weights.names().any(|name| name.starts_with(&full)) {
                    full.clone()
                } else {
                    String::new()
                }
            }
            _ if prefixes.contains(&full.as_str()) => full.clone(),
            [first, second, ..] => {
                let problem = format!(
                    "holds several models, `{first}` and `{second}`; save the one that is meant by itself"
                );
                return Err(Error::format(weights.path(), problem));
            }
        };
        let around = backbone.strip_suffix(full.as_str()).unwrap_or_default().to_owned();
        Ok(Self { full, backbone, around, parts: config.parts() })
    }

    /// A name of the model with a head, as the files have it.
    fn in_file(&self, name: &str) -> String {
        match name.strip_prefix(&self.full) {
            Some(rest) => format!("{}{rest}", self.backbone),
            None => format!("{}{name}", self.around),
        }
    }

    /// A name of the files, as a model with a head has it.
    fn completed(&self, name: &str) -> String {
        match self.inside(name) {
            Some(rest) => format!("{}{rest}", self.full),
            None => name.strip_prefix(&self.around).unwrap_or(name).to_owned(),
        }
    }

    /// A name of the files inside the backbone, if it is of that.
    fn inside<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(&self.backbone)?;
        rest.split('.').next().filter(|part| self.parts.contains(part)).map(|_| rest)
    }
}

impl<A: Family> Checkpoint<A> {
    /// Opens a directory with `config.json` and safetensors files, given by its path or by its name in the hub's cache.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] where a file is missing, damaged, or of another family.
    pub fn open(given: &Path) -> Result<Self, Error> {
        let dir = locate(given)?;
        let config = A::read(&dir)?;
        Self::with_config(given, dir, config)
    }
}

impl Checkpoint<Box<dyn Architecture>> {
    /// Opens a directory of whichever family, for what needs no model.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_any(given: &Path) -> Result<Self, Error> {
        let dir = locate(given)?;
        let config = describe(&dir)?;
        Self::with_config(given, dir, config)
    }
}

impl<A: Architecture> Checkpoint<A> {
    fn with_config(given: &Path, dir: PathBuf, mut config: A) -> Result<Self, Error> {
        let weights = Weights::open(&dir)?;
        let names = Names::of(&weights, &config)?;
        config
            .fit(&|name| Some(weights.tensor(&names.in_file(name))?.shape().to_vec()))
            .map_err(|problem| Error::format(&dir.join(CONFIG), problem))?;
        Ok(Self { dir, given: given.to_owned(), config, weights, names })
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

    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> usize {
        self.weights.names().filter_map(|name| self.weights.tensor(name)).map(|view| view.data().len()).sum()
    }

    /// A hash of the backbone: names and shapes of its tensors, and some values of each.
    ///
    /// It tells one base from another of the same shape. Reads a few pages of the file, whatever its size.
    pub fn fingerprint(&self) -> String {
        const VALUES: usize = 64;
        let mut hash = Fingerprint::default();
        for name in self.weights.names() {
            // A pooler is part of a head here, and not in every file of one and the same base.
            let inside = self.names.inside(name).filter(|inside| !inside.starts_with("pooler."));
            let (Some(inside), Some(view)) = (inside, self.weights.tensor(name)) else { continue };
            if self.leaves_out(name) {
                continue;
            }
            hash.add(inside.replace(".gamma", ".weight").replace(".beta", ".bias").as_bytes());
            hash.add(format!("{:?} {}", view.shape(), view.dtype()).as_bytes());
            let (bytes, size) = (view.data(), (view.dtype().bitsize() / 8).max(1));
            let count = bytes.len() / size;
            for i in 0..VALUES.min(count) {
                let start = size * (i * count / VALUES.min(count));
                hash.add(&bytes[start..start + size]);
            }
            self.weights.release(name);
        }
        hash.finish()
    }

    /// How the files have a tensor, by its name in a model with a head.
    pub(crate) fn dtype(&self, name: &str) -> Option<Dtype> {
        Some(self.weights.tensor(&self.names.in_file(name))?.dtype())
    }

    /// The values of a tensor in f32, by its name in a model with a head.
    pub(crate) fn values(&self, name: &str) -> Option<TensorData> {
        let view = self.weights.tensor(&self.names.in_file(name))?;
        Some(TensorData::new(to_f32(&view)?, view.shape().to_vec()))
    }

    /// Whether embeddings that were saved along are this checkpoint's.
    ///
    /// # Errors
    /// [`Error::Format`] where they are not: the adapter was trained with others.
    pub(crate) fn check_embeddings(
        &self,
        saved: &[(String, TensorData)],
        adapter: &Path,
    ) -> Result<(), Error> {
        let is_own = |(path, saved): &&(String, TensorData)| {
            self.values(path)
                .is_some_and(|own| own.shape == saved.shape && own.iter::<f32>().eq(saved.iter::<f32>()))
        };
        match saved.iter().find(|entry| !is_own(entry)) {
            None => Ok(()),
            Some((path, _)) => {
                let problem = format!(
                    "holds embeddings that are not the model's ({path}): trained or resized ones are not supported; \
                     merge the adapter with PEFT and give the merged model"
                );
                Err(Error::format(adapter, problem))
            }
        }
    }

    /// A loader of this checkpoint's tensors, under the names of a model with a head.
    pub(crate) fn loader<'a, B: LayerOps>(&'a self, device: &'a B::Device) -> Loader<'a, B> {
        Loader::new(&self.weights, self.names.clone(), device)
    }

    /// A name of the files, as a model with a head has it.
    pub(crate) fn name_in_model(&self, name: &str) -> String {
        self.names.completed(name)
    }

    /// A name of the files inside the backbone, without what stands before it there.
    pub(crate) fn name_inside<'a>(&self, name: &'a str) -> Option<&'a str> {
        self.names.inside(name)
    }

    /// Whether the tensor `name` of the files is left out without a word.
    pub(crate) fn leaves_out(&self, name: &str) -> bool {
        self.config.leaves_out(name.strip_prefix(&self.names.around).unwrap_or(name), self.names.inside(name))
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
