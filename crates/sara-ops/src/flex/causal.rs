//! Causal attention on heads where they lie in the rows, as `attention.rs` does it, of keys up to each block's last.
//!
//! One piece of work is one head of one example, on the way back one head of keys and values with all that share it. The
//! probabilities of a block of queries exist only in a thread's scratch, of no key that none of the block sees.

use std::mem::MaybeUninit;

use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{contiguous, kernels, whole};
use crate::CausalInputs;
use crate::buffer::size;
use crate::strided::{Matrix, MatrixMut, Unwritten};

/// Queries of one block.
const QUERIES: usize = 64;

/// The inputs, f32, not empty.
pub(super) struct Causal {
    /// Contiguous.
    q: FlexTensor,
    k: Rows,
    v: Rows,
    /// The first key that each query sees, `[batch, n_queries]`.
    first: Vec<usize>,
    n_queries: usize,
    n_keys: usize,
    head_dim: usize,
    n_heads: usize,
    n_kv_heads: usize,
}

impl Causal {
    pub(super) fn new(inputs: CausalInputs<Flex>) -> Self {
        let CausalInputs { q, k, v, first, n_heads, n_kv_heads } = inputs;
        let [_, n_queries, d] = q.layout().shape().dims();
        let [_, n_keys, _]: [usize; 3] = k.layout().shape().dims();
        // Beyond the own token there is nothing to see: such a query sees that alone.
        let own = |index: usize| n_keys - n_queries + index % n_queries;
        let first = whole(&contiguous(first)).into_iter().enumerate();
        let first = first.map(|(index, first)| first.min(own(index))).collect();
        let (q, [k, v]) = (contiguous(q), [k, v].map(Rows::new));
        Self { q, k, v, first, n_queries, n_keys, head_dim: d / n_heads, n_heads, n_kv_heads }
    }

    pub(super) fn forward(&self) -> Vec<f32> {
        let mut output = self.room(self.n_heads, self.n_queries);
        let outputs = heads(&mut output, self.n_heads, self.n_queries, self.head_dim);
        outputs.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (index, output)| {
            let head = self.head(index);
            let mut rest = output;
            for block in head.blocks() {
                let [output, below] = rest.split(block.count);
                output.product(head.probabilities(&block, scratch), head.v.rows(block.keys));
                rest = below;
            }
        });
        #[expect(unsafe_code, reason = "no zeros first")]
        // SAFETY: every row of every head was written by a product.
        unsafe {
            output.assume_init().into_vec()
        }
    }

    /// Gradients of query, key and value where `wanted`, from that of the output.
    pub(super) fn backward(&self, grad: &[f32], wanted: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let of_queries = wanted[0].then(|| self.room(self.n_heads, self.n_queries));
        let [of_keys, of_values] =
            [wanted[1], wanted[2]].map(|wanted| wanted.then(|| self.room(self.n_kv_heads, self.n_keys)));
        let mut grads = [of_queries, of_keys, of_values];
        let batch = self.first.len() / self.n_queries;
        let [dq, dk, dv] = &mut grads;
        let group = self.n_heads / self.n_kv_heads;
        let mut dq = match dq {
            Some(dq) => {
                let heads = heads(dq, self.n_heads, self.n_queries, self.head_dim);
                heads.into_iter().map(Some).collect()
            }
            None => (0..batch * self.n_heads).map(|_| None).collect::<Vec<_>>(),
        };
        let [dk, dv] = [dk, dv].map(|grad| match grad {
            Some(grad) => {
                let heads = heads(grad, self.n_kv_heads, self.n_keys, self.head_dim);
                heads.into_iter().map(Some).collect::<Vec<_>>()
            }
            None => (0..batch * self.n_kv_heads).map(|_| None).collect(),
        });
        let shared = dq.par_chunks_mut(group).zip(dk).zip(dv).enumerate();
        shared.for_each_init(Default::default, |scratch, (index, ((dq, dk), dv))| {
            let mut sums = [dk, dv].map(|grad| grad.map(Unwritten::zeros));
            for (member, dq) in dq.iter_mut().enumerate() {
                let index = index * group + member;
                let grad = self.of_queries(grad, index);
                self.head(index).backward(grad, dq.take(), &mut sums, scratch);
            }
        });
        #[expect(unsafe_code, reason = "no zeros first")]
        // SAFETY: every row of every head of each was written, by a product or with zeros.
        grads.map(|grad| grad.map(|grad| unsafe { grad.assume_init() }.into_vec()))
    }

    /// All rows of a head in a buffer of queries.
    fn of_queries<'a>(&self, data: &'a [f32], index: usize) -> Matrix<'a> {
        let (example, head) = (index / self.n_heads, index % self.n_heads);
        let d = self.n_heads * self.head_dim;
        let start = example * self.n_queries * d + head * self.head_dim;
        Matrix::new(&data[start..], self.n_queries, self.head_dim, d)
    }

    /// A buffer `[batch, n_rows, n_heads * head_dim]`.
    fn room(&self, n_heads: usize, n_rows: usize) -> Box<[MaybeUninit<f32>]> {
        let batch = self.first.len() / self.n_queries;
        Box::new_uninit_slice(size([size([batch, n_rows]), n_heads * self.head_dim]))
    }

    fn head(&self, index: usize) -> Head<'_> {
        let (example, head) = (index / self.n_heads, index % self.n_heads);
        let first = head * self.n_kv_heads / self.n_heads * self.head_dim;
        let [k, v] = [&self.k, &self.v].map(|x| x.columns(example, first, [self.n_keys, self.head_dim]));
        Head {
            q: self.of_queries(self.q.storage::<f32>(), index),
            k,
            v,
            first: &self.first[example * self.n_queries..][..self.n_queries],
        }
    }
}

/// The heads of each example in a new buffer `[batch, n_rows, n_heads * head_dim]`.
fn heads(
    data: &mut [MaybeUninit<f32>],
    n_heads: usize,
    n_rows: usize,
    head_dim: usize,
) -> Vec<Unwritten<'_>> {
    Unwritten::blocks(data, n_heads * head_dim, [n_rows, head_dim])
}

/// Keys or values `[batch, n_keys, d]`, each row in one piece: those of a cache lie in its larger room.
struct Rows {
    tensor: FlexTensor,
    start: usize,
    /// From an example to the next, and from a row to the next.
    strides: [usize; 2],
}

impl Rows {
    fn new(x: FlexTensor) -> Self {
        let is_in_pieces = matches!(x.layout().strides(), &[example, row, 1] if example >= 0 && row >= 0);
        let tensor = if is_in_pieces { x } else { contiguous(x) };
        let strides = [0, 1].map(|axis| tensor.layout().strides()[axis].unsigned_abs());
        Self { start: tensor.layout().start_offset(), strides, tensor }
    }

    /// Of each row of an example so many columns from `first` on.
    fn columns(&self, example: usize, first: usize, [n_rows, n_columns]: [usize; 2]) -> Matrix<'_> {
        let [to_example, to_row] = self.strides;
        let start = self.start + example * to_example + first;
        Matrix::new(&self.tensor.storage::<f32>()[start..], n_rows, n_columns, to_row)
    }
}

/// One head of one example.
struct Head<'a> {
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    first: &'a [usize],
}

/// Some queries of a head, and the keys that at least one of them sees.
struct Block {
    start: usize,
    count: usize,
    /// Start and count.
    keys: (usize, usize),
    /// Which of these keys each query sees.
    seen: Vec<(usize, usize)>,
}

impl<'a> Head<'a> {
    fn blocks(&self) -> impl Iterator<Item = Block> + use<'a> {
        let (first, n_queries, before) = (self.first, self.q.n_rows(), self.k.n_rows() - self.q.n_rows());
        (0..n_queries).step_by(QUERIES).map(move |start| {
            let count = QUERIES.min(n_queries - start);
            let first = &first[start..start + count];
            let from = first.iter().copied().min().unwrap_or(0);
            let seen =
                first.iter().enumerate().map(|(i, &first)| (first - from, before + start + i + 1 - from));
            Block { start, count, keys: (from, before + start + count - from), seen: seen.collect() }
        })
    }

    fn scale(&self) -> f32 {
        (self.q.n_cols() as f32).sqrt().recip()
    }

    fn probabilities<'s>(&self, block: &Block, scratch: &'s mut Vec<f32>) -> Matrix<'s> {
        let Block { start, count, keys, seen } = block;
        scratch.resize(count * keys.1, 0.0);
        let queries = self.q.rows((*start, *count));
        MatrixMut::new(scratch, *count, keys.1).set_product(queries, self.k.rows(*keys).transposed());
        kernels::causal_softmax(scratch, seen, self.scale());
        Matrix::new(scratch, *count, keys.1, keys.1)
    }

    /// Writes the gradient of the queries and adds those of keys and values.
    fn backward(
        &self,
        grad: Matrix<'a>,
        mut dq: Option<Unwritten<'_>>,
        [dk, dv]: &mut [Option<MatrixMut<'_>>; 2],
        [scratch_p, scratch_s]: &mut [Vec<f32>; 2],
    ) {
        for block in self.blocks() {
            let queries = (block.start, block.count);
            let grad = grad.rows(queries);
            let p = self.probabilities(&block, scratch_p);
            if let Some(dv) = dv {
                dv.rows(block.keys).add_product(p.transposed(), grad);
            }
            if dq.is_none() && dk.is_none() {
                continue;
            }
            let n_keys = block.keys.1;
            scratch_s.resize(block.count * n_keys, 0.0);
            let values = self.v.rows(block.keys).transposed();
            MatrixMut::new(scratch_s, block.count, n_keys).set_product(grad, values);
            kernels::softmax_backward(scratch_p, scratch_s, n_keys, self.scale());
            let ds = Matrix::new(scratch_s, block.count, n_keys, n_keys);
            dq = dq.map(|rest| {
                let [dq, below] = rest.split(block.count);
                dq.product(ds, self.k.rows(block.keys));
                below
            });
            if let Some(dk) = dk {
                dk.rows(block.keys).add_product(ds.transposed(), self.q.rows(queries));
            }
        }
    }
}
