//! The extension trait: what a backend may compute on its own device.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, TensorData, TensorMetadata, try_read_sync};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};

use crate::Error;
use crate::host::{Factors, Sample, Scaled};

/// `u [m, k]`, `s [k]` and `vt [k, n]` of a thin decomposition.
pub type SvdPrimitives<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

/// A backend on which singular values can be computed.
///
/// The default bodies read the matrix, compute on the host in f64 and push the result back, so that an empty
/// `impl SvdOps for MyBackend {}` is enough. A backend with kernels of its own overrides what they serve.
/// Every method takes a primitive of shape `[m, n]` and fails as a value.
pub trait SvdOps: Backend {
    /// Thin decomposition: `u [m, k]`, `s [k]`, `vt [k, n]`, in the element type of `a`; see [`crate::svd()`].
    ///
    /// # Errors
    /// As [`crate::svd()`].
    fn svd(a: FloatTensor<Self>) -> Result<SvdPrimitives<Self>, Error> {
        let (device, dtype, [m, n]) = (Self::float_device(&a), a.dtype(), shape::<Self>(&a)?);
        let k = m.min(n);
        let Factors { u, s, vt } = scaled::<Self>(a)?.svd()?;
        let push = |data| Self::float_from_data(data, &device);
        Ok((
            push(TensorData::new(u, [m, k]).convert_dtype(dtype)),
            push(checked(s, dtype)?),
            push(TensorData::new(vt, [k, n]).convert_dtype(dtype)),
        ))
    }

    /// Singular values `[k]`, in the element type of `a`; see [`crate::singular_values`].
    ///
    /// # Errors
    /// As [`crate::singular_values`].
    fn singular_values(a: FloatTensor<Self>) -> Result<FloatTensor<Self>, Error> {
        let (device, dtype) = (Self::float_device(&a), a.dtype());
        let s = scaled::<Self>(a)?.singular_values()?;
        Ok(Self::float_from_data(checked(s, dtype)?, &device))
    }

    /// Singular values on the host in f64, which the rank rule decides from; see [`crate::spectrum_rank`].
    ///
    /// # Errors
    /// As [`crate::singular_values`].
    fn spectrum(a: FloatTensor<Self>) -> Result<Vec<f64>, Error> {
        scaled::<Self>(a)?.singular_values()
    }
}

#[cfg(feature = "flex")]
impl SvdOps for burn_flex::Flex {}

#[cfg(feature = "ndarray")]
impl<E, I, Q> SvdOps for burn_ndarray::NdArray<E, I, Q>
where
    Self: Backend,
    burn_ndarray::NdArrayTensor: From<burn_ndarray::SharedArray<E>> + From<burn_ndarray::SharedArray<I>>,
{
}

/// Works on the inner tensor: the results are constants to the graph.
impl<B: SvdOps, C: CheckpointStrategy> SvdOps for Autodiff<B, C> {
    fn svd(a: FloatTensor<Self>) -> Result<SvdPrimitives<Self>, Error> {
        let (u, s, vt) = B::svd(Self::inner(a))?;
        Ok((Self::from_inner(u), Self::from_inner(s), Self::from_inner(vt)))
    }

    fn singular_values(a: FloatTensor<Self>) -> Result<FloatTensor<Self>, Error> {
        B::singular_values(Self::inner(a)).map(Self::from_inner)
    }

    fn spectrum(a: FloatTensor<Self>) -> Result<Vec<f64>, Error> {
        B::spectrum(Self::inner(a))
    }
}

/// The matrix on the host, checked and scaled.
fn scaled<B: Backend>(a: FloatTensor<B>) -> Result<Scaled, Error> {
    let [m, n] = shape::<B>(&a)?;
    let precision = match a.dtype() {
        DType::F64 => f64::PRECISION,
        DType::F32 | DType::Flex32 | DType::F16 | DType::BF16 => f32::PRECISION,
        other => return Err(Error::Dtype { dtype: other.name() }),
    };
    // Nothing to read, and not every device hands out an empty buffer.
    if m * n == 0 {
        return Scaled::new(Vec::new(), m, n, precision);
    }
    let data = match try_read_sync(B::float_into_data(a)) {
        Some(Ok(data)) => data,
        Some(Err(error)) => {
            return Err(Error::Read { reason: error.to_string().replace('\n', " ") });
        }
        None => return Err(Error::Read { reason: "it can only be awaited".into() }),
    };
    Scaled::new(data.iter::<f64>().collect(), m, n, precision)
}

fn shape<B: Backend>(a: &FloatTensor<B>) -> Result<[usize; 2], Error> {
    let shape = a.shape();
    <[usize; 2]>::try_from(shape.to_vec()).map_err(|dims| Error::Shape {
        rows: dims.first().copied().unwrap_or(1),
        columns: dims.iter().skip(1).product(),
        values: dims.iter().product(),
    })
}

/// Singular values as tensor data, unless the element type cannot hold the largest.
fn checked(s: Vec<f64>, dtype: DType) -> Result<TensorData, Error> {
    let k = s.len();
    let data = TensorData::new(s, [k]).convert_dtype(dtype);
    let fits = data.iter::<f64>().all(f64::is_finite);
    if fits { Ok(data) } else { Err(Error::Overflow { dtype: dtype.name() }) }
}
