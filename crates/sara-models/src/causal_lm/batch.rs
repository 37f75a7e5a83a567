//! Rows of tokens: texts padded to one length, or packed one behind the other.

use super::{Dataset, Item};
use crate::decoder::Place;

/// Rows of tokens, and which of them are predicted from which.
///
/// # Shapes
/// - `ids`, `places`: `[rows, columns]`, row by row
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids; 0 on padding.
    pub ids: Vec<i32>,
    /// Where each token stands; `None` on padding.
    pub places: Vec<Option<Place>>,
    /// How many rows there are.
    pub rows: usize,
    /// The length of the longest.
    pub columns: usize,
    /// Places in `ids` from which a token is predicted.
    pub from: Vec<i32>,
    /// The token that follows each of these.
    pub targets: Vec<i32>,
}

impl Batch {
    /// One row for each list of items, which stand one behind the other in it; no item sees another.
    pub fn new(rows: &[Vec<&Item>]) -> Self {
        let length = |row: &Vec<&Item>| row.iter().map(|item| item.ids.len()).sum::<usize>();
        let columns = rows.iter().map(length).max().unwrap_or(0);
        let size = rows.len() * columns;
        let (mut ids, mut places) = (vec![0; size], vec![None; size]);
        let (mut from, mut targets) = (Vec::new(), Vec::new());
        for (row, items) in rows.iter().enumerate() {
            let mut start = 0;
            for item in items {
                for (position, (&id, &trained)) in item.ids.iter().zip(&item.trained).enumerate() {
                    let at = row * columns + start + position;
                    ids[at] = i32::try_from(id).unwrap_or(i32::MAX);
                    places[at] = Some(Place { start, position, length: item.ids.len() });
                    if trained && position > 0 {
                        from.push(at as i32 - 1);
                        targets.push(ids[at]);
                    }
                }
                start += item.ids.len();
            }
        }
        Self { ids, places, rows: rows.len(), columns, from, targets }
    }

    /// How many tokens are not padding.
    pub fn tokens(&self) -> usize {
        self.places.iter().flatten().count()
    }
}

impl Dataset {
    /// Which items stand in each row: one, or as many as have room, in their order.
    pub fn rows(&self, packing: Packing) -> Vec<Vec<usize>> {
        let alone = || (0..self.items.len()).map(|item| vec![item]).collect();
        let Packing::UpTo(room) = packing else { return alone() };
        let mut rows: Vec<Vec<usize>> = Vec::new();
        let mut used = usize::MAX;
        for (item, length) in self.lengths().into_iter().enumerate() {
            match rows.last_mut() {
                Some(row) if used.saturating_add(length) <= room => {
                    row.push(item);
                    used += length;
                }
                _ => {
                    rows.push(vec![item]);
                    used = length;
                }
            }
        }
        rows
    }
}

/// How texts share rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// Each has one of its own.
    #[default]
    Alone,
    /// One behind the other, in rows of at most so many tokens.
    UpTo(usize),
}
