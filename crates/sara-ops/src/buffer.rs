//! New buffers, written piece by piece and not filled with zeros first.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Rows and columns that are transposed together: their cache lines stay at hand from one to the next.
const BLOCK: usize = 16;

/// The matrix `[rows, columns]` transposed to `[columns, rows]`, on all threads; `value` reads it row by row.
///
/// # Panics
/// If no buffer could hold it.
pub fn transpose(rows: usize, columns: usize, value: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
    let write = |block: usize, out: &mut [MaybeUninit<f32>]| {
        transpose_block(rows, columns, block * BLOCK, &value, out);
    };
    #[expect(unsafe_code, reason = "no zeros first")]
    // SAFETY: a piece is a number of whole output rows, each of which is written: the buffer is as large as the matrix, and
    // one that holds anything has fewer rows than would overflow here.
    unsafe {
        filled(size([rows, columns]), BLOCK.saturating_mul(rows.max(1)), write)
    }
}

/// Entries of a matrix of this shape.
///
/// # Panics
/// If no buffer could hold so many: release builds multiply unchecked, and a smaller buffer would then be written beyond
/// its end.
pub(crate) fn size([n_rows, n_cols]: [usize; 2]) -> usize {
    let size = n_rows.checked_mul(n_cols);
    assert!(size.is_some(), "no buffer holds {n_rows} x {n_cols} entries");
    size.unwrap_or_default()
}

/// The rows of the transpose from `first` on, as many as `out` has room for; it writes all of `out`.
fn transpose_block(
    rows: usize,
    columns: usize,
    first: usize,
    value: &impl Fn(usize) -> f32,
    out: &mut [MaybeUninit<f32>],
) {
    for from in (0..rows).step_by(BLOCK) {
        for (column, out) in out.chunks_exact_mut(rows).enumerate() {
            for (row, out) in (from..rows).zip(out[from..].iter_mut().take(BLOCK)) {
                out.write(value(row * columns + first + column));
            }
        }
    }
}

/// A buffer of `len` values in pieces of `piece`, each written on one of all threads by `write(index, piece)`.
///
/// Zeros that are written over at once would cost a tenth of a matrix product.
///
/// # Safety
/// `write` must write every element of the piece that it is given.
#[expect(unsafe_code, reason = "a vector is not told otherwise that it is full")]
pub unsafe fn filled(
    len: usize,
    piece: usize,
    write: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let pieces = values.spare_capacity_mut()[..len].par_chunks_mut(piece);
    pieces.enumerate().for_each(|(index, piece)| write(index, piece));
    // SAFETY: the capacity suffices, and every element was written, as the caller promises.
    unsafe { values.set_len(len) };
    values
}

#[cfg(test)]
mod tests {
    use super::transpose;

    #[test]
    fn every_entry_finds_its_place() {
        for [rows, columns] in [[0, 0], [0, 5], [5, 0], [1, 1], [3, 40], [40, 3], [33, 17]] {
            let found = transpose(rows, columns, |i| i as f32);
            let entry = |at: usize| (at % rows * columns + at / rows) as f32;
            assert_eq!(found, (0..rows * columns).map(entry).collect::<Vec<_>>(), "{rows} x {columns}");
        }
    }

    /// The product would be 2 or so, and the buffer handed out without a value in it.
    #[test]
    #[should_panic(expected = "no buffer holds")]
    fn a_shape_that_overflows_is_refused() {
        transpose(3, usize::MAX / 3 + 1, |_| 0.0);
    }
}
