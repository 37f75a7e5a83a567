//! The loss of predicting tokens on flex: the logits of a block become their own gradient where they lie.

use burn::tensor::Shape;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{kernels, linear, tensor};
use crate::token_loss::{TokenLoss, Wanted, block_size};

/// See [`token_loss`](crate::token_loss()); `hidden` is contiguous, f32 and not empty.
pub(super) fn token_loss(
    hidden: &FlexTensor,
    rows: &FlexTensor,
    targets: &[usize],
    wanted: Wanted,
) -> TokenLoss<Flex> {
    let [_, d]: [usize; 2] = hidden.layout().shape().dims();
    let [vocab_size, _]: [usize; 2] = rows.layout().shape().dims();
    let block = block_size(vocab_size);
    let (mut loss, mut gradient) = (0.0, Vec::new());
    for (hidden, targets) in hidden.storage::<f32>().chunks(block * d).zip(targets.chunks(block)) {
        let hidden = tensor(hidden.to_vec(), Shape::new([targets.len(), d]));
        let mut logits = linear::backward(rows.clone(), hidden, None);
        let of_tokens = logits.storage_mut::<f32>().par_chunks_exact_mut(vocab_size).zip(targets);
        let losses: Vec<f32> =
            of_tokens.map(|(logits, &target)| kernels::cross_entropy(logits, target)).collect();
        loss += losses.iter().sum::<f32>();
        if wanted == Wanted::Gradient {
            gradient.extend_from_slice(linear::forward(logits, rows.clone(), None).storage::<f32>());
        }
    }
    TokenLoss {
        loss: tensor(vec![loss], Shape::new([1])),
        gradient: (wanted == Wanted::Gradient).then(|| tensor(gradient, hidden.layout().shape().clone())),
    }
}
