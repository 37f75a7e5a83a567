//! Loading a checkpoint strictly: every tensor is used, every parameter found, or one error lists all that does not fit.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::TensorView;
use sara_core::parameters::state;

use super::Names;
use super::weights::{Weights, to_f32, to_f32_transposed};
use crate::data::listed;
use crate::error::Error;

/// Reads tensors, and notes what does not fit instead of stopping at it.
#[derive(Debug)]
pub struct Loader<'a, B: Backend> {
    weights: &'a Weights,
    /// From a name of the model with a head to the file's.
    names: Names,
    device: &'a B::Device,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// A loader of the tensors of a checkpoint whose files have these names.
    pub(crate) fn new(weights: &'a Weights, names: Names, device: &'a B::Device) -> Self {
        Self { weights, names, device, used: BTreeSet::new(), problems: Vec::new() }
    }

    /// Where tensors go.
    pub fn device(&self) -> &'a B::Device {
        self.device
    }

    /// Ends loading: of the tensors that were not read, those that `may_stay` are no problem, and those that `belong` to
    /// the model are; the others are left out, and a line says so.
    ///
    /// # Errors
    /// One error that lists all that is missing, misshapen, not finite, or unknown.
    pub(crate) fn finish(
        mut self,
        may_stay: impl Fn(&str) -> bool,
        belong: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, Error> {
        const LISTED: usize = 5;
        let unused = self.weights.names().filter(|&name| !self.used.contains(name) && !may_stay(name));
        let (unknown, left_out): (Vec<&str>, Vec<&str>) = unused.partition(|name| belong(name));
        self.problems.extend(unknown.into_iter().map(|name| format!("{name}: unknown")));
        if self.problems.is_empty() {
            let names = listed(left_out.iter().copied(), LISTED);
            return Ok(
                (!left_out.is_empty()).then(|| format!("of no use to this model and left out: {names}"))
            );
        }
        let what = self.weights.path().display().to_string();
        Err(Error::Mismatch { what, mismatches: self.problems })
    }

    /// Whether the checkpoint has a layer at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.weights.tensor(&self.names.in_file(&format!("{path}.weight"))).is_some()
    }

    /// The linear layer at `path`, frozen.
    pub fn linear(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear<B> {
        let Linear { weight, .. } = self.linear_without_bias(path, d_in, d_out);
        Linear { weight, bias: Some(self.tensor(&format!("{path}.bias"), [d_out])) }
    }

    /// The same of a layer that has no bias.
    pub fn linear_without_bias(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear<B> {
        let weight = self.read(&format!("{path}.weight"), &[d_out, d_in], to_f32_transposed);
        let weight =
            state(Tensor::from_data(TensorData::new(weight, [d_in, d_out]), (self.device, DType::F32)));
        Linear { weight, bias: None }
    }

    /// The tensor `name`, frozen.
    pub fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<B, D>> {
        let values = self.read(name, &shape, to_f32);
        state(Tensor::from_data(TensorData::new(values, shape), (self.device, DType::F32)))
    }

    /// The values of a tensor; zeros where it does not fit, which then is among the problems.
    fn read(
        &mut self,
        name: &str,
        shape: &[usize],
        convert: impl Fn(&TensorView<'_>) -> Option<Vec<f32>>,
    ) -> Vec<f32> {
        let name = self.names.in_file(name);
        let weights = self.weights;
        let problem = match weights.tensor(&name) {
            None => format!("{name}: missing, expected {shape:?}"),
            Some(view) if view.shape() != shape => {
                format!("{name}: expected {shape:?}, found {:?}", view.shape())
            }
            Some(view) => match convert(&view) {
                None => format!("{name}: expected F64, F32, F16 or BF16, found {}", view.dtype()),
                Some(values) => match values.iter().filter(|value| !value.is_finite()).count() {
                    0 => {
                        weights.release(&name);
                        self.used.insert(name);
                        return values;
                    }
                    n => format!("{name}: {n} of {} values are not finite", values.len()),
                },
            },
        };
        self.problems.push(problem);
        self.used.insert(name);
        vec![0.0; shape.iter().product()]
    }
}
