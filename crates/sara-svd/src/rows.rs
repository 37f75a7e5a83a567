//! Sets of vectors, as the rows of a matrix.

use burn::tensor::{DType, Tensor, TensorData};

use crate::host::TIE;
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

/// Makes the first entry of largest modulus in each row of `u` positive, where [`TIE`] tells none apart, and turns `v`
/// along.
pub(crate) fn fix_signs<E: Engine>(u: Tensor<E, 2>, v: Tensor<E, 2>) -> (Tensor<E, 2>, Tensor<E, 2>) {
    let [rows, columns] = u.dims();
    if rows * columns == 0 {
        return (u, v);
    }
    let modulus = u.clone().abs();
    let is_largest =
        modulus.clone().greater_equal((modulus.max_dim(1) * (1.0 - TIE)).expand([rows, columns]));
    // The further to the left, the more: exact below 2^24 columns.
    let left: Vec<f32> = (0..columns).map(|column| (columns - column) as f32).collect();
    let left = Tensor::<E, 1>::from_data(TensorData::new(left, [columns]), (&u.device(), DType::F32));
    let place = is_largest.float().cast(DType::F32) * left.unsqueeze();
    let is_first = place.clone().equal(place.max_dim(1).expand([rows, columns]));
    let first = (u.clone() * is_first.float().cast(u.dtype())).sum_dim(1);
    let sign = first.lower_elem(0.0).float().cast(u.dtype()) * -2.0 + 1.0;
    (u * sign.clone(), v * sign)
}
