//! Sets of vectors, as the rows of a matrix.

use burn::tensor::Tensor;

use crate::ops::{Engine, product};

/// `[l]`, from `[l, n]`.
pub(crate) fn row_norms<E: Engine>(rows: &Tensor<E, 2>) -> Tensor<E, 1> {
    (rows.clone() * rows.clone()).sum_dim(1).sqrt().squeeze_dim::<1>(1)
}

/// `x x^T - 1`
pub(crate) fn off_identity<E: Engine>(x: &Tensor<E, 2>) -> Tensor<E, 2> {
    product(x.clone(), x.clone().transpose()) - identity(x.dims()[0], x)
}

/// The identity, of the element type and on the device of `like`.
pub(crate) fn identity<E: Engine>(n: usize, like: &Tensor<E, 2>) -> Tensor<E, 2> {
    Tensor::<E, 2>::eye(n, &like.device()).cast(like.dtype())
}

/// Sum of the squares of all entries, `[1]`.
pub(crate) fn squares<E: Engine>(x: Tensor<E, 2>) -> Tensor<E, 1> {
    (x.clone() * x).sum_dim(1).sum_dim(0).squeeze_dim::<1>(1)
}

/// Makes the entry of largest modulus in each row of `u` positive, and turns `v` along.
pub(crate) fn fix_signs<E: Engine>(u: Tensor<E, 2>, v: Tensor<E, 2>) -> (Tensor<E, 2>, Tensor<E, 2>) {
    let negative = u.clone().min_dim(1).neg().greater(u.clone().max_dim(1));
    let sign = negative.float().cast(u.dtype()) * -2.0 + 1.0;
    (u * sign.clone(), v * sign)
}
