//! Loading a checkpoint strictly: every tensor is used, every parameter found, or one error lists all that does not fit.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Bytes, DType, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use sara_core::Target;
use sara_core::parameters::state;
use sara_ops::packed::{BLOCK, Bits};
use sara_ops::{LayerOps, Packed, tensor};
use serde::{Deserialize, Serialize};

use super::Names;
use super::weights::{Weights, is_float, row_to_f32, to_bf16, to_f16, to_f32, to_f32_transposed};
use crate::data::listed;
use crate::error::Error;

/// How the values of a frozen model lie in memory. Norms and biases are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// As the files have them.
    #[default]
    Checkpoint,
    /// In 32 bits.
    F32,
    /// In 16 bits, with the exponent of f32.
    Bf16,
    /// In 16 bits, with three digits.
    F16,
    /// In 8 bits, with a scale for 32 of them.
    Int8,
    /// In 4 bits, with a scale for 32 of them; tables of tokens in 8.
    Int4,
}

impl WeightType {
    /// Whether a backend can hold the weights of these layers so, which the files have in 16 bits if they are narrow; a
    /// line where it holds them wider.
    ///
    /// # Errors
    /// [`Error::Config`] where it cannot.
    pub(crate) fn check<B: LayerOps>(
        self,
        linears: &[Target],
        are_narrow: bool,
    ) -> Result<Option<String>, Error> {
        let refuse = |found: String, expected: String| {
            Err(Error::Config { field: "dtype".to_owned(), found, expected })
        };
        let keeps_narrow = B::NARROW_WEIGHTS;
        if let Some(bits) = self.bits() {
            let name = format!("int{}", bits.count());
            if !B::PACKED_WEIGHTS {
                return refuse(
                    name,
                    "f32 or checkpoint: this device has no weights of 8 or 4 bits".to_owned(),
                );
            }
            if let Some(Target { name: layer, d_in, .. }) =
                linears.iter().find(|linear| !linear.d_in.is_multiple_of(BLOCK))
            {
                let found = format!("{name} for {layer}, whose rows have {d_in} values");
                let other = if keeps_narrow { "bf16" } else { "f32" };
                return refuse(found, format!("a type without blocks of 32 values, such as {other}"));
            }
            return Ok((!keeps_narrow)
                .then(|| format!("tables of tokens are held in f32 beside {name}, on this device")));
        }
        match self {
            Self::Bf16 | Self::F16 if !keeps_narrow => {
                let others =
                    if B::PACKED_WEIGHTS { "f32, checkpoint, int8 or int4" } else { "f32 or checkpoint" };
                refuse(
                    "16 bits".to_owned(),
                    format!("{others}: this device has no weights of 16 bits; the cpu has them"),
                )
            }
            Self::Checkpoint if are_narrow && !keeps_narrow => {
                Ok(Some("weights are held in f32, whatever the files have, on this device".to_owned()))
            }
            _ => Ok(None),
        }
    }

    /// Whether weights are in blocks.
    pub(crate) fn is_packed(self) -> bool {
        self.bits().is_some()
    }

    /// The bits of a value in a linear layer, if in blocks.
    fn bits(self) -> Option<Bits> {
        match self {
            Self::Int8 => Some(Bits::Eight),
            Self::Int4 => Some(Bits::Four),
            _ => None,
        }
    }

    /// About the bytes of a model with so many parameters, `of_tables` of them in tables, that has `on_disk` bytes as it is
    /// stored.
    pub(crate) fn memory_bytes(self, parameters: usize, of_tables: usize, on_disk: usize) -> usize {
        let in_blocks = |parameters: usize, bits: Bits| parameters / BLOCK * bits.block_bytes();
        match self {
            Self::Checkpoint => on_disk,
            Self::F32 => parameters * 4,
            Self::Bf16 | Self::F16 => parameters * 2,
            Self::Int8 => in_blocks(parameters, Bits::Eight),
            Self::Int4 => in_blocks(parameters - of_tables, Bits::Four) + in_blocks(of_tables, Bits::Eight),
        }
    }

    /// The type in memory of a tensor that the file has as `dtype`.
    fn of(self, dtype: Dtype) -> DType {
        match (self, dtype) {
            (Self::Bf16, _) | (Self::Checkpoint, Dtype::BF16) => DType::BF16,
            (Self::F16, _) | (Self::Checkpoint, Dtype::F16) => DType::F16,
            _ => DType::F32,
        }
    }
}

/// Reads tensors, and notes what does not fit instead of stopping at it.
#[derive(Debug)]
pub struct Loader<'a, B: Backend> {
    weights: &'a Weights,
    /// From a name of the model with a head to the file's.
    names: Names,
    device: &'a B::Device,
    weight_type: WeightType,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a, B: LayerOps> Loader<'a, B> {
    /// A loader of the tensors of a checkpoint whose files have these names.
    pub(crate) fn new(weights: &'a Weights, names: Names, device: &'a B::Device) -> Self {
        let weight_type = WeightType::F32;
        Self { weights, names, device, weight_type, used: BTreeSet::new(), problems: Vec::new() }
    }

    /// The same, with weights and tables of another type.
    pub(crate) fn with_weights(self, weight_type: WeightType) -> Self {
        Self { weight_type, ..self }
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
        let (name, shape) = (format!("{path}.weight"), [d_out, d_in]);
        let weight = if let Some(bits) = self.weight_type.bits() {
            tensor(B::packed_weight(self.packed(&name, shape, bits), self.device))
        } else if let Some(weight) = self.narrow(&name, shape) {
            // Turned without a copy.
            weight.transpose()
        } else {
            let values = self.read(&name, &shape, to_f32_transposed, |value| value.is_finite());
            Tensor::from_data(TensorData::new(values, [d_in, d_out]), (self.device, DType::F32))
        };
        Linear { weight: state(weight), bias: None }
    }

    /// The table of rows `name`, frozen, in the type of weights.
    pub fn table(&mut self, name: &str, shape: [usize; 2]) -> Param<Tensor<B, 2>> {
        if self.weight_type.is_packed() {
            // A token is one row, so its rounding goes through all layers.
            let packed = self.packed(name, shape, Bits::Eight);
            return state(tensor(B::packed_table(packed, self.device)));
        }
        match self.narrow(name, shape) {
            Some(table) => state(table),
            None => self.tensor(name, shape),
        }
    }

    /// A matrix in blocks, in the file's order.
    fn packed(&mut self, name: &str, shape: [usize; 2], bits: Bits) -> Packed {
        let pack = |view: &TensorView<'_>| {
            let not_finite = AtomicUsize::new(0);
            let read = |row: usize, out: &mut [f32]| {
                row_to_f32(view, row, out);
                not_finite.fetch_add(out.iter().filter(|value| !value.is_finite()).count(), Relaxed);
            };
            if !is_float(view) {
                return Err(Unfit::Type);
            }
            let packed = Packed::of_rows(shape, bits, read);
            match not_finite.into_inner() {
                0 => packed.ok_or(Unfit::Scale(bits.count())),
                n => Err(Unfit::NotFinite(n)),
            }
        };
        self.take(name, &shape, pack, || Packed::zeros(shape, bits))
    }

    /// A matrix in 16 bits, in the file's order; `None` where it is to be in f32.
    fn narrow(&mut self, name: &str, shape: [usize; 2]) -> Option<Tensor<B, 2>> {
        let view = self.weights.tensor(&self.names.in_file(name))?;
        let dtype = self.weight_type.of(view.dtype());
        let bytes = match dtype {
            DType::BF16 => {
                Bytes::from_elems(self.read(name, &shape, to_bf16, |value: &bf16| value.is_finite()))
            }
            DType::F16 => Bytes::from_elems(self.read(name, &shape, to_f16, |value: &f16| value.is_finite())),
            _ => return None,
        };
        Some(Tensor::from_data(TensorData::from_bytes(bytes, shape, dtype), (self.device, dtype)))
    }

    /// The tensor `name`, frozen.
    pub fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<B, D>> {
        let values = self.read(name, &shape, to_f32, |value| value.is_finite());
        state(Tensor::from_data(TensorData::new(values, shape), (self.device, DType::F32)))
    }

    /// The values of a tensor.
    fn read<T: Clone + Default>(
        &mut self,
        name: &str,
        shape: &[usize],
        convert: impl Fn(&TensorView<'_>) -> Option<Vec<T>>,
        is_finite: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let convert = |view: &TensorView<'_>| {
            let values = convert(view).ok_or(Unfit::Type)?;
            match values.iter().filter(|value| !is_finite(value)).count() {
                0 => Ok(values),
                n => Err(Unfit::NotFinite(n)),
            }
        };
        self.take(name, shape, convert, || vec![T::default(); shape.iter().product()])
    }

    /// What `convert` makes of a tensor; zeros where it does not fit, which then is among the problems.
    fn take<T>(
        &mut self,
        name: &str,
        shape: &[usize],
        convert: impl Fn(&TensorView<'_>) -> Result<T, Unfit>,
        zeros: impl FnOnce() -> T,
    ) -> T {
        let name = self.names.in_file(name);
        let weights = self.weights;
        let problem = match weights.tensor(&name) {
            None => format!("missing, expected {shape:?}"),
            Some(view) if view.shape() != shape => format!("expected {shape:?}, found {:?}", view.shape()),
            Some(view) => match convert(&view) {
                Ok(values) => {
                    weights.release(&name);
                    self.used.insert(name);
                    return values;
                }
                Err(Unfit::Type) => format!("expected F64, F32, F16 or BF16, found {}", view.dtype()),
                Err(Unfit::NotFinite(n)) => {
                    format!("{n} of {} values are not finite", shape.iter().product::<usize>())
                }
                Err(Unfit::Scale(bits)) => format!("beyond the scale of int{bits}; take f32"),
            },
        };
        self.problems.push(format!("{name}: {problem}"));
        self.used.insert(name);
        zeros()
    }
}

/// Why the values of a tensor cannot be used.
enum Unfit {
    Type,
    NotFinite(usize),
    /// For blocks of so many bits.
    Scale(usize),
}
