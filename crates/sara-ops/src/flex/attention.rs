//! Attention on heads where they lie in the rows: strided products, no copies, nothing kept.
//!
//! One piece of work is one head of one example, a block of queries at a time. The probabilities of a block
//! exist only in a thread's scratch, in the backward pass too, which computes them again: five products
//! instead of four, against a buffer `[batch, heads, seq, seq]` kept by every layer.

use std::mem::MaybeUninit;

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{contiguous, kernels};
use crate::AttentionInputs;
use crate::strided::{Matrix, MatrixMut, Unwritten};

/// Queries of one block: with some hundred keys its scores stay in the second-level cache.
const QUERIES: usize = 128;

/// The inputs of attention, contiguous and f32, not empty.
pub(super) struct Attention {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    /// Zero for keys that count, minus infinity for the others, `[batch, n_keys]`.
    bias: Vec<f32>,
    n_queries: usize,
    n_keys: usize,
    d: usize,
    n_heads: usize,
}

impl Attention {
    pub(super) fn new(inputs: AttentionInputs<Flex>) -> Self {
        let AttentionInputs { q, k, v, mask, n_heads } = inputs;
        let [batch, n_queries, d] = q.layout().shape().dims();
        let [_, n_keys, _]: [usize; 3] = k.layout().shape().dims();
        let bias = mask.map_or_else(|| vec![0.0; batch * n_keys], |mask| bias(&contiguous(mask)));
        Self { q: contiguous(q), k: contiguous(k), v: contiguous(v), bias, n_queries, n_keys, d, n_heads }
    }

    pub(super) fn forward(&self) -> Vec<f32> {
        let mut output = room_for(&self.q);
        let outputs = self.heads(&mut output, self.n_queries);
        outputs.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (index, output)| {
            let head = self.head(index);
            let mut rest = output;
            for block in head.blocks() {
                let [output, below] = rest.split(block.1);
                output.product(head.probabilities(block, scratch), head.v);
                rest = below;
            }
            // Nothing, unless there are no keys.
            rest.zeros();
        });
        #[expect(unsafe_code, reason = "no zeros first")]
        // SAFETY: every row of every head was written, by a product or with zeros.
        unsafe {
            output.assume_init().into_vec()
        }
    }

    /// Gradients of query, key and value where `wanted`, from that of the output.
    pub(super) fn backward(&self, grad: &[f32], wanted: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let room = |wanted: bool, like: &FlexTensor| wanted.then(|| room_for(like));
        let mut grads = [room(wanted[0], &self.q), room(wanted[1], &self.k), room(wanted[2], &self.v)];
        let [dq, dk, dv] = &mut grads;
        let dq = self.heads_if_any(dq, self.n_queries);
        let [dk, dv] = [dk, dv].map(|grad| self.heads_if_any(grad, self.n_keys));
        let grads_of_heads = dq.into_par_iter().zip(dk).zip(dv).enumerate();
        grads_of_heads.for_each_init(Default::default, |scratch, (index, ((dq, dk), dv))| {
            self.head(index).backward(self.part(grad, self.n_queries, index), [dq, dk, dv], scratch);
        });
        #[expect(unsafe_code, reason = "no zeros first")]
        // SAFETY: every row of every head of each was written, by a product or with zeros.
        grads.map(|grad| grad.map(|grad| unsafe { grad.assume_init() }.into_vec()))
    }

    /// The heads of each example in a new buffer `[batch, n_rows, d]`.
    fn heads<'a>(&self, data: &'a mut [MaybeUninit<f32>], n_rows: usize) -> Vec<Unwritten<'a>> {
        Unwritten::blocks(data, self.d, [n_rows, self.d / self.n_heads])
    }

    /// The same, or as many times nothing.
    fn heads_if_any<'a>(
        &self,
        data: &'a mut Option<Box<[MaybeUninit<f32>]>>,
        n_rows: usize,
    ) -> Vec<Option<Unwritten<'a>>> {
        match data {
            Some(data) => self.heads(data, n_rows).into_iter().map(Some).collect(),
            None => (0..self.bias.len() / self.n_keys * self.n_heads).map(|_| None).collect(),
        }
    }

    /// All rows of one head of one example in a buffer `[batch, n_rows, d]`.
    fn part<'a>(&self, data: &'a [f32], n_rows: usize, index: usize) -> Matrix<'a> {
        let (example, head) = (index / self.n_heads, index % self.n_heads);
        let head_dim = self.d / self.n_heads;
        Matrix::new(&data[example * n_rows * self.d + head * head_dim..], n_rows, head_dim, self.d)
    }

    fn head(&self, index: usize) -> Head<'_> {
        let example = index / self.n_heads;
        let bias = &self.bias[example * self.n_keys..][..self.n_keys];
        // Padding at the end costs nothing; a gap further in is left to the bias.
        let n_keys = bias.iter().rposition(|&bias| bias == 0.0).map_or(0, |last| last + 1);
        let q = self.part(self.q.storage::<f32>(), self.n_queries, index);
        let [k, v] = [&self.k, &self.v].map(|x| self.part(x.storage::<f32>(), self.n_keys, index));
        Head { q, k: k.rows((0, n_keys)), v: v.rows((0, n_keys)), bias: &bias[..n_keys] }
    }
}

/// A buffer for as many values.
fn room_for(like: &FlexTensor) -> Box<[MaybeUninit<f32>]> {
    Box::new_uninit_slice(like.storage::<f32>().len())
}

/// Minus infinity where the mask is false.
fn bias(mask: &FlexTensor) -> Vec<f32> {
    mask.storage::<u8>().iter().map(|&counts| if counts == 0 { f32::NEG_INFINITY } else { 0.0 }).collect()
}

/// One head of one example, keys and values without the padding at the end.
struct Head<'a> {
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    bias: &'a [f32],
}

impl<'a> Head<'a> {
    /// First row and number of rows of each block of queries; none without keys, where all is zero.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let n_queries = if self.bias.is_empty() { 0 } else { self.q.n_rows() };
        (0..n_queries).step_by(QUERIES).map(move |start| (start, QUERIES.min(n_queries - start)))
    }

    fn scale(&self) -> f32 {
        (self.q.n_cols() as f32).sqrt().recip()
    }

    fn probabilities<'s>(&self, block: (usize, usize), scratch: &'s mut Vec<f32>) -> Matrix<'s> {
        let n_keys = self.bias.len();
        scratch.resize(block.1 * n_keys, 0.0);
        MatrixMut::new(scratch, block.1, n_keys).set_product(self.q.rows(block), self.k.transposed());
        kernels::softmax(scratch, self.bias, self.scale());
        Matrix::new(scratch, block.1, n_keys, n_keys)
    }

    fn backward(
        &self,
        grad: Matrix<'a>,
        [mut dq, dk, dv]: [Option<Unwritten<'_>>; 3],
        [scratch_p, scratch_s]: &mut [Vec<f32>; 2],
    ) {
        let n_keys = self.bias.len();
        let [mut dk, mut dv] = [dk, dv].map(|grad| {
            grad.map(|grad| {
                let [keys, padding] = grad.split(n_keys);
                padding.zeros();
                Sum::Empty(keys)
            })
        });
        for block in self.blocks() {
            let grad = grad.rows(block);
            let p = self.probabilities(block, scratch_p);
            dv = dv.map(|dv| dv.add(p.transposed(), grad));
            if dq.is_none() && dk.is_none() {
                continue;
            }
            scratch_s.resize(block.1 * n_keys, 0.0);
            MatrixMut::new(scratch_s, block.1, n_keys).set_product(grad, self.v.transposed());
            kernels::softmax_backward(scratch_p, scratch_s, n_keys, self.scale());
            let ds = Matrix::new(scratch_s, block.1, n_keys, n_keys);
            dq = dq.map(|rest| {
                let [dq, below] = rest.split(block.1);
                dq.product(ds, self.k);
                below
            });
            dk = dk.map(|dk| dk.add(ds.transposed(), self.q.rows(block)));
        }
        // Nothing, unless there are no keys.
        dq.map(Unwritten::zeros);
        for sum in [dk, dv].into_iter().flatten() {
            sum.finish();
        }
    }
}

/// A sum of products, which the first of them writes.
enum Sum<'a> {
    Empty(Unwritten<'a>),
    Written(MatrixMut<'a>),
}

impl Sum<'_> {
    fn add(self, lhs: Matrix<'_>, rhs: Matrix<'_>) -> Self {
        Self::Written(match self {
            Self::Empty(matrix) => matrix.product(lhs, rhs),
            Self::Written(mut matrix) => {
                matrix.add_product(lhs, rhs);
                matrix
            }
        })
    }

    /// Writes zeros where there was no term.
    fn finish(self) {
        if let Self::Empty(matrix) = self {
            matrix.zeros();
        }
    }
}
