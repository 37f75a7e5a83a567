//! Padding: several texts as one batch.

use super::{Gold, Item};

/// Several items, padded on the right to the longest of them.
///
/// # Shapes
/// - `ids`, `types`, `mask`: `[rows, columns]`, row by row
/// - `classes`: `[rows]`, `values`: `[rows, outputs]`, `flags`: `[rows, n_labels]`, or empty where the targets are of
///   another kind
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Token ids; the padding token on padding.
    pub ids: Vec<i32>,
    /// Token types; 0 on padding.
    pub types: Vec<i32>,
    /// Which tokens count: false on padding.
    pub mask: Vec<bool>,
    /// How many items there are.
    pub rows: usize,
    /// The length of the longest item.
    pub columns: usize,
    /// Indices of classes.
    pub classes: Vec<i32>,
    /// Values to predict.
    pub values: Vec<f32>,
    /// 1 for each class that applies, else 0.
    pub flags: Vec<f32>,
}

/// Pads items to the longest of them.
pub fn collate(items: &[&Item], pad_id: u32) -> Batch {
    let rows = items.len();
    let columns = items.iter().map(|item| item.ids.len()).max().unwrap_or(0);
    let mut batch = Batch {
        ids: vec![pad_id as i32; rows * columns],
        types: vec![0; rows * columns],
        mask: vec![false; rows * columns],
        rows,
        columns,
        classes: Vec::new(),
        values: Vec::new(),
        flags: Vec::new(),
    };
    for (row, item) in items.iter().enumerate() {
        let start = row * columns;
        for (column, (&id, &kind)) in item.ids.iter().zip(&item.types).enumerate() {
            batch.ids[start + column] = id as i32;
            batch.types[start + column] = kind as i32;
            batch.mask[start + column] = true;
        }
        match &item.target {
            Gold::Class(class) => batch.classes.push(*class as i32),
            Gold::Values(values) => batch.values.extend(values),
            Gold::Flags(flags) => batch.flags.extend(flags),
            Gold::None => {}
        }
    }
    batch
}
