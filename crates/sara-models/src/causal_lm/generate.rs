//! Text that a model writes: one token after the other, each from all before it.

use std::num::NonZeroUsize;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sara_core::{Adapter, Pass};
use sara_ops::LayerOps;

use crate::architecture::Architecture;
use crate::classify::metrics::largest;
use crate::decoder::{Cache, Decoder, Inputs, Place};
use crate::error::{Error, Result};

/// How a token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Only so many of the likeliest tokens.
    pub top_k: Option<NonZeroUsize>,
    /// Only the likeliest tokens that together reach this probability.
    pub top_p: f64,
    /// Divides positive logits of tokens that are there already, and multiplies negative ones.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// How long a text may become.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Tokens of prompt and answer together; the model's own limit where there is none.
    pub context: Option<usize>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// By a token that ends it.
    Eos,
    /// It is as long as it may be.
    Length,
    /// Whoever watched it said so.
    Text,
}

/// A text that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// Time until the first token was known.
    pub prefill_ms: f64,
    /// Time of the others.
    pub decode_ms: f64,
}

/// What whoever watches a text says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To go on.
    Go,
    /// To end it.
    Stop,
}

impl Sampling {
    /// Whether the likeliest token is always taken.
    fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    /// A token out of `logits`, after the tokens in `before`.
    fn choose(&self, mut logits: Vec<f32>, before: &[u32], rng: &mut impl Rng) -> u32 {
        if (self.repetition_penalty - 1.0).abs() > 0.0 {
            let mut seen = before.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                let Some(logit) = logits.get_mut(token as usize) else { continue };
                let penalty = self.repetition_penalty as f32;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        if self.is_greedy() {
            return likeliest(&logits);
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(self.top_k.map_or(usize::MAX, NonZeroUsize::get));
        let highest = f64::from(logits[order[0]]);
        let weight = |token: usize| ((f64::from(logits[token]) - highest) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(|&token| weight(token)).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0;
        let mut sum = 0.0;
        // The token that reaches the share is in.
        while kept < weights.len() && (kept == 0 || sum < self.top_p * total) {
            sum += weights[kept];
            kept += 1;
        }
        let mut left = rng.random::<f64>() * sum;
        for (place, weight) in weights[..kept].iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return order[place] as u32;
            }
        }
        order[kept - 1] as u32
    }
}

/// Goes on with `prompt`; `watch` sees all new tokens after each, and may end the text.
///
/// # Errors
/// [`Error::Input`] for an empty prompt or one with tokens of another model, [`Error::Context`] where the text might become
/// longer than the model takes.
pub fn generate<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    prompt: &[u32],
    sampling: &Sampling,
    limits: &Limits,
    mut watch: impl FnMut(&[u32]) -> Next,
) -> Result<Generated> {
    let config = model.config();
    check(prompt, limits, config.usable_length())?;
    let mut rng = ChaCha12Rng::seed_from_u64(sampling.seed);
    let mut cache = Cache::new(config);
    let mut all = prompt.to_vec();
    let mut next = prompt.to_vec();
    let (mut tokens, mut stop) = (Vec::new(), Stop::Length);
    let (started, mut prefill_ms) = (Instant::now(), 0.0);
    while tokens.len() < limits.max_new_tokens {
        let past = cache.seen();
        let place = |at: usize| Some(Place { start: 0, position: past + at, length: all.len() });
        let places: Vec<_> = (0..next.len()).map(place).collect();
        let logits = logits(model, adapter, &next, &places, 1, &mut cache)?;
        let token = sampling.choose(logits, &all, &mut rng);
        if tokens.is_empty() && prefill_ms == 0.0 {
            prefill_ms = started.elapsed().as_secs_f64() * 1e3;
        }
        if limits.eos.contains(&token) {
            stop = Stop::Eos;
            break;
        }
        all.push(token);
        tokens.push(token);
        next = vec![token];
        if watch(&tokens) == Next::Stop {
            stop = Stop::Text;
            break;
        }
    }
    let decode_ms = started.elapsed().as_secs_f64() * 1e3 - prefill_ms;
    Ok(Generated { tokens, stop, prefill_ms, decode_ms })
}

/// The likeliest text behind each prompt, without the token that ended it; all at once, each for itself but for the
/// rounding of [`linear`](sara_ops::linear()) beside weights in bf16.
///
/// # Errors
/// As [`generate`].
pub fn answers<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    prompts: &[&[u32]],
    limits: &Limits,
) -> Result<Vec<Vec<u32>>> {
    let config = model.config();
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    for prompt in prompts {
        check(prompt, limits, config.usable_length())?;
    }
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    // Padding stands before a text, so that all go on at one place.
    let starts: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
    let mut next: Vec<u32> = Vec::with_capacity(prompts.len() * longest);
    for (prompt, &start) in prompts.iter().zip(&starts) {
        next.extend(std::iter::repeat_n(prompt[0], start));
        next.extend(*prompt);
    }
    let mut cache = Cache::new(config);
    let (mut written, mut ended) = (vec![Vec::new(); prompts.len()], vec![false; prompts.len()]);
    for _ in 0..limits.max_new_tokens {
        let (past, columns) = (cache.seen(), next.len() / prompts.len());
        let place = |row: usize, at: usize| {
            let length = past + columns - starts[row];
            let position = (past + at).checked_sub(starts[row])?;
            Some(Place { start: starts[row], position, length })
        };
        let places: Vec<_> = (0..prompts.len())
            .flat_map(|row| (0..columns).map(move |at| (row, at)))
            .map(|(row, at)| place(row, at))
            .collect();
        let logits = logits(model, adapter, &next, &places, prompts.len(), &mut cache)?;
        next = logits.chunks_exact(config.vocab_size).map(likeliest).collect();
        for (row, &token) in next.iter().enumerate() {
            ended[row] |= limits.eos.contains(&token);
            if !ended[row] {
                written[row].push(token);
            }
        }
        if ended.iter().all(|&ended| ended) {
            break;
        }
    }
    Ok(written)
}

/// The logits behind the last token of each row, `[rows, vocab_size]`; the cache takes the tokens in.
fn logits<B: LayerOps, A: Adapter<B>>(
    model: &Decoder<B>,
    adapter: &A,
    tokens: &[u32],
    places: &[Option<Place>],
    rows: usize,
    cache: &mut Cache<B>,
) -> Result<Vec<f32>> {
    let columns = tokens.len() / rows;
    let ids = tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
    let inputs = Inputs::new(model.config(), ids, places, [rows, columns], cache.seen(), &model.device())?;
    let hidden = model.forward(&inputs, adapter, &Pass::evaluation(), Some(cache));
    let logits = model.logits(hidden.narrow(1, columns - 1, 1));
    Ok(logits.into_data().convert::<f32>().iter().collect())
}

/// The first of the likeliest tokens.
fn likeliest(logits: &[f32]) -> u32 {
    largest(logits) as u32
}

/// Whether the text has room.
fn check(prompt: &[u32], limits: &Limits, usable: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::Input { problem: "the prompt has no tokens; write some text".to_owned() });
    }
    let context = limits.context.unwrap_or(usable);
    if context > usable {
        let (field, found) = ("context".to_owned(), context.to_string());
        return Err(Error::Config {
            field,
            found,
            expected: format!("at most {usable}, which this model takes"),
        });
    }
    if prompt.len().saturating_add(limits.max_new_tokens) > context {
        let (prompt, max_new_tokens) = (prompt.len(), limits.max_new_tokens);
        return Err(Error::Context { prompt, max_new_tokens, context });
    }
    Ok(())
}
