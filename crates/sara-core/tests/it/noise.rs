//! Edits and readings of all parameters of a module.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor};
use sara_core::Seed;
use sara_core::parameters::{Path, edit};

/// Every trained parameter overwritten with noise.
pub(crate) fn noised<B: Backend, M: Module<B>>(module: M, seed: u64) -> M {
    module.map(&mut Noise { path: Path::default(), seed: Seed(seed) })
}

/// Every float parameter, trained or not, in another dtype.
pub(crate) fn cast<B: Backend, M: Module<B>>(module: M, dtype: DType) -> M {
    module.map(&mut Cast(dtype))
}

/// The gradient of every trained parameter, by path.
pub(crate) fn gradients<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    grads: &GradientsParams,
) -> BTreeMap<String, Vec<f64>> {
    let mut reader = Read { path: Path::default(), grads, all: BTreeMap::new(), backend: PhantomData::<B> };
    module.visit(&mut reader);
    reader.all
}

macro_rules! follow_path {
    () => {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
    };
}

struct Noise {
    path: Path,
    seed: Seed,
}

impl<B: Backend> ModuleMapper<B> for Noise {
    follow_path!();
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if !param.val().is_require_grad() {
            return param;
        }
        let noise = self.seed.normal::<B, D>(&self.path.joined(), param.dims(), 0.5, &param.device());
        edit(param, |_| noise.val().detach().set_require_grad(false))
    }
}

struct Cast(DType);

impl<B: Backend> ModuleMapper<B> for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        edit(param, |value| value.cast(self.0).detach())
    }
}

struct Read<'a, B> {
    path: Path,
    grads: &'a GradientsParams,
    all: BTreeMap<String, Vec<f64>>,
    backend: PhantomData<B>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Read<'_, B> {
    follow_path!();
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(grad) = self.grads.get::<B::InnerBackend, D>(param.id) {
            self.all.insert(self.path.joined(), super::tiny::values(grad));
        }
    }
}
