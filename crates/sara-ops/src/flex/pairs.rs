//! Products of bf16 by the processor's own instruction, which multiplies pairs of values and sums them in f32
//! (AVX-512 BF16). The other factor is rounded to bf16 for it.

use rayon::prelude::*;

use super::kernels::vectorized;
use super::narrow::Narrow;
use crate::strided::{Matrix, MatrixMut, Unwritten};

/// Columns whose sums are in registers, two for each row.
const COLUMNS: usize = 32;
/// Rows whose sums are.
const ROWS: usize = 8;
/// Pairs in a register.
const LANES: usize = 16;

/// Two values of a row or column, one behind the other.
type Pair = [u16; 2];

/// That the processor has the instruction.
#[derive(Clone, Copy)]
pub(super) struct Pairing(());

/// The left factor, rounded.
pub(super) struct Rounded {
    /// Row by row; rows without values fill the last [`ROWS`], and a zero the last pair of an odd row.
    pairs: Vec<Pair>,
    n_rows: usize,
    pairs_of_row: usize,
    pairing: Pairing,
}

/// What a thread needs again and again.
#[derive(Default)]
pub(super) struct Scratch {
    panel: Vec<[Pair; COLUMNS]>,
    product: Vec<f32>,
}

impl Pairing {
    /// It, where the processor has the instruction.
    pub(super) fn find() -> Option<Self> {
        is_there().then_some(Self(()))
    }

    /// The left factor of a product.
    pub(super) fn round(self, x: Matrix<'_>) -> Rounded {
        let (n_rows, pairs_of_row) = (x.n_rows(), x.n_cols().div_ceil(2));
        let mut pairs = vec![Pair::default(); n_rows.next_multiple_of(ROWS) * pairs_of_row];
        pairs.par_chunks_exact_mut(pairs_of_row).take(n_rows).enumerate().for_each(|(row, pairs)| {
            let values = pairs.as_flattened_mut();
            round(&mut values[..x.n_cols()], x.row(row));
        });
        Rounded { pairs, n_rows, pairs_of_row, pairing: self }
    }
}

impl Rounded {
    /// Writes to `y` the product with the columns of `weight` from `start` on.
    pub(super) fn product<'y>(
        &self,
        weight: &Narrow,
        start: usize,
        y: Unwritten<'y>,
        scratch: &mut Scratch,
    ) -> MatrixMut<'y> {
        let n_cols = y.n_cols();
        let Scratch { panel, product } = scratch;
        panel.resize(self.pairs_of_row, [Pair::default(); COLUMNS]);
        product.resize(self.n_rows * n_cols, 0.0);
        for first in (0..n_cols).step_by(COLUMNS) {
            let count = COLUMNS.min(n_cols - first);
            order(self.pairing, weight, (start + first, count), panel);
            let groups = self.pairs.chunks_exact(ROWS * self.pairs_of_row);
            for (rows, out) in groups.zip(product.chunks_mut(ROWS * n_cols)) {
                let rows = std::array::from_fn(|row| &rows[row * self.pairs_of_row..][..self.pairs_of_row]);
                let sums = sums(self.pairing, rows, panel);
                for (out, sums) in out.chunks_exact_mut(n_cols).zip(&sums) {
                    out[first..first + count].copy_from_slice(&sums[..count]);
                }
            }
        }
        y.copy(Matrix::new(product, self.n_rows, n_cols, n_cols))
    }
}

#[cfg(target_arch = "x86_64")]
fn is_there() -> bool {
    std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_there() -> bool {
    false
}

/// Puts some columns of a weight in order, pair by pair, each from all columns; zeros are where there are none.
fn order(pairing: Pairing, weight: &Narrow, (start, count): (usize, usize), panel: &mut [[Pair; COLUMNS]]) {
    if weight.is_transposed() {
        // Each column is a row of what is stored.
        let columns: [&[u16]; COLUMNS] =
            std::array::from_fn(
                |column| {
                    if column < count { weight.stored_row(start + column) } else { &[] }
                },
            );
        for (group, panel) in panel.chunks_mut(LANES).enumerate() {
            turn(pairing, &columns.map(|column| column.get(2 * LANES * group..).unwrap_or_default()), panel);
        }
        return;
    }
    for (pair, place) in panel.iter_mut().enumerate() {
        let row = |row: usize| {
            if row < weight.stored_rows() { &weight.stored_row(row)[start..start + count] } else { &[] }
        };
        interleave(place, row(2 * pair), row(2 * pair + 1));
    }
}

/// Of each column the first pairs, as many as there are places.
fn turn(pairing: Pairing, columns: &[&[u16]; COLUMNS], places: &mut [[Pair; COLUMNS]]) {
    let whole = columns.map(|column| column.as_chunks::<2>().0.first_chunk::<LANES>());
    if let (Ok(places), true) = (<&mut [_; LANES]>::try_from(&mut *places), whole.iter().all(Option::is_some))
    {
        for half in [0, LANES] {
            let columns = std::array::from_fn(|lane| whole[half + lane].unwrap_or(&[[0; 2]; LANES]));
            for (place, pairs) in places.iter_mut().zip(turned(pairing, columns)) {
                place[half..half + LANES].copy_from_slice(&pairs);
            }
        }
        return;
    }
    for (column, values) in columns.iter().enumerate() {
        let (pairs, rest) = values.as_chunks::<2>();
        let last = rest.first().map(|&value| [value, 0]);
        let mut pairs = pairs.iter().copied().chain(last);
        for place in &mut *places {
            place[column] = pairs.next().unwrap_or_default();
        }
    }
}

/// Columns as rows.
fn turned(_: Pairing, columns: [&[Pair; LANES]; LANES]) -> [[Pair; LANES]; LANES] {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the instructions are not on every processor")]
    // SAFETY: the first argument says that this one has them.
    return unsafe { turned_in_registers(columns) };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = columns;
        unreachable!("no other processor is found to have the instructions")
    }
}

/// The products of some rows with all columns of a panel.
fn sums(_: Pairing, rows: [&[Pair]; ROWS], panel: &[[Pair; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the instruction is not on every processor")]
    // SAFETY: the first argument says that this one has it.
    return unsafe { sums_in_registers(rows, panel) };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (rows, panel);
        unreachable!("no other processor is found to have the instruction")
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[expect(unsafe_code, reason = "registers are loaded from slices and stored to arrays")]
fn sums_in_registers(rows: [&[Pair]; ROWS], panel: &[[Pair; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    };
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (at, columns) in panel.iter().enumerate() {
        let (first, second) = columns.split_at(LANES);
        let columns = [first, second].map(|columns| {
            // SAFETY: sixteen pairs are as long as a register, and every value is one of pairs of bf16.
            unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(columns.as_ptr().cast())) }
        });
        for (row, sums) in rows.iter().zip(&mut sums) {
            let [low, high] = row[at];
            let both = _mm512_set1_epi32((u32::from(high) << 16 | u32::from(low)) as i32);
            // SAFETY: as above.
            let both = unsafe { std::mem::transmute::<__m512i, __m512bh>(both) };
            sums[0] = _mm512_dpbf16_ps(sums[0], both, columns[0]);
            sums[1] = _mm512_dpbf16_ps(sums[1], both, columns[1]);
        }
    }
    // SAFETY: two registers are as long as a row of sums, and every value is one.
    unsafe { std::mem::transmute::<[[__m512; 2]; ROWS], [[f32; COLUMNS]; ROWS]>(sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "registers are loaded from slices and stored to arrays")]
fn turned_in_registers(columns: [&[Pair; LANES]; LANES]) -> [[Pair; LANES]; LANES] {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    // SAFETY: sixteen pairs are as long as a register.
    let columns = columns.map(|column| unsafe { _mm512_loadu_si512(column.as_ptr().cast()) });
    // In each quarter of a register: two columns by turns, then four, of two pairs each.
    let fours: [[__m512i; 4]; 4] = std::array::from_fn(|four| {
        let [a, b, c, d] = std::array::from_fn(|column| columns[4 * four + column]);
        let [ab, cd] =
            [[a, b], [c, d]].map(|[x, y]| [_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y)]);
        let [low, high] =
            [0, 1].map(|i| [_mm512_unpacklo_epi64(ab[i], cd[i]), _mm512_unpackhi_epi64(ab[i], cd[i])]);
        [low[0], low[1], high[0], high[1]]
    });
    // The quarters of one place in all fours together.
    let mut rows = [columns[0]; LANES];
    for place in 0..4 {
        let [a, b, c, d] = fours.map(|four| four[place]);
        let [even, odd] = [
            [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)],
            [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)],
        ];
        rows[place] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        rows[place + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        rows[place + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        rows[place + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    // SAFETY: a register is as long as sixteen pairs, and every value is one of them.
    unsafe { std::mem::transmute::<[__m512i; LANES], [[Pair; LANES]; LANES]>(rows) }
}

vectorized! {
    /// A pair of each two values that stand at one place; where one of the lists has ended, a zero in its stead.
    fn interleave(out: &mut [Pair; COLUMNS], upper: &[u16], lower: &[u16]) {
        if let (Ok(upper), Ok(lower)) = (<&[u16; COLUMNS]>::try_from(upper), <&[u16; COLUMNS]>::try_from(lower)) {
            for (out, (&upper, &lower)) in out.iter_mut().zip(upper.iter().zip(lower)) {
                *out = [upper, lower];
            }
            return;
        }
        for (at, out) in out.iter_mut().enumerate() {
            *out = [upper, lower].map(|values| values.get(at).copied().unwrap_or(0));
        }
    }

    /// The nearest bf16 of each value, ties to even; what is no number stays none.
    fn round(out: &mut [u16], values: &[f32]) {
        const NO_NUMBER: u16 = 0x7fc0;
        for (out, value) in out.iter_mut().zip(values) {
            let bits = value.to_bits();
            let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
            *out = if value.is_nan() { NO_NUMBER } else { nearest };
        }
    }
}
