//! What a model has seen of a text, for the tokens that follow.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_ops::{LayerOps, write_rows};

use super::config::DecoderConfig;

/// Tokens that a new cache has room for at least.
const ROOM: usize = 64;

/// Keys and values of the tokens that a model has seen.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    layers: Vec<Seen<B>>,
}

/// Those of one block.
#[derive(Debug, Clone)]
struct Seen<B: Backend> {
    tokens: usize,
    /// Keys and values, `[batch, room, n_kv_heads * head_dim]`: room for twice as many each time there is none left, so that
    /// what is there is seldom copied.
    room: Option<[Tensor<B, 3>; 2]>,
}

impl<B: LayerOps> Cache<B> {
    /// A cache of nothing yet.
    pub fn new(config: &DecoderConfig) -> Self {
        Self { layers: vec![Seen { tokens: 0, room: None }; config.n_layers] }
    }

    /// How many tokens of each row it holds.
    pub fn seen(&self) -> usize {
        self.layers.first().map_or(0, |seen| seen.tokens)
    }

    /// Takes in keys and values of a block, and returns all that it holds of that.
    pub(super) fn join(&mut self, layer: usize, new: [Tensor<B, 3>; 2]) -> [Tensor<B, 3>; 2] {
        let seen = &mut self.layers[layer];
        let [batch, n_new, d] = new[0].dims();
        let (before, after) = (seen.tokens, seen.tokens + n_new);
        let [keys, values] = seen.room.take().map_or([None, None], |room| room.map(Some));
        let [new_keys, new_values] = new;
        // Nobody else holds the room here, so the new tokens are written in place.
        let all = [(keys, new_keys), (values, new_values)].map(|(room, new)| {
            let room = match room {
                Some(room) if room.dims()[1] >= after => room,
                old => {
                    let size = [batch, after.next_power_of_two().max(ROOM), d];
                    let room = Tensor::zeros(size, (&new.device(), new.dtype()));
                    match old {
                        Some(old) => write_rows(room, 0, old.narrow(1, 0, before)),
                        None => room,
                    }
                }
            };
            write_rows(room, before, new)
        });
        *seen = Seen { tokens: after, room: Some(all.clone()) };
        all.map(|all| all.narrow(1, 0, after))
    }
}
