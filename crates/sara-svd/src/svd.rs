use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};

use crate::{Error, SvdOps};

/// A thin singular value decomposition `a = u diag(s) vt`, with `k = min(m, n)`.
///
/// The columns of `u` and the rows of `vt` are orthonormal for every input, whatever its rank, and the entry
/// of largest modulus in each column of `u` is positive.
#[derive(Debug, Clone)]
pub struct Svd<B: Backend> {
    /// Left singular vectors, `[m, k]`.
    pub u: Tensor<B, 2>,
    /// Singular values, `[k]`, descending.
    pub s: Tensor<B, 1>,
    /// Right singular vectors, `[k, n]`.
    pub vt: Tensor<B, 2>,
}

/// Decomposes `a` into its singular values and vectors.
///
/// The factors have the element type and the device of `a`, and carry no gradients.
///
/// # Shapes
/// - `a`: `[m, n]`
/// - returns `u [m, k]`, `s [k]`, `vt [k, n]`
///
/// # Errors
/// [`Error::NonFinite`], [`Error::NotConverged`], [`Error::Read`], and [`Error::Overflow`] where a singular
/// value is larger than the element type can hold.
pub fn svd<B: SvdOps>(a: Tensor<B, 2>) -> Result<Svd<B>, Error> {
    let (u, s, vt) = B::svd(primitive(a))?;
    Ok(Svd { u: tensor(u), s: tensor(s), vt: tensor(vt) })
}

/// Singular values of `a`, without the vectors.
///
/// They have the element type and the device of `a`, and carry no gradients.
///
/// # Shapes
/// - `a`: `[m, n]`
/// - returns `[min(m, n)]`, descending
///
/// # Errors
/// As [`svd`].
pub fn singular_values<B: SvdOps>(a: Tensor<B, 2>) -> Result<Tensor<B, 1>, Error> {
    B::singular_values(primitive(a)).map(tensor)
}

pub(crate) fn primitive<B: Backend>(a: Tensor<B, 2>) -> FloatTensor<B> {
    a.into_primitive().tensor()
}

fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
