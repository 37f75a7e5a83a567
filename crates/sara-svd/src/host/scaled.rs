use faer::MatRef;
use rayon::prelude::*;

use super::blocks::{squared_norm, wide};
use crate::Error;

/// `2^-300`: entries below this share of the largest count as zero.
///
/// Where products of such entries underflow, faer returns zeros in the middle of the spectrum. All of f32
/// spans 277 powers of two, so only f64 input can hold any, and no singular value moves by a rounding error.
const NEGLIGIBLE: f64 = f64::from_bits((1023 - 300) << MANTISSA_BITS);

/// Numbers that are worth a task of their own.
const PIECE: usize = 1 << 15;

/// A checked matrix, times the power of two that brings its largest modulus into `1..2`.
///
/// Scaling by a power of two is exact, and keeps every solver away from underflow and overflow.
pub(crate) struct Scaled {
    values: Vec<f64>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    exponent: i32,
    /// Significant bits of the input.
    pub(super) precision: u32,
}

impl Scaled {
    pub(crate) fn new(
        mut values: Vec<f64>,
        rows: usize,
        columns: usize,
        precision: u32,
    ) -> Result<Self, Error> {
        if rows.checked_mul(columns) != Some(values.len()) {
            return Err(Error::Shape { rows, columns, values: values.len() });
        }
        let moduli = |piece: &[f64]| {
            wide(|| {
                let largest = |(largest, finite): (f64, bool), x: &f64| {
                    (if x.abs() > largest { x.abs() } else { largest }, finite & x.is_finite())
                };
                piece.iter().fold((0.0, true), largest)
            })
        };
        let (largest, finite) =
            values.par_chunks(PIECE).map(moduli).reduce(|| (0.0, true), |x, y| (x.0.max(y.0), x.1 & y.1));
        if !finite && let Some(index) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite {
                row: index / columns,
                column: index % columns,
                value: values[index],
            });
        }
        let exponent = exponent(largest);
        values.par_chunks_mut(PIECE).for_each(|piece| {
            wide(|| {
                for value in piece {
                    let scaled = times_power_of_two(*value, -exponent);
                    *value = if scaled.abs() < NEGLIGIBLE { 0.0 } else { scaled };
                }
            });
        });
        Ok(Self { values, rows, columns, exponent, precision })
    }

    /// `min(m, n)`.
    pub(super) fn rank_limit(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// Whether the tall matrix is the transposed one: a square one is, since its columns are then contiguous.
    pub(super) fn is_transposed(&self) -> bool {
        self.rows <= self.columns
    }

    /// The scaled matrix, transposed where that makes it tall.
    pub(super) fn tall(&self) -> MatRef<'_, f64> {
        let a = MatRef::from_row_major_slice(&self.values, self.rows, self.columns);
        if self.is_transposed() { a.transpose() } else { a }
    }

    /// Sum of squares.
    pub(super) fn squared_norm(&self) -> f64 {
        squared_norm(&self.values)
    }

    /// Undoes the scaling of singular values.
    pub(super) fn unscale(&self, mut s: Vec<f64>) -> Result<Vec<f64>, Error> {
        for value in &mut s {
            *value = times_power_of_two(*value, self.exponent);
        }
        if s.iter().all(|value| value.is_finite()) { Ok(s) } else { Err(Error::Overflow { dtype: "f64" }) }
    }
}

const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const EXPONENT_BIAS: i32 = f64::MAX_EXP - 1;

/// `e` with `2^e <= x < 2^(e + 1)`, read from the bits, since a logarithm may round across the boundary.
pub(crate) fn exponent(x: f64) -> i32 {
    if x == 0.0 {
        0
    } else if x < f64::MIN_POSITIVE {
        // Denormal: one multiplication makes it normal.
        exponent(x * power_of_two(MANTISSA_BITS as i32)) - MANTISSA_BITS as i32
    } else {
        (x.to_bits() >> MANTISSA_BITS) as i32 - EXPONENT_BIAS
    }
}

/// `x * 2^e` in two steps, since `2^e` itself may be out of range.
pub(crate) fn times_power_of_two(x: f64, e: i32) -> f64 {
    x * power_of_two(e / 2) * power_of_two(e - e / 2)
}

fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e + EXPONENT_BIAS) as u64) << MANTISSA_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_exact_at_the_boundaries() {
        for e in [-1074, -1023, -1022, -149, -1, 0, 1, 127, 1023] {
            let x = times_power_of_two(1.0, e);
            assert_eq!(exponent(x), e);
            assert_eq!(times_power_of_two(x, -e).to_bits(), 1.0_f64.to_bits(), "2^{e} scales back to one");
        }
        assert_eq!(exponent(1.0_f64.next_down()), -1);
        assert_eq!(exponent(f64::MAX), 1023);
    }
}
