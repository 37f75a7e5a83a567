//! The operations fused on flex: one pass over the data, vectorised, several threads.
//!
//! Only f32 is fused, with frozen weights of fewer bits; other element types take burn's own operations. The work is cut at fixed places and
//! summed in a fixed order, so a result never depends on the threads.

mod attention;
mod causal;
mod kernels;
mod linear;
mod narrow;
mod pairs;
mod stored;
mod token_loss;

use std::mem::MaybeUninit;

use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{Bytes, DType, FloatDType, Shape};
use burn_flex::{Flex, FlexDevice, FlexTensor, Layout};
use rayon::prelude::*;

use self::attention::Attention;
use self::causal::Causal;
use self::narrow::Narrow;
use crate::block::stock;
use crate::buffer::filled;
use crate::packed::stock_table_rows;
use crate::quantize::{self, DOUBLINGS, FINER};
use crate::token_loss::{TokenLoss, Wanted};
use crate::{AttentionInputs, CausalInputs, LayerOps, Packed, decoder};

/// Elements of one piece of work, 64 KiB: it stays in the second-level cache.
const CHUNK: usize = 16 * 1024;

impl LayerOps for Flex {
    const BIT_FOR_BIT: bool = true;
    const NARROW_WEIGHTS: bool = true;
    const PACKED_WEIGHTS: bool = true;

    fn packed_table(packed: Packed, _device: &FlexDevice) -> FlexTensor {
        narrow::packed(packed)
    }

    fn widened(weight: FlexTensor) -> FlexTensor {
        match Narrow::of(weight) {
            Ok(narrow) => narrow.into_wide(),
            Err(weight) => Self::float_cast(weight, FloatDType::F32),
        }
    }

    fn fused_table_rows(table: FlexTensor, ids: FlexTensor) -> FlexTensor {
        match Narrow::of(table) {
            Ok(narrow) => narrow.rows_at(&whole(&contiguous(ids))),
            Err(table) => stock_table_rows::<Self>(table, ids),
        }
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        linear::forward(x, weight, bias)
    }

    fn fused_linear_backward(weight: FlexTensor, grad: FlexTensor, known: Option<FlexTensor>) -> FlexTensor {
        linear::backward(weight, grad, known)
    }

    fn fused_linear_weight_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        linear::weight_backward(x, grad)
    }

    fn fused_block_linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        linear::block_forward(x, weight)
    }

    fn fused_block_linear_backward(
        weight: FlexTensor,
        grad: FlexTensor,
        known: Option<FlexTensor>,
    ) -> FlexTensor {
        linear::block_backward(weight, grad, known)
    }

    fn fused_block_linear_weight_backward(x: FlexTensor, grad: FlexTensor, n_blocks: usize) -> FlexTensor {
        linear::block_weight_backward(x, grad, n_blocks)
    }

    fn fused_add(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        linear::sum(a, b)
    }

    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        if !fuses([&x]) {
            return stock::gelu::<Self>(x);
        }
        map(x, CHUNK, kernels::gelu)
    }

    fn fused_gelu_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        if !fuses([&x, &grad]) {
            return stock::gelu_backward::<Self>(x, grad);
        }
        map_with(grad, &contiguous(x), CHUNK, kernels::gelu_backward)
    }

    fn fused_layer_norm(x: FlexTensor, gamma: FlexTensor, beta: FlexTensor, epsilon: f64) -> FlexTensor {
        if !fuses([&x, &gamma, &beta]) || is_empty(&x) {
            return stock::layer_norm::<Self>(x, gamma, beta, epsilon);
        }
        let (gamma, beta) = (contiguous(gamma), contiguous(beta));
        let (gamma, beta) = (gamma.storage::<f32>(), beta.storage::<f32>());
        map(x, whole_rows(gamma.len()), |x| kernels::layer_norm(x, gamma, beta, epsilon as f32))
    }

    fn fused_layer_norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        epsilon: f64,
        grad: FlexTensor,
    ) -> FlexTensor {
        if !fuses([&x, &gamma, &grad]) || is_empty(&x) {
            return stock::layer_norm_backward::<Self>(x, gamma, epsilon, grad);
        }
        let gamma = contiguous(gamma);
        let gamma = gamma.storage::<f32>();
        map_with(grad, &contiguous(x), whole_rows(gamma.len()), |grad, x| {
            kernels::layer_norm_backward(x, gamma, epsilon as f32, grad);
        })
    }

    fn fused_layer_norm_gamma_backward(x: FlexTensor, epsilon: f64, grad: FlexTensor) -> FlexTensor {
        if !fuses([&x, &grad]) || is_empty(&x) {
            return stock::layer_norm_gamma_backward::<Self>(x, epsilon, grad);
        }
        let (x, grad) = (contiguous(x), contiguous(grad));
        let d = x.layout().shape()[2];
        let parts: Vec<Vec<f32>> = x
            .storage::<f32>()
            .par_chunks(whole_rows(d))
            .zip(grad.storage::<f32>().par_chunks(whole_rows(d)))
            .map(|(x, grad)| {
                let mut sum = vec![0.0; d];
                kernels::layer_norm_gamma(x, grad, epsilon as f32, &mut sum);
                sum
            })
            .collect();
        let mut total = vec![0.0; d];
        for part in parts {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
        tensor(total, Shape::new([d]))
    }

    fn fused_attention(inputs: AttentionInputs<Self>) -> FlexTensor {
        let shape = inputs.q.layout().shape().clone();
        if !fuses([&inputs.q, &inputs.k, &inputs.v]) || is_empty(&inputs.q) || is_empty(&inputs.k) {
            return stock::attention::<Self>(inputs);
        }
        tensor(Attention::new(inputs).forward(), shape)
    }

    fn fused_attention_backward(
        inputs: AttentionInputs<Self>,
        grad: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shapes = [&inputs.q, &inputs.k, &inputs.v].map(|x| x.layout().shape().clone());
        if !fuses([&inputs.q, &inputs.k, &inputs.v, &grad]) || is_empty(&inputs.q) || is_empty(&inputs.k) {
            return stock::attention_backward::<Self>(inputs, grad, wanted);
        }
        let grad = contiguous(grad);
        let [dq, dk, dv] = Attention::new(inputs).backward(grad.storage::<f32>(), wanted);
        let [q, k, v] = shapes;
        [(dq, q), (dk, k), (dv, v)].map(|(grad, shape)| grad.map(|grad| tensor(grad, shape)))
    }

    fn fused_rms_norm(x: FlexTensor, gamma: FlexTensor, epsilon: f64) -> FlexTensor {
        if !fuses([&x, &gamma]) || is_empty(&x) {
            return decoder::stock::rms_norm::<Self>(x, gamma, epsilon);
        }
        let gamma = contiguous(gamma);
        let gamma = gamma.storage::<f32>();
        map(x, whole_rows(gamma.len()), |x| kernels::rms_norm(x, gamma, epsilon as f32))
    }

    fn fused_rms_norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        epsilon: f64,
        grad: FlexTensor,
    ) -> FlexTensor {
        if !fuses([&x, &gamma, &grad]) || is_empty(&x) {
            return decoder::stock::rms_norm_backward::<Self>(x, gamma, epsilon, grad);
        }
        let gamma = contiguous(gamma);
        let gamma = gamma.storage::<f32>();
        map_with(grad, &contiguous(x), whole_rows(gamma.len()), |grad, x| {
            kernels::rms_norm_backward(x, gamma, epsilon as f32, grad);
        })
    }

    fn fused_rotary(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        if !fuses([&x, &cos, &sin]) || is_empty(&x) {
            return decoder::stock::rotary::<Self>(x, cos, sin);
        }
        let (d, half) = (x.layout().shape()[2], cos.layout().shape()[2]);
        let (mut x, cos, sin) = (contiguous(x), contiguous(cos), contiguous(sin));
        let angles = cos.storage::<f32>().par_chunks(half).zip(sin.storage::<f32>().par_chunks(half));
        let rows = x.storage_mut::<f32>().par_chunks_mut(d);
        rows.zip(angles).with_min_len((CHUNK / d).max(1)).for_each(|(row, (cos, sin))| {
            kernels::rotary(row, cos, sin);
        });
        x
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        if !fuses([&gate, &up]) {
            return decoder::stock::swiglu::<Self>(gate, up);
        }
        map_with(gate, &contiguous(up), CHUNK, kernels::swiglu)
    }

    fn fused_swiglu_backward(
        gate: FlexTensor,
        up: FlexTensor,
        grad: FlexTensor,
        wanted: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        if !fuses([&gate, &up, &grad]) {
            return decoder::stock::swiglu_backward::<Self>(gate, up, grad, wanted);
        }
        let (gate, up) = (contiguous(gate), contiguous(up));
        let of_up = wanted[1].then(|| map_with(grad.clone(), &gate, CHUNK, kernels::swiglu_up_backward));
        let of_gate = wanted[0].then(|| {
            let mut grad = contiguous(grad);
            let (gate, up) = (gate.storage::<f32>(), up.storage::<f32>());
            let known = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
            grad.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(known).for_each(|(grad, (gate, up))| {
                kernels::swiglu_gate_backward(grad, gate, up);
            });
            grad
        });
        [of_gate, of_up]
    }

    fn fused_write_rows(room: FlexTensor, at: usize, rows: FlexTensor) -> FlexTensor {
        if !fuses([&room, &rows]) || is_empty(&room) || is_empty(&rows) {
            return decoder::stock::write_rows::<Self>(room, at, rows);
        }
        // burn's own operation copies all of it.
        let (mut room, rows) = (contiguous(room), contiguous(rows));
        let [_, n, d]: [usize; 3] = room.layout().shape().dims();
        let [_, m, _]: [usize; 3] = rows.layout().shape().dims();
        let examples = room.storage_mut::<f32>().chunks_exact_mut(n * d);
        for (room, rows) in examples.zip(rows.storage::<f32>().chunks_exact(m * d)) {
            room[at * d..][..m * d].copy_from_slice(rows);
        }
        room
    }

    fn fused_causal_attention(inputs: CausalInputs<Self>) -> FlexTensor {
        let shape = inputs.q.layout().shape().clone();
        if !fuses([&inputs.q, &inputs.k, &inputs.v]) || is_empty(&inputs.q) {
            return decoder::stock::causal_attention::<Self>(inputs);
        }
        tensor(Causal::new(inputs).forward(), shape)
    }

    fn fused_causal_attention_backward(
        inputs: CausalInputs<Self>,
        grad: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shapes = [&inputs.q, &inputs.k, &inputs.v].map(|x| x.layout().shape().clone());
        if !fuses([&inputs.q, &inputs.k, &inputs.v, &grad]) || is_empty(&inputs.q) {
            return decoder::stock::causal_attention_backward::<Self>(inputs, grad, wanted);
        }
        let grad = contiguous(grad);
        let [dq, dk, dv] = Causal::new(inputs).backward(grad.storage::<f32>(), wanted);
        let [q, k, v] = shapes;
        [(dq, q), (dk, k), (dv, v)].map(|(grad, shape)| grad.map(|grad| tensor(grad, shape)))
    }

    fn fused_token_loss(
        hidden: FlexTensor,
        rows: FlexTensor,
        targets: FlexTensor,
        wanted: Wanted,
    ) -> TokenLoss<Self> {
        if !fuses([&hidden]) || is_empty(&hidden) {
            return crate::token_loss::stock::<Self>(hidden, rows, targets, wanted);
        }
        token_loss::token_loss(&contiguous(hidden), &rows, &whole(&contiguous(targets)), wanted)
    }

    fn fused_quantize(x: FlexTensor, step: FlexTensor, open: FlexTensor) -> FlexTensor {
        if !fuses([&x, &step, &open]) {
            return quantize::stock::<Self>(x, step, open);
        }
        let (steps, open) = (steps(step), gates(open));
        map(x, CHUNK, |x| kernels::quantize(x, steps, open))
    }

    fn fused_quantize_open_backward(
        x: FlexTensor,
        step: FlexTensor,
        open: FlexTensor,
        grad: FlexTensor,
    ) -> FlexTensor {
        if !fuses([&x, &step, &open, &grad]) {
            return quantize::stock_open_backward::<Self>(x, step, open, grad);
        }
        let (x, grad, steps, open) = (contiguous(x), contiguous(grad), steps(step), gates(open));
        let chunks = x.storage::<f32>().par_chunks(CHUNK).zip(grad.storage::<f32>().par_chunks(CHUNK));
        let parts: Vec<_> = chunks.map(|(x, grad)| kernels::quantize_behind(x, grad, steps, open)).collect();
        let mut before = 1.0;
        let slopes = (0..DOUBLINGS).map(|i| {
            let slope = before * parts.iter().map(|sums| sums[i]).sum::<f32>();
            before *= open[i];
            slope
        });
        tensor(slopes.collect(), Shape::new([DOUBLINGS]))
    }
}

/// The steps of all parts of a quantiser, coarsest first.
fn steps(coarsest: FlexTensor) -> [f32; DOUBLINGS + 1] {
    let mut step = contiguous(coarsest).storage::<f32>()[0];
    std::array::from_fn(|i| {
        if i > 0 {
            step /= FINER[i - 1];
        }
        step
    })
}

/// How far the gates of a quantiser are open.
fn gates(open: FlexTensor) -> [f32; DOUBLINGS] {
    let open = contiguous(open);
    let open = open.storage::<f32>();
    std::array::from_fn(|i| open[i])
}

fn fuses<const N: usize>(tensors: [&FlexTensor; N]) -> bool {
    tensors.iter().all(|x| x.dtype() == DType::F32)
}

fn is_empty(x: &FlexTensor) -> bool {
    x.layout().num_elements() == 0
}

/// As many rows of `d` elements as fit a chunk, in elements.
fn whole_rows(d: usize) -> usize {
    (CHUNK / d).max(1) * d
}

/// `x` in a buffer of its own length and order; without a copy where it is so already.
#[expect(
    clippy::needless_pass_by_value,
    reason = "dropping `x` leaves its buffer with one owner, to be written in place"
)]
fn contiguous(x: FlexTensor) -> FlexTensor {
    x.to_contiguous()
}

/// Whole numbers, contiguous; zero for any below.
fn whole(x: &FlexTensor) -> Vec<usize> {
    let none_below_zero = |value: i64| usize::try_from(value).unwrap_or(0);
    match x.dtype() {
        DType::I32 => x.storage::<i32>().iter().map(|&value| none_below_zero(value.into())).collect(),
        _ => x.storage::<i64>().iter().map(|&value| none_below_zero(value)).collect(),
    }
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// `x` after `change` has seen each chunk of it: in place if nobody else holds `x`, else on a copy.
fn map(x: FlexTensor, chunk: usize, change: impl Fn(&mut [f32]) + Send + Sync) -> FlexTensor {
    let mut x = contiguous(x);
    if let Some(values) = x.try_storage_mut::<f32>() {
        values.par_chunks_mut(chunk).for_each(change);
        return x;
    }
    let source = x.storage::<f32>();
    let write = |index: usize, values: &mut [MaybeUninit<f32>]| {
        for (value, &source) in values.iter_mut().zip(&source[index * chunk..]) {
            value.write(source);
        }
        #[expect(unsafe_code, reason = "the copy is made where it is changed")]
        // SAFETY: every element of the chunk was written.
        change(unsafe { &mut *(std::ptr::from_mut(values) as *mut [f32]) });
    };
    #[expect(unsafe_code, reason = "no zeros first")]
    // SAFETY: each chunk is written as a whole.
    let values = unsafe { filled(source.len(), chunk, write) };
    tensor(values, x.layout().shape().clone())
}

/// [`map`] beside the chunks of a second, contiguous tensor.
fn map_with(
    x: FlexTensor,
    other: &FlexTensor,
    chunk: usize,
    change: impl Fn(&mut [f32], &[f32]) + Sync,
) -> FlexTensor {
    let mut x = contiguous(x);
    let other = other.storage::<f32>();
    x.storage_mut::<f32>()
        .par_chunks_mut(chunk)
        .zip(other.par_chunks(chunk))
        .for_each(|(values, other)| change(values, other));
    x
}
