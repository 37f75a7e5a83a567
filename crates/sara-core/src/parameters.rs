//! The float parameters of a module by path: what files hold, and edits that keep a parameter trainable.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor, TensorData};

use crate::error::{Error, Result};

/// Tensors by path.
pub type Tensors = BTreeMap<String, TensorData>;

/// State that is saved with a module and never trained.
pub fn state<B: Backend, const D: usize>(value: Tensor<B, D>) -> Param<Tensor<B, D>> {
    Param::initialized(ParamId::new(), value.set_require_grad(false))
}

/// An edit of a parameter that stays a leaf: trained before, trained after.
pub fn edit<B: Backend, const D: usize>(
    param: Param<Tensor<B, D>>,
    change: impl FnOnce(Tensor<B, D>) -> Tensor<B, D>,
) -> Param<Tensor<B, D>> {
    param.map(|value| {
        let trained = value.is_require_grad();
        change(value.detach().set_require_grad(false)).set_require_grad(trained)
    })
}

/// The values of a tensor, on the host.
pub(crate) fn host<B: Backend, const D: usize>(values: Tensor<B, D>) -> Vec<f32> {
    values.into_data().convert::<f32>().iter::<f32>().collect()
}

/// The values of every float parameter, trained or not, by path.
pub fn collect<B: Backend, M: Module<B>>(module: &M) -> Tensors {
    collect_where(module, |_| true)
}

/// The same of the parameters that are `wanted`.
pub fn collect_where<B: Backend, M: Module<B>>(module: &M, wanted: impl Fn(ParamId) -> bool) -> Tensors {
    let mut visitor = Collect { path: Path::default(), wanted, all: Tensors::new() };
    module.visit(&mut visitor);
    visitor.all
}

/// Number of trained values.
pub fn count_trained<B: Backend, M: Module<B>>(module: &M) -> usize {
    let mut visitor = Count(0);
    module.visit(&mut visitor);
    visitor.0
}

/// Puts stored values in place, strictly: every path is used and every parameter found, at its shape and dtype.
///
/// # Errors
/// One [`Error::Mismatch`] that lists all that is missing, unused or of another shape or type; `what` names the source.
pub fn restore<B: Backend, M: Module<B>>(module: M, tensors: &Tensors, what: &str) -> Result<M> {
    restore_where(module, tensors, |_| true, what)
}

/// The same, where a parameter that is not `needed` may be missing and stays as it is.
///
/// # Errors
/// As [`restore`].
pub fn restore_where<B: Backend, M: Module<B>>(
    module: M,
    tensors: &Tensors,
    needed: impl Fn(ParamId) -> bool,
    what: &str,
) -> Result<M> {
    check_complete(&module, tensors, needed, what)?;
    Ok(module.map(&mut Restore { path: Path::default(), tensors }))
}

/// Whether [`restore_where`] would succeed.
///
/// # Errors
/// As [`restore`].
pub fn check_complete<B: Backend, M: Module<B>>(
    module: &M,
    tensors: &Tensors,
    needed: impl Fn(ParamId) -> bool,
    what: &str,
) -> Result<()> {
    let mut expected = Expected { path: Path::default(), needed, tensors, all: Vec::new() };
    module.visit(&mut expected);
    let mismatches = mismatches(&expected.all, tensors);
    if mismatches.is_empty() {
        return Ok(());
    }
    Err(Error::Mismatch { what: what.to_owned(), mismatches })
}

/// A tensor that must be there: its path, its shape, and its type where that matters.
pub type Wanted = (String, Vec<usize>, Option<DType>);

/// What is missing in `tensors`, of another shape or type than expected, or not expected at all, one line each.
pub fn mismatches(expected: &[Wanted], tensors: &Tensors) -> Vec<String> {
    let misfit = |(path, shape, dtype): &Wanted| {
        let Some(found) = tensors.get(path) else {
            return Some(format!("{path}: missing, expected {shape:?}"));
        };
        let fits = found.shape.as_slice() == shape.as_slice();
        match dtype {
            Some(dtype) if !fits || found.dtype != *dtype => {
                let (is, of) = (found.shape.as_slice(), found.dtype);
                Some(format!("{path}: expected {shape:?} {dtype:?}, found {is:?} {of:?}"))
            }
            None if !fits => Some(format!("{path}: expected {shape:?}, found {:?}", found.shape.as_slice())),
            _ => None,
        }
    };
    let known: BTreeSet<&String> = expected.iter().map(|(path, ..)| path).collect();
    let unknown = tensors.keys().filter(|path| !known.contains(path)).map(|path| format!("{path}: unknown"));
    expected.iter().filter_map(misfit).chain(unknown).collect()
}

/// Paths of trained parameters that got no gradient.
pub fn without_gradient<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    grads: &GradientsParams,
) -> Vec<String> {
    let mut visitor =
        WithoutGradient { path: Path::default(), grads, missing: Vec::new(), backend: PhantomData::<B> };
    module.visit(&mut visitor);
    visitor.missing
}

/// The names of the modules entered so far.
#[derive(Debug, Default)]
pub struct Path(Vec<String>);

impl Path {
    /// Goes into a module.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    /// Leaves the innermost module.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The path, joined by dots.
    pub fn joined(&self) -> String {
        self.0.join(".")
    }
}

/// The two functions by which a visitor or mapper with a field `path` follows the walk.
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

struct Collect<F> {
    path: Path,
    wanted: F,
    all: Tensors,
}

impl<B: Backend, F: Fn(ParamId) -> bool> ModuleVisitor<B> for Collect<F> {
    follow_path!();
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if (self.wanted)(param.id) {
            self.all.insert(self.path.joined(), param.val().into_data());
        }
    }
}

struct Count(usize);

impl<B: Backend> ModuleVisitor<B> for Count {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if param.val().is_require_grad() {
            self.0 += param.val().shape().num_elements();
        }
    }
}

struct Expected<'a, F> {
    path: Path,
    needed: F,
    tensors: &'a Tensors,
    all: Vec<Wanted>,
}

impl<B: Backend, F: Fn(ParamId) -> bool> ModuleVisitor<B> for Expected<'_, F> {
    follow_path!();
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let (path, value) = (self.path.joined(), param.val());
        if (self.needed)(param.id) || self.tensors.contains_key(&path) {
            self.all.push((path, value.dims().to_vec(), Some(value.dtype())));
        }
    }
}

struct Restore<'a> {
    path: Path,
    tensors: &'a Tensors,
}

impl<B: Backend> ModuleMapper<B> for Restore<'_> {
    follow_path!();
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(data) = self.tensors.get(&self.path.joined()) else { return param };
        param.map(|old| {
            let trained = old.is_require_grad();
            Tensor::from_data(data.clone(), (&old.device(), data.dtype)).set_require_grad(trained)
        })
    }
}

struct WithoutGradient<'a, B> {
    path: Path,
    grads: &'a GradientsParams,
    missing: Vec<String>,
    backend: PhantomData<B>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for WithoutGradient<'_, B> {
    follow_path!();
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if param.val().is_require_grad() && self.grads.get::<B::InnerBackend, D>(param.id).is_none() {
            self.missing.push(self.path.joined());
        }
    }
}
