//! What every algorithm on the engine starts from: a finite matrix of moderate size in f32 or f64.

use burn::tensor::{DType, Tensor, TensorData};

use crate::host::{exponent, times_power_of_two};
use crate::ops::{Engine, entries, primitive};
use crate::{Error, Precision};

/// Powers of two that an entry may be away from one: squares of entries 2^-40 times the largest are still
/// normal numbers of f32, and sums of squares far from its end.
const COMFORTABLE: i32 = 20;

/// Below this, a device may take entries for zero.
const NORMAL: f64 = 1e-36;

/// A checked matrix in f32 or f64, times a power of two where it needs one.
pub(crate) struct Prepared<E: Engine> {
    /// `[m, n]`
    pub(crate) a: Tensor<E, 2>,
    /// Power of two that its largest entry is near.
    pub(crate) size: i32,
    exponent: i32,
    dtype: DType,
}

impl<E: Engine> Prepared<E> {
    pub(crate) fn new(a: Tensor<E, 2>) -> Result<Self, Error> {
        let dtype = a.dtype();
        let a = calculable(a)?;
        let largest = E::largest(primitive(a.clone()))?;
        Self::scaled(a, largest, dtype)
    }

    /// With the sum of the squares of the scaled entries.
    pub(crate) fn with_squares(a: Tensor<E, 2>) -> Result<(Self, f64), Error> {
        let dtype = a.dtype();
        let a = calculable(a)?;
        let (largest, mut squares) = E::norms(primitive(a.clone()))?;
        let scaled = Self::scaled(a, largest, dtype)?;
        if scaled.exponent != 0 {
            (_, squares) = E::norms(primitive(scaled.a.clone()))?;
        }
        Ok((scaled, squares))
    }

    fn scaled(a: Tensor<E, 2>, largest: f64, dtype: DType) -> Result<Self, Error> {
        if !largest.is_finite() {
            return Err(non_finite(a));
        }
        let exponent = exponent(largest);
        if exponent.abs() <= COMFORTABLE {
            return Ok(Self { a, size: exponent, exponent: 0, dtype });
        }
        let a = if largest < NORMAL {
            times_on_host(a, -exponent)?
        } else {
            a.mul_scalar(times_power_of_two(1.0, -exponent / 2))
                .mul_scalar(times_power_of_two(1.0, -exponent + exponent / 2))
        };
        Ok(Self { a, size: 0, exponent, dtype })
    }

    pub(crate) fn precision(&self) -> Precision {
        if self.a.dtype() == DType::F64 { Precision::F64 } else { Precision::F32 }
    }

    /// `x` as if the matrix had not been scaled.
    pub(crate) fn unscale(&self, x: f64) -> f64 {
        times_power_of_two(x, self.exponent)
    }

    /// Singular values as if the matrix had not been scaled, in its element type.
    pub(crate) fn unscale_values(&self, s: Tensor<E, 1>) -> Result<Tensor<E, 1>, Error> {
        let half = self.exponent / 2;
        let s = if self.exponent == 0 {
            s
        } else if self.unscale(1.0) < NORMAL {
            times_on_host(s, self.exponent)?
        } else {
            s.mul_scalar(times_power_of_two(1.0, half))
                .mul_scalar(times_power_of_two(1.0, self.exponent - half))
        };
        let s = s.cast(self.dtype);
        if s.dims()[0] > 0 && !E::largest(primitive(s.clone().cast(self.a.dtype())))?.is_finite() {
            return Err(Error::Overflow { dtype: self.dtype.name() });
        }
        Ok(s)
    }

    /// Bound of the errors of the values that [`Self::unscale_values`] gave, from that of the values before.
    pub(crate) fn unscale_bound(&self, bound: f64, s: &Tensor<E, 1>) -> Result<f64, Error> {
        let bound = self.unscale(bound);
        if self.dtype == self.a.dtype() || s.dims()[0] == 0 {
            return Ok(bound);
        }
        let largest = entries(s.clone().narrow(0, 0, 1))?[0];
        Ok(bound + rounding(largest, self.dtype))
    }

    /// Vectors in the element type of the matrix.
    pub(crate) fn restore(&self, vectors: Tensor<E, 2>) -> Tensor<E, 2> {
        vectors.cast(self.dtype)
    }
}

/// The same numbers in a type that the engine computes in.
fn calculable<E: Engine>(a: Tensor<E, 2>) -> Result<Tensor<E, 2>, Error> {
    match a.dtype() {
        DType::F32 | DType::F64 => Ok(a),
        DType::Flex32 | DType::F16 | DType::BF16 => Ok(a.cast(DType::F32)),
        other => Err(Error::Dtype { dtype: other.name() }),
    }
}

/// `x` times a power of two, exact whatever the device does to denormal numbers.
fn times_on_host<E: Engine, const D: usize>(x: Tensor<E, D>, exponent: i32) -> Result<Tensor<E, D>, Error> {
    let (device, dtype, shape) = (x.device(), x.dtype(), x.dims());
    let values: Vec<f64> = entries(x)?.into_iter().map(|x| times_power_of_two(x, exponent)).collect();
    Ok(Tensor::from_data(TensorData::new(values, shape), (&device, dtype)))
}

/// What rounding to an element type does to a value of this size.
pub(crate) fn rounding(value: f64, dtype: DType) -> f64 {
    let unit = match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2_f64.powi(-10),
        DType::BF16 => 2_f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    };
    (value * unit).max(f64::from(f32::from_bits(1)))
}

pub(crate) fn epsilon<E: Engine, const D: usize>(a: &Tensor<E, D>) -> f64 {
    if a.dtype() == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

/// Finds the entry that is not finite, for the message.
fn non_finite<E: Engine>(a: Tensor<E, 2>) -> Error {
    let [_, n] = a.dims();
    match entries(a) {
        Ok(values) => match values.iter().position(|x| !x.is_finite()) {
            Some(index) => Error::NonFinite { row: index / n, column: index % n, value: values[index] },
            None => Error::Read { reason: "it holds a NaN on the device and none on the host".into() },
        },
        Err(error) => error,
    }
}
