//! The loss of predicting tokens, without the logits of all of them at once.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Int, Tensor};

use crate::packed::is_packed;
use crate::{LayerOps, primitive, tensor};

/// Tokens of a block: with fewer, reading the rows of the vocabulary costs more than the products.
const TOKENS: usize = 128;
/// Logits of a block, 64 MiB in f32, unless the vocabulary is beyond a million.
const LOGITS: usize = 16 * 1024 * 1024;

/// What [`token_loss`] computes at once.
#[derive(Debug)]
pub struct TokenLoss<B: Backend> {
    /// The sum over the tokens, `[1]`.
    pub loss: FloatTensor<B>,
    /// Its gradient by the hidden states, `[n, d]`, where it was asked for.
    pub gradient: Option<FloatTensor<B>>,
}

/// What of [`TokenLoss`] is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The loss alone.
    Loss,
    /// The gradient as well.
    Gradient,
}

/// Cross entropy of the softmax over `rows hidden` at each target, summed over the tokens.
///
/// The rows are frozen: no gradient goes to them, so that of the hidden states is known as soon as the loss is, block by
/// block, and no logits are kept.
///
/// # Shapes
/// - `hidden`: `[n, d]`
/// - `rows`: `[vocab_size, d]`
/// - `targets`: `[n]`, below `vocab_size`
/// - returns `[1]`
///
/// # Panics
/// If the shapes differ from these.
pub fn token_loss<B: LayerOps>(
    hidden: Tensor<B, 2>,
    rows: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
) -> Tensor<B, 1> {
    let ([n, d], [_, width]) = (hidden.dims(), rows.dims());
    assert_eq!((width, targets.dims()), (d, [n]), "a target for each hidden state, rows as long as these");
    let (hidden, rows, targets) = (primitive(hidden), primitive(rows), targets.into_primitive());
    tensor(B::fused_token_loss(hidden, rows, targets, Wanted::Loss).loss)
}

/// Rows of hidden states whose logits are computed at once.
pub fn block_size(vocab_size: usize) -> usize {
    (LOGITS / vocab_size.max(1)).clamp(16, TOKENS)
}

pub(crate) fn stock<B: LayerOps>(
    hidden: FloatTensor<B>,
    rows: FloatTensor<B>,
    targets: IntTensor<B>,
    wanted: Wanted,
) -> TokenLoss<B> {
    let (hidden, rows) = (tensor::<B, 2>(hidden), tensor::<B, 2>(rows));
    let targets = Tensor::<B, 1, Int>::from_primitive(targets);
    let ([n, _], block) = (hidden.dims(), block_size(rows.dims()[0]));
    let mut loss = Tensor::<B, 1>::zeros([1], (&hidden.device(), hidden.dtype()));
    let mut gradients = Vec::new();
    for start in (0..n).step_by(block) {
        let count = block.min(n - start);
        let target = targets.clone().narrow(0, start, count);
        let of_block = primitive(hidden.clone().narrow(0, start, count));
        let logits: Tensor<B, 2> = tensor(B::fused_linear_backward(primitive(rows.clone()), of_block, None));
        let column = target.clone().reshape([count, 1]);
        loss = loss - log_softmax(logits.clone(), 1).gather(1, column).sum_dim(0).reshape([1]);
        if wanted == Wanted::Gradient {
            let expected = B::fused_linear(primitive(softmax(logits, 1)), primitive(rows.clone()), None);
            let own = if is_packed(rows.dtype()) {
                tensor(B::fused_table_rows(primitive(rows.clone()), target.into_primitive()))
            } else {
                rows.clone().select(0, target)
            };
            gradients.push(tensor::<B, 2>(expected) - own.cast(hidden.dtype()));
        }
    }
    let gradient = (wanted == Wanted::Gradient).then(|| match gradients.len() {
        0 => primitive(hidden),
        _ => primitive(Tensor::cat(gradients, 0)),
    });
    TokenLoss { loss: primitive(loss), gradient }
}
