//! A quantiser whose number of bits is learned: 2, 4, 8, 16 or 32, each doubling behind a gate.

use burn::module::{Module, Param};
use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sara_ops::quantize::DOUBLINGS;
use sara_ops::{self as ops, LayerOps};

use crate::parameters::{edit, host, state};

/// Temperature of the hard concrete distribution.
const BETA: f64 = 2.0 / 3.0;
/// The interval to which its sigmoid is stretched before it is cut to 0..1.
const STRETCH: [f64; 2] = [-0.1, 1.1];
/// In evaluation a gate is closed where the probability of an exact zero is at least this.
const CLOSED: f64 = 0.34;
/// A gate whose logit is not above this is shut, and all that come after it.
const SHUT: f64 = -2.0;
/// The logit of every gate at the start.
const START: f32 = 2.0;
/// The step of a quantiser that has no range: so fine that f32 is left as it is.
const NO_STEP: f64 = 1e-20;
/// Doublings of the number of bits: to 4, 8, 16, 32.
pub(super) const GATES: usize = DOUBLINGS;

/// The gates and the range of one quantiser.
#[derive(Module, Debug)]
pub(super) struct Quantizer<B: Backend> {
    /// Logits of the gates to 4, 8, 16 and 32 bits, `[4]`.
    gates: Param<Tensor<B, 1>>,
    /// Smallest and largest value of the first tensor seen, `[2]`; zeros before.
    range: Param<Tensor<B, 1>>,
}

impl<B: Backend> Quantizer<B> {
    /// One that has seen nothing.
    pub(super) fn new(device: &B::Device) -> Self {
        Self { gates: logits(GATES, START, device), range: state(Tensor::from_floats([0.0; 2], device)) }
    }

    /// One that has seen `x`.
    pub(super) fn of<const D: usize>(x: Tensor<B, D>, device: &B::Device) -> Self {
        Self::new(device).ranged(extremes(x))
    }

    /// The same with this range, unless it has one.
    pub(super) fn ranged(self, range: Tensor<B, 1>) -> Self {
        Self { range: edit(self.range, |known| first_of(known, range)), ..self }
    }

    /// The range, or that of `x` where nothing was seen before.
    pub(super) fn range_or<const D: usize>(&self, x: &Tensor<B, D>) -> Tensor<B, 1> {
        first_of(self.range.val(), extremes(x.clone().detach()).cast(self.range.val().dtype()))
    }

    /// The range as it is.
    pub(super) fn range(&self) -> Tensor<B, 1> {
        self.range.val()
    }

    /// The gates open by how much, `[4]`; `noise` is uniform, `None` in evaluation.
    pub(super) fn open(&self, noise: Option<Tensor<B, 1>>) -> Tensor<B, 1> {
        let logits = self.gates.val();
        let kept = not_shut(&logits.clone().detach());
        gate(logits, noise) * kept
    }

    /// What the bits cost, `[1]`: the expected number of open doublings, each given those before it, and 1.
    pub(super) fn cost(&self) -> Tensor<B, 1> {
        chain(&likely(self.gates.val())) + 1.0
    }

    /// Bits in evaluation.
    pub(super) fn bits(&self) -> f64 {
        let open = host(self.open(None));
        let doublings = open.iter().take_while(|&&open| open > 0.0).count();
        f64::from(1u32 << (1 + doublings as u32))
    }
}

/// Logits that are all the same, `[n]`, as data: the fusion of burn 0.21 cannot reduce a constant.
pub(super) fn logits<B: Backend>(n: usize, value: f32, device: &B::Device) -> Param<Tensor<B, 1>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(vec![value; n], [n]), device))
}

/// `x` at the bits that the gates leave, straight through: its gradient is that of the result.
pub(super) fn quantize<B: LayerOps, const D: usize>(
    x: Tensor<B, D>,
    range: Tensor<B, 1>,
    open: &Tensor<B, 1>,
) -> Tensor<B, D> {
    // In the gates' type: in half precision the finer steps would be zero.
    let (outside, dtype) = (x.dtype(), open.dtype());
    ops::quantize(x.cast(dtype), step_of(range).cast(dtype), open.clone()).cast(outside)
}

/// Smallest and largest value, `[2]`.
pub(super) fn extremes<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, 1> {
    Tensor::cat(vec![x.clone().min().reshape([1]), x.max().reshape([1])], 0)
}

/// `known`, or `new` where `known` is zeros.
fn first_of<B: Backend>(known: Tensor<B, 1>, new: Tensor<B, 1>) -> Tensor<B, 1> {
    let unset = known.clone().abs().sum_dim(0).equal_elem(0.0).expand([2]);
    let new = new.cast(known.dtype());
    known.mask_where(unset, new)
}

/// The step at two bits, `[1]`, of a range that is widened to include 0.
fn step_of<B: Backend>(range: Tensor<B, 1>) -> Tensor<B, 1> {
    let below = range.clone().narrow(0, 0, 1).clamp_max(0.0).neg();
    let above = range.narrow(0, 1, 1).clamp_min(0.0);
    let one_sided = above.clone().equal_elem(0.0);
    let largest = above.mask_where(one_sided, below.clone());
    let signed = below.greater_elem(0.0).float().cast(largest.dtype());
    let step = largest * (signed + 1.0) / 3.0;
    let unset = step.clone().equal_elem(0.0);
    step.mask_fill(unset, NO_STEP)
}

/// The hard concrete gate of each logit: drawn with `noise`, decided without.
pub(super) fn gate<B: Backend, const D: usize>(
    logits: Tensor<B, D>,
    noise: Option<Tensor<B, D>>,
) -> Tensor<B, D> {
    let [low, high] = STRETCH;
    if let Some(noise) = noise {
        let noise = noise.clamp(1e-6, 1.0 - 1e-6).cast(logits.dtype());
        let drawn = noise.clone().log() - (noise.neg() + 1.0).log();
        let soft = sigmoid((drawn + logits) / BETA);
        return (soft * (high - low) + low).clamp(0.0, 1.0);
    }
    // The probability of an exact zero.
    let zero = sigmoid((logits.clone().detach() - BETA * (-low / high).ln()).neg());
    let open = zero.lower_elem(CLOSED).float().cast(logits.dtype());
    open + (logits.clone() - logits.detach())
}

/// The probability that a gate is not an exact zero.
pub(super) fn likely<B: Backend, const D: usize>(logits: Tensor<B, D>) -> Tensor<B, D> {
    let [low, high] = STRETCH;
    sigmoid(logits - BETA * (-low / high).ln())
}

/// `a + a b + a b c + a b c d` of four values, `[1]`.
fn chain<B: Backend>(values: &Tensor<B, 1>) -> Tensor<B, 1> {
    let value = |i: usize| values.clone().narrow(0, i, 1);
    (0..GATES - 1).rev().fold(value(GATES - 1), |rest, i| value(i) * (rest + 1.0))
}

/// 1 for each gate before the first shut one, else 0.
fn not_shut<B: Backend>(logits: &Tensor<B, 1>) -> Tensor<B, 1> {
    let above = logits.clone().greater_elem(SHUT).float().cast(logits.dtype());
    cumulative_product(above)
}

/// The product of each value and all before it.
pub(super) fn cumulative_product<B: Backend>(values: Tensor<B, 1>) -> Tensor<B, 1> {
    let [n] = values.dims();
    let mut products = Vec::with_capacity(n);
    for i in 0..n {
        let value = values.clone().narrow(0, i, 1);
        products.push(match products.last() {
            Some(before) => Tensor::clone(before) * value,
            None => value,
        });
    }
    if products.is_empty() { values } else { Tensor::cat(products, 0) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn_autodiff::Autodiff;
    use burn_flex::{Flex, FlexDevice};

    use super::*;
    use crate::store::read_safetensors;

    type Train = Autodiff<Flex>;

    #[test]
    fn gates_are_drawn_as_in_torch() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("../sara-models/tests/golden/methods/golden.safetensors");
        let golden = read_safetensors(&path).unwrap();
        let tensor =
            |name: &str| Tensor::<Train, 1>::from_data(golden[&format!("gate.{name}")].clone(), &FlexDevice);
        let logits = tensor("logits").require_grad();
        let drawn = gate(logits.clone(), Some(tensor("noise")));
        let weights = Tensor::<Train, 1>::from_floats([1.0, 2.0, 3.0, 4.0, 5.0], &FlexDevice);
        let grads = (drawn.clone() * weights).sum().backward();
        let gradient = Tensor::<Train, 1>::from_inner(logits.grad(&grads).unwrap());
        for (found, name) in [(drawn, "gate"), (gradient, "gradient")] {
            for (found, expected) in host(found).into_iter().zip(host(tensor(name))) {
                assert!((found - expected).abs() < 1e-5, "{name}: {found}, {expected}");
            }
        }
        // Both ends are reached: a gate that is cut has no gradient.
        assert!(host(tensor("gate")).contains(&0.0) && host(tensor("gate")).contains(&1.0));
    }

    #[test]
    fn without_a_range_nothing_is_changed() {
        let quantizer = Quantizer::<Flex>::new(&FlexDevice);
        let x = Tensor::<Flex, 1>::from_floats([0.1, -3.7, 0.0, 1e-8, 12345.678], &FlexDevice);
        let open = quantizer.open(None);
        let out = host(quantize(x.clone(), quantizer.range(), &open));
        for (x, out) in host(x).into_iter().zip(out) {
            assert!((x - out).abs() <= 1e-6 * x.abs(), "{x}, {out}");
        }
    }

    #[test]
    fn the_step_is_a_third_of_the_range_or_two() {
        let step = |range: [f32; 2]| host(step_of(Tensor::<Flex, 1>::from_floats(range, &FlexDevice)))[0];
        for (range, expected) in
            [([1.0, 3.0], 1.0), ([-1.0, 3.0], 2.0), ([-6.0, 3.0], 2.0), ([-3.0, -1.0], 2.0)]
        {
            assert!((step(range) - expected).abs() < 1e-6, "{range:?}: {}", step(range));
        }
    }

    #[test]
    fn bits_follow_the_gates() {
        let with = |logits: [f32; 4]| {
            let gates = Param::from_tensor(Tensor::<Flex, 1>::from_floats(logits, &FlexDevice));
            Quantizer { gates, ..Quantizer::new(&FlexDevice) }.bits()
        };
        assert!((with([2.0; 4]) - 32.0).abs() < 1e-9);
        assert!((with([2.0, 2.0, -1.0, 2.0]) - 8.0).abs() < 1e-9);
        assert!((with([-3.0, 2.0, 2.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
