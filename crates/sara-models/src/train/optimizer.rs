//! AdamW by parameter path, gradient accumulation and clipping; gradients are borrowed, state outlives a process.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, FloatDType, Shape, Tensor, TensorData};
use sara_core::parameters::{Path, Wanted, mismatches};

use crate::error::Error;

/// What torch adds to a norm before it divides by it.
const NORM_EPSILON: f64 = 1e-6;

/// The constants of AdamW. Defaults: those of torch, but no decay, as in transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Share of the old first moment that a step keeps. Default 0.9.
    pub beta1: f64,
    /// Share of the old second moment that a step keeps. Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment, after the correction of its bias. Default 1e-8.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, that a step takes off first. Default 0.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW as torch computes it, with its state keyed by parameter path.
///
/// The rule is written out because burn's holds its constants in f32, where `1 - beta2` is off by 1.3e-5 of itself
/// (after 200 steps that is more than torch's own implementations differ by), and its state fits only its recorders.
#[derive(Debug)]
pub struct Optimizer<B: AutodiffBackend> {
    config: AdamWConfig,
    groups: Vec<Group>,
    moments: BTreeMap<String, Moments<B::InnerBackend>>,
}

/// Parameters that are not trained as the others are.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Their path, or its beginning at a dot; of two that fit, the longer one counts.
    pub under: String,
    /// Their learning rate, as a multiple of the step's.
    pub rate: f64,
    /// Their weight decay, in place of the optimizer's.
    pub weight_decay: Option<f64>,
}

impl Group {
    fn holds(&self, path: &str) -> bool {
        path.strip_prefix(&self.under).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// What AdamW remembers of one parameter.
#[derive(Debug)]
struct Moments<B: Backend> {
    /// Moving average of the gradients, flat.
    first: Tensor<B, 1>,
    /// Moving average of their squares, flat.
    second: Tensor<B, 1>,
    /// Steps that moved this parameter.
    updates: i64,
    /// Shape of the parameter, for the files.
    shape: Shape,
}

impl<B: AutodiffBackend> Optimizer<B> {
    /// An optimizer that has seen no gradient yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, groups: Vec::new(), moments: BTreeMap::new() }
    }

    /// Trains the parameters of these groups as they say.
    pub fn with_groups(mut self, groups: Vec<Group>) -> Self {
        self.groups = groups;
        self
    }

    /// The multiple of the learning rate, and the weight decay, of the parameter at `path`.
    fn of_group(&self, path: &str) -> (f64, f64) {
        let group =
            self.groups.iter().filter(|group| group.holds(path)).max_by_key(|group| group.under.len());
        let decay = group.and_then(|group| group.weight_decay).unwrap_or(self.config.weight_decay);
        (group.map_or(1.0, |group| group.rate), decay)
    }

    /// One step on every trained parameter that has a gradient; the others stay as they are, decay included.
    pub fn step<M: Module<B>>(&mut self, learning_rate: f64, module: M, grads: &GradientsParams) -> M {
        module.map(&mut Step { optimizer: self, learning_rate, grads, path: Path::default() })
    }

    /// Everything that the next step depends on: `PATH/first`, `PATH/second` and `PATH/updates` of each parameter.
    pub fn state(&self) -> BTreeMap<String, TensorData> {
        let mut state = BTreeMap::new();
        for (path, moments) in &self.moments {
            let shaped = |moment: &Tensor<B::InnerBackend, 1>| {
                let mut data = moment.to_data();
                data.shape = moments.shape.clone();
                data
            };
            state.insert(format!("{path}/first"), shaped(&moments.first));
            state.insert(format!("{path}/second"), shaped(&moments.second));
            state.insert(format!("{path}/updates"), TensorData::from([moments.updates]));
        }
        state
    }

    /// Takes up the state of an optimizer that trained the same parameters, bit for bit.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] lists every trained parameter whose state is missing or of another shape or type,
    /// and every entry that belongs to none.
    pub fn restore<M: Module<B>>(
        &mut self,
        module: &M,
        mut state: BTreeMap<String, TensorData>,
    ) -> Result<(), Error> {
        let mut trained = Trained { path: Path::default(), all: Vec::new() };
        Module::<B>::visit(module, &mut trained);
        let wanted = trained.all.iter().flat_map(|(path, _, shape, dtype)| {
            let moment = |kind| (format!("{path}/{kind}"), shape.clone(), Some(*dtype));
            [moment("first"), moment("second"), (format!("{path}/updates"), vec![1], Some(DType::I64))]
        });
        let mismatches = mismatches(&wanted.collect::<Vec<Wanted>>(), &state);
        if !mismatches.is_empty() {
            return Err(Error::OptimizerState { mismatches });
        }
        let restored = trained.all.into_iter().filter_map(|(path, device, shape, dtype)| {
            let mut take = |kind| state.remove(&format!("{path}/{kind}"));
            let (first, second, updates) = (take("first")?, take("second")?, take("updates")?.iter().next()?);
            let flat = |data: TensorData| {
                let flat = TensorData { shape: Shape::new([data.num_elements()]), ..data };
                Tensor::from_data(flat, (&device, dtype))
            };
            let moments = Moments { first: flat(first), second: flat(second), updates, shape: shape.into() };
            Some((path, moments))
        });
        self.moments = restored.collect();
        Ok(())
    }

    /// The new value of one parameter, all tensors flat.
    fn update(
        &mut self,
        path: String,
        decay: f64,
        learning_rate: f64,
        value: Tensor<B::InnerBackend, 1>,
        grad: Tensor<B::InnerBackend, 1>,
        shape: Shape,
    ) -> Tensor<B::InnerBackend, 1> {
        let AdamWConfig { beta1, beta2, epsilon, .. } = self.config;
        let (first, second, updates) = match self.moments.remove(&path) {
            Some(old) => (old.first, old.second, old.updates + 1),
            None => (grad.zeros_like(), grad.zeros_like(), 1),
        };
        let first = first.clone() + (grad.clone() - first) * (1.0 - beta1);
        let second = second * beta2 + grad.square() * (1.0 - beta2);
        let correction = |beta: f64| 1.0 - beta.powf(updates as f64);
        let root = second.clone().sqrt() / correction(beta2).sqrt() + epsilon;
        let value = value * (1.0 - learning_rate * decay)
            - first.clone() / root * (learning_rate / correction(beta1));
        self.moments.insert(path, Moments { first, second, updates, shape });
        value
    }
}

struct Step<'a, B: AutodiffBackend> {
    optimizer: &'a mut Optimizer<B>,
    learning_rate: f64,
    grads: &'a GradientsParams,
    path: Path,
}

impl<B: AutodiffBackend> ModuleMapper<B> for Step<'_, B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(grad) = self.grads.get::<B::InnerBackend, D>(param.id).filter(|_| param.is_require_grad())
        else {
            return param;
        };
        let path = self.path.joined();
        let (rate, decay) = self.optimizer.of_group(&path);
        param.map(|value| {
            let shape = value.shape();
            let size = [shape.num_elements()];
            let (value, grad) = (value.inner().reshape(size), grad.reshape(size));
            let rate = self.learning_rate * rate;
            let next = self.optimizer.update(path, decay, rate, value, grad, shape.clone());
            Tensor::from_inner(next.reshape(shape)).require_grad()
        })
    }
}

/// The trained parameters: path, device, shape, type.
struct Trained<B: Backend> {
    path: Path,
    all: Vec<(String, B::Device, Vec<usize>, DType)>,
}

impl<B: Backend> ModuleVisitor<B> for Trained<B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.all.push((self.path.joined(), value.device(), value.dims().to_vec(), value.dtype()));
        }
    }
}

/// The loss, and the L2 norm of all gradients of `module` together, in one reading of the device.
pub fn loss_and_norm<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    loss: Tensor<B::InnerBackend, 1>,
    grads: &GradientsParams,
) -> (f64, f64) {
    let mut squares = SumOfSquares::<B> { grads, sum: None };
    module.visit(&mut squares);
    let loss = loss.cast(FloatDType::F32).reshape([1]);
    let both = match squares.sum {
        Some(sum) => Tensor::cat(vec![loss, sum.reshape([1])], 0),
        None => loss,
    };
    let values: Vec<f64> = both.into_data().iter::<f64>().collect();
    (values[0], values.get(1).map_or(0.0, |square| square.sqrt()))
}

/// Scales all gradients of `module` alike, so that their common L2 norm, which is `norm`, is at most `max`.
///
/// Where the norm is not finite the gradients stay as they are: the caller must stop.
pub fn scale<B: AutodiffBackend, M: Module<B>>(module: &M, grads: &mut GradientsParams, max: f64, norm: f64) {
    let factor = max / (norm + NORM_EPSILON);
    if norm.is_finite() && factor < 1.0 {
        module.visit(&mut Scale::<B> { grads, factor, backend: PhantomData });
    }
}

/// Adds `weight` times the gradients of a micro-batch to `total`.
pub fn accumulate<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    total: &mut GradientsParams,
    grads: GradientsParams,
    weight: f64,
) {
    module.visit(&mut Accumulate::<B> { total, grads, weight, backend: PhantomData });
}

struct SumOfSquares<'a, B: AutodiffBackend> {
    grads: &'a GradientsParams,
    sum: Option<Tensor<B::InnerBackend, 2>>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for SumOfSquares<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(grad) = self.grads.get::<B::InnerBackend, D>(param.id) else { return };
        let width = grad.dims().last().copied().unwrap_or(1).max(1);
        let rows = grad.shape().num_elements() / width;
        // By rows, then over them: `sum` depends on timing on some backends, and one long sum loses digits.
        let square = grad.cast(FloatDType::F32).reshape([rows, width]).square().sum_dim(1).sum_dim(0);
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + square,
            None => square,
        });
    }
}

struct Scale<'a, B> {
    grads: &'a mut GradientsParams,
    factor: f64,
    backend: PhantomData<B>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Scale<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(grad) = self.grads.remove::<B::InnerBackend, D>(param.id) {
            self.grads.register(param.id, grad * self.factor);
        }
    }
}

struct Accumulate<'a, B> {
    total: &'a mut GradientsParams,
    grads: GradientsParams,
    weight: f64,
    backend: PhantomData<B>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Accumulate<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(grad) = self.grads.remove::<B::InnerBackend, D>(param.id) else { return };
        let grad = grad * self.weight;
        let sum = match self.total.remove::<B::InnerBackend, D>(param.id) {
            Some(before) => before + grad,
            None => grad,
        };
        self.total.register(param.id, sum);
    }
}
