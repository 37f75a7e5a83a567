//! The order of examples in an epoch.

use std::num::NonZeroUsize;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

/// Batches that are sorted by length together: enough for little padding, few enough to leave the order random.
const BATCHES_PER_BUCKET: usize = 50;

/// The order in which an epoch goes through the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As the lines of the file.
    AsRead,
    /// By length, which needs the least padding; the caller puts results back in order.
    Sorted,
    /// At random, examples of like length together; the same for the same seed and epoch.
    Shuffled {
        /// The run's seed.
        seed: u64,
        /// The epoch, counted from 0.
        epoch: u64,
    },
}

/// Divides examples of these lengths into batches of indices, each example once; the rest is a smaller batch.
pub fn batches(lengths: &[usize], batch_size: NonZeroUsize, order: Order) -> Vec<Vec<usize>> {
    let batch_size = batch_size.get();
    let mut indices: Vec<usize> = (0..lengths.len()).collect();
    let cut = |indices: &[usize]| indices.chunks(batch_size).map(<[usize]>::to_vec).collect::<Vec<_>>();
    match order {
        Order::AsRead => cut(&indices),
        Order::Sorted => {
            indices.sort_by_key(|&index| lengths[index]);
            cut(&indices)
        }
        Order::Shuffled { seed, epoch } => {
            let mut rng = rng(seed, epoch);
            indices.shuffle(&mut rng);
            for bucket in indices.chunks_mut(batch_size.saturating_mul(BATCHES_PER_BUCKET)) {
                bucket.sort_by_key(|&index| lengths[index]);
            }
            let mut batches = cut(&indices);
            batches.shuffle(&mut rng);
            batches
        }
    }
}

/// The generator of one epoch's order; nothing else draws from it.
fn rng(seed: u64, epoch: u64) -> ChaCha12Rng {
    let mut key = *b"seed....epoch...order of batches";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    ChaCha12Rng::from_seed(key)
}
