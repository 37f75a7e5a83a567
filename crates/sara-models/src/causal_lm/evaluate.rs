//! How likely a model finds texts.

use std::num::NonZeroUsize;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use sara_core::{Adapter, Pass, Seen};
use sara_ops::LayerOps;
use sara_ops::linear::linear_of_rows;
use sara_ops::token_loss::block_size;

use super::generate::{Limits, answers};
use super::loss::hidden_before;
use super::{Batch, Dataset, Question};
use crate::data::{Order, batches};
use crate::decoder::Decoder;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use crate::train::metrics::Metrics;

/// What a model says about the trained tokens of one text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// The sum of the natural logarithms of their probabilities.
    pub logprob: f64,
    /// How many there are.
    pub tokens: usize,
    /// How many of them are the likeliest.
    pub hits: usize,
}

/// The score of every item, in the order of the dataset.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) where the tokens are not this model's.
pub fn score<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    data: &Dataset,
    batch_size: NonZeroUsize,
) -> Result<Vec<Score>> {
    Ok(pass_over(model, adapter, data, batch_size, Pass::evaluation)?.0)
}

/// The scores, and what the adapter recorded in such passes.
fn pass_over<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    data: &Dataset,
    batch_size: NonZeroUsize,
    pass: impl Fn() -> Pass<B>,
) -> Result<(Vec<Score>, Seen<B>)> {
    let (mut scores, mut seen) = (vec![Score::default(); data.items.len()], Seen::default());
    for items in batches(&data.lengths(), batch_size, Order::Sorted) {
        let rows: Vec<_> = items.iter().map(|&item| vec![&data.items[item]]).collect();
        let (batch, mut pass) = (Batch::new(&rows), pass());
        let (hidden, targets) = hidden_before(model, adapter, &batch, &mut pass)?;
        let found = of_tokens(&hidden, &model.output_rows(), &targets);
        for (&from, (logprob, is_hit)) in batch.from.iter().zip(found) {
            let score = &mut scores[items[from as usize / batch.columns]];
            score.logprob += f64::from(logprob);
            score.tokens += 1;
            score.hits += usize::from(is_hit);
        }
        seen.merge(pass.into_seen());
    }
    Ok((scores, seen))
}

/// Loss, perplexity and accuracy over all trained tokens.
///
/// # Errors
/// As [`score`].
pub fn evaluate<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    data: &Dataset,
    batch_size: NonZeroUsize,
) -> Result<Metrics> {
    Ok(metrics(&score(model, adapter, data, batch_size)?))
}

/// The same, with what the adapter recorded on the way, where it [observes](Adapter::observes).
///
/// # Errors
/// As [`score`].
pub fn observe<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    data: &Dataset,
    batch_size: NonZeroUsize,
) -> Result<(Metrics, Seen<B>)> {
    let pass = || {
        let pass = Pass::evaluation();
        if adapter.observes() { pass.recording() } else { pass }
    };
    let (scores, seen) = pass_over(model, adapter, data, batch_size, pass)?;
    Ok((metrics(&scores), seen))
}

/// The metrics of these scores together, each token alike.
pub fn metrics(scores: &[Score]) -> Metrics {
    let tokens = scores.iter().map(|score| score.tokens).sum::<usize>() as f64;
    let loss = -scores.iter().map(|score| score.logprob).sum::<f64>() / tokens;
    let mut metrics = Metrics::default();
    metrics.insert("loss", Some(loss));
    metrics.insert("perplexity", Some(loss.exp()));
    metrics
        .insert("token_accuracy", Some(scores.iter().map(|score| score.hits).sum::<usize>() as f64 / tokens));
    metrics
}

/// The likeliest answer to each question, in their order.
///
/// # Errors
/// As [`answers`].
pub fn answer_all<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    questions: &[Question],
    tokenizer: &Tokenizer,
    limits: &Limits,
    batch_size: NonZeroUsize,
) -> Result<Vec<String>> {
    let lengths: Vec<usize> = questions.iter().map(|question| question.prompt.len()).collect();
    let mut written = vec![String::new(); questions.len()];
    for batch in batches(&lengths, batch_size, Order::Sorted) {
        let prompts: Vec<&[u32]> = batch.iter().map(|&place| questions[place].prompt.as_slice()).collect();
        for (&place, tokens) in batch.iter().zip(answers(model, adapter, &prompts, limits)?) {
            written[place] = tokenizer.decode(&tokens)?;
        }
    }
    Ok(written)
}

/// The share of questions that are answered word for word, spaces around an answer apart; `None` without questions.
pub fn exact_match(questions: &[Question], answers: &[String]) -> Option<f64> {
    let is_right = |(question, answer): &(&Question, &String)| answer.trim() == question.expected.trim();
    let hits = questions.iter().zip(answers).filter(is_right).count();
    (!questions.is_empty()).then(|| hits as f64 / questions.len() as f64)
}

/// Of each target its log-probability, and whether it is the likeliest; in blocks, so that logits are never whole.
fn of_tokens<B: LayerOps>(
    hidden: &Tensor<B, 2>,
    rows: &Tensor<B, 2>,
    targets: &Tensor<B, 1, Int>,
) -> Vec<(f32, bool)> {
    let ([n, _], block) = (hidden.dims(), block_size(rows.dims()[0]));
    let mut found = Vec::with_capacity(n);
    for start in (0..n).step_by(block) {
        let count = block.min(n - start);
        let target = targets.clone().narrow(0, start, count);
        let logits = linear_of_rows(hidden.clone().narrow(0, start, count), rows.clone());
        let best = logits.clone().argmax(1).reshape([count]).into_data();
        let expected = target.clone().into_data();
        let logprobs = log_softmax(logits, 1).gather(1, target.reshape([count, 1])).into_data();
        let hits = best.iter::<i64>().zip(expected.iter::<i64>()).map(|(best, target)| best == target);
        found.extend(logprobs.iter::<f32>().zip(hits));
    }
    found
}
