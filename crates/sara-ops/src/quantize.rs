//! Rounding to a number of bits that doubles behind gates.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata};

use crate::{LayerOps, primitive, tensor};

/// How often the number of bits doubles: from 2 to 4, 8, 16 and 32.
pub const DOUBLINGS: usize = 4;
/// How many times finer the step gets with each doubling of `b` bits: `2^b + 1`.
pub(crate) const FINER: [f32; DOUBLINGS] = [5.0, 17.0, 257.0, 65537.0];

/// `x` at the bits that the gates leave: `x2 + z4 (x4 + z8 (x8 + z16 (x16 + z32 x32)))`.
///
/// `x2` is `x` at the nearest multiple of `step`, ties to even; each further part is what is left, at the nearest multiple
/// of a step that is 5, 17, 257 and 65537 times finer. The rounding is straight through: the gradient of `x` is that of
/// the result, and that of each gate is that of the formula.
///
/// # Shapes
/// - `x` and the result: any
/// - `step`: `[1]`, not 0; without a gradient
/// - `open`: `[4]`, how far the gates `z4` to `z32` are open
///
/// # Panics
/// If `step` or `open` has another shape.
pub fn quantize<B: LayerOps, const D: usize>(
    x: Tensor<B, D>,
    step: Tensor<B, 1>,
    open: Tensor<B, 1>,
) -> Tensor<B, D> {
    assert_eq!(step.dims(), [1], "one step for all");
    assert_eq!(open.dims(), [DOUBLINGS], "one gate for each doubling");
    tensor(B::fused_quantize(primitive(x), primitive(step), primitive(open)))
}

pub(crate) fn stock<B: Backend>(
    x: FloatTensor<B>,
    step: FloatTensor<B>,
    open: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let open = tensor::<B, 1>(open);
    let [coarse, finer @ ..] = parts(flat::<B>(x), tensor(step));
    let [first, ..] = behind(finer, &open);
    B::float_reshape(primitive(coarse + first * gate(&open, 0)), shape)
}

pub(crate) fn stock_open_backward<B: Backend>(
    x: FloatTensor<B>,
    step: FloatTensor<B>,
    open: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let (open, grad) = (tensor::<B, 1>(open), flat::<B>(grad));
    let [_, finer @ ..] = parts(flat::<B>(x), tensor(step));
    let [first, rest @ ..] = behind(finer, &open).map(|part| (part * grad.clone()).sum_dim(0));
    let (mut slopes, mut before) = (vec![first], gate(&open, 0));
    for (i, sum) in (1..).zip(rest) {
        slopes.push(sum * before.clone());
        before = before * gate(&open, i);
    }
    primitive(Tensor::cat(slopes, 0))
}

fn flat<B: Backend>(x: FloatTensor<B>) -> Tensor<B, 1> {
    let n = x.shape().num_elements();
    tensor(B::float_reshape(x, Shape::new([n])))
}

fn gate<B: Backend>(open: &Tensor<B, 1>, i: usize) -> Tensor<B, 1> {
    open.clone().narrow(0, i, 1)
}

/// `x` at the coarsest step, and what each finer one adds.
fn parts<B: Backend>(x: Tensor<B, 1>, step: Tensor<B, 1>) -> [Tensor<B, 1>; DOUBLINGS + 1] {
    let (mut rest, mut step) = (x, step);
    std::array::from_fn(|i| {
        if i > 0 {
            step = step.clone() / FINER[i - 1];
        }
        let part = (rest.clone() / step.clone()).round() * step.clone();
        rest = rest.clone() - part.clone();
        part
    })
}

/// What stands behind each gate: the part and, behind their own gates, all finer ones.
fn behind<B: Backend>(parts: [Tensor<B, 1>; DOUBLINGS], open: &Tensor<B, 1>) -> [Tensor<B, 1>; DOUBLINGS] {
    let mut behind = parts;
    for i in (0..DOUBLINGS - 1).rev() {
        behind[i] = behind[i].clone() + behind[i + 1].clone() * gate(open, i + 1);
    }
    behind
}
