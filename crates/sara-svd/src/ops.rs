//! What the algorithms need of a backend, and how a wrapped backend reaches the one that computes.

#[cfg(feature = "flex")]
mod flat;
#[cfg(feature = "flex")]
mod flex;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{
    DType, Device, IndexingUpdateOp, Int, Shape, Tensor, TensorData, TensorMetadata, try_read_sync,
};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use faer::MatRef;
use rayon::prelude::*;

pub(crate) use sara_ops::{primitive, tensor};

use crate::host::{Sample, Scaled, blocks, row_major};
use crate::{Error, Place};

/// A backend whose tensors can be decomposed.
///
/// The work is done on [`SvdOps::Engine`]: the backend itself, or the one that it wraps. Going there gives up
/// gradients and fusion, coming back makes constants.
pub trait SvdOps: Backend {
    /// The backend that computes.
    type Engine: Engine<Device = Self::Device>;

    /// The same tensor on the engine.
    fn enter(a: FloatTensor<Self>) -> FloatTensor<Self::Engine>;

    /// The same tensor on this backend.
    fn leave(a: FloatTensor<Self::Engine>) -> FloatTensor<Self>;
}

/// The building blocks of the algorithms, beside burn's own tensor operations.
///
/// Each has a body that computes on the host in f64, so that an empty `impl Engine for MyBackend {}` is
/// enough. A backend with kernels overrides all of them and says so by [`Engine::place`].
///
/// A set of vectors is stored as the rows of a matrix throughout, since rows are contiguous.
pub trait Engine: Backend {
    /// Where the blocks run. [`crate::Way::Auto`] uses the Gram matrix in f64 on the host, and Jacobi
    /// rotations on a device.
    fn place() -> Place {
        Place::Host
    }

    /// Does the work of one call, wherever the backend works best from.
    fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        work()
    }

    /// Largest modulus of the entries of `a`, of any shape; not finite where an entry is not, 0 where there
    /// is none.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn largest(a: FloatTensor<Self>) -> Result<f64, Error> {
        largest::<Self>(a)
    }

    /// Largest modulus of the entries of `a`, as [`Engine::largest`] gives it, and the sum of their squares.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn norms(a: FloatTensor<Self>) -> Result<(f64, f64), Error> {
        two_norms::<Self>(a)
    }

    /// The product `a b` of two matrices or stacks of matrices, rounded as their element type and no coarser.
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(a, b)
    }

    /// The Gram matrix `a^T a` of the columns of `a`, a matrix.
    fn gram(a: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::product(Self::float_transpose(a.clone()), a)
    }

    /// `x a^T` and `x a^T a` for a few rows `x` and a large matrix `a`.
    fn there_and_back(x: FloatTensor<Self>, a: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        two_products::<Self>(x, a)
    }

    /// Rotations that make the rows of each set of `rows [p, d, n]` more orthogonal to each other in their first `width`
    /// entries, `d` a power of two from 4 to 32: `j [p, d, d]` orthogonal, so that the Gram matrix of `j^T rows` is nearly diagonal and
    /// descending; and the largest of `found [p, 3]` and what was found now: the largest cosine between two rows, the
    /// same between rows with squared norms above the set's own of `floors [p]`, the largest squared norm.
    ///
    /// Cosines up to `tolerance` are left alone.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn rotations(
        rows: FloatTensor<Self>,
        width: usize,
        floors: FloatTensor<Self>,
        found: FloatTensor<Self>,
        tolerance: f64,
    ) -> Result<(FloatTensor<Self>, FloatTensor<Self>), Error> {
        let (device, dtype) = (Self::float_device(&rows), rows.dtype());
        let rows = tensor::<Self, 3>(rows).narrow(2, 0, width);
        let [p, d, _] = rows.dims();
        let gram = Self::product(primitive(rows.clone()), primitive(rows.swap_dims(1, 2)));
        let (mut gram, floors, before) = (read::<Self>(gram)?, read::<Self>(floors)?, read::<Self>(found)?);
        let (j, mut found) = blocks::rotations(&mut gram, d, &floors, tolerance);
        found.iter_mut().zip(before).for_each(|(found, before)| *found = found.max(before));
        Ok((push::<Self>(j, [p, d, d], dtype, &device), push::<Self>(found, [p, 3], dtype, &device)))
    }

    /// `rotations^T rows` for `rotations [p, d, d]` and `rows [p, d, n]`, as `[p d, n]`, with block `i` of `d / 2` rows in
    /// the place `places[i]`.
    ///
    /// # Safety
    /// `places [2 p]` must be a permutation of `0..2 p`: a device writes where it says.
    #[expect(unsafe_code, reason = "a wrong place is a write out of bounds")]
    unsafe fn turn(
        rotations: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        places: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = rows.shape();
        let (p, d, n) = (shape[0], shape[1], shape[2]);
        let rotations = primitive(tensor::<Self, 3>(rotations).swap_dims(1, 2));
        let turned = tensor::<Self, 3>(Self::product(rotations, rows)).reshape([2 * p, d / 2, n]);
        let places = Tensor::<Self, 1, Int>::from_primitive(places);
        let nothing = turned.zeros_like();
        primitive(nothing.select_assign(0, places, turned, IndexingUpdateOp::Add).reshape([p * d, n]))
    }

    /// The inverse of the Cholesky factor of the Gram matrix `[l, l]` with `shift` of each diagonal entry added to it,
    /// lower triangular; and `[1]`, the squared norm of that inverse for rows of length one: how many times larger
    /// errors of the Gram matrix are after it. Neither is finite where the matrix is not positive definite. `l` is at
    /// most [`PANEL`].
    ///
    /// # Errors
    /// [`Error::Read`].
    fn cholesky_inverse(
        gram: FloatTensor<Self>,
        shift: f64,
    ) -> Result<(FloatTensor<Self>, FloatTensor<Self>), Error> {
        let (device, dtype, l) = (Self::float_device(&gram), gram.dtype(), gram.shape()[0]);
        let gram = read::<Self>(gram)?;
        let inverse = blocks::cholesky_inverse(&gram, l, shift);
        let growth = blocks::growth(&inverse, &gram, l);
        Ok((push::<Self>(inverse, [l, l], dtype, &device), push::<Self>(vec![growth], [1], dtype, &device)))
    }

    /// Orthonormal rows with the span of the rows of `x [l, n]`, `l <= n`, one by one and therefore for every
    /// `x`: rows that depend on the ones above them are replaced by those of a sketch with this seed.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn gram_schmidt(x: FloatTensor<Self>, seed: u32) -> Result<FloatTensor<Self>, Error> {
        let (device, dtype, shape) = (Self::float_device(&x), x.dtype(), x.shape());
        let (l, n) = (shape[0], shape[1]);
        let mut rows = read::<Self>(x)?;
        blocks::gram_schmidt(&mut rows, l, n, seed);
        Ok(push::<Self>(rows, [l, n], dtype, &device))
    }

    /// Random numbers between -1 and 1, the same on every backend: entry `(i, j)` is a hash of `i`, `j` and
    /// the seed.
    fn sketch(shape: [usize; 2], seed: u32, dtype: DType, device: &Device<Self>) -> FloatTensor<Self> {
        push::<Self>(blocks::sketch(shape, seed), shape, dtype, device)
    }
}

/// Largest number of rows that [`Engine::cholesky_inverse`] is asked for: its triangle fits into 16 KiB of
/// workgroup memory.
pub const PANEL: usize = 64;

#[cfg(feature = "ndarray")]
impl<E, I, Q> Engine for burn_ndarray::NdArray<E, I, Q>
where
    Self: Backend,
    burn_ndarray::NdArrayTensor: From<burn_ndarray::SharedArray<E>> + From<burn_ndarray::SharedArray<I>>,
{
}

#[cfg(feature = "ndarray")]
impl<E, I, Q> SvdOps for burn_ndarray::NdArray<E, I, Q>
where
    Self: Backend,
    burn_ndarray::NdArrayTensor: From<burn_ndarray::SharedArray<E>> + From<burn_ndarray::SharedArray<I>>,
{
    type Engine = Self;

    fn enter(a: FloatTensor<Self>) -> FloatTensor<Self> {
        a
    }

    fn leave(a: FloatTensor<Self>) -> FloatTensor<Self> {
        a
    }
}

/// Works on the inner tensor: the results are constants to the graph.
impl<B: SvdOps, C: CheckpointStrategy> SvdOps for Autodiff<B, C> {
    type Engine = B::Engine;

    fn enter(a: FloatTensor<Self>) -> FloatTensor<Self::Engine> {
        B::enter(Self::inner(a))
    }

    fn leave(a: FloatTensor<Self::Engine>) -> FloatTensor<Self> {
        Self::from_inner(B::leave(a))
    }
}

/// A tensor of `B` as one of its engine.
pub(crate) fn enter<B: SvdOps, const D: usize>(a: Tensor<B, D>) -> Tensor<B::Engine, D> {
    tensor(B::enter(a.into_primitive().tensor()))
}

/// A tensor of the engine as one of `B`.
pub(crate) fn leave<B: SvdOps, const D: usize>(a: Tensor<B::Engine, D>) -> Tensor<B, D> {
    tensor(B::leave(a.into_primitive().tensor()))
}

/// `a b`, see [`Engine::product`].
pub(crate) fn product<E: Engine, const D: usize>(a: Tensor<E, D>, b: Tensor<E, D>) -> Tensor<E, D> {
    count_operations(a.shape().num_elements(), b.dims()[D - 1]);
    tensor(E::product(primitive(a), primitive(b)))
}

/// `a^T a`, see [`Engine::gram`].
pub(crate) fn gram<E: Engine>(a: Tensor<E, 2>) -> Tensor<E, 2> {
    // Half of them, since it is symmetric.
    count_operations(a.shape().num_elements(), a.dims()[1].div_ceil(2));
    tensor(E::gram(primitive(a)))
}

/// `x a^T` and `x a^T a`, see [`Engine::there_and_back`].
pub(crate) fn there_and_back<E: Engine>(x: Tensor<E, 2>, a: Tensor<E, 2>) -> (Tensor<E, 2>, Tensor<E, 2>) {
    count_operations(2 * x.shape().num_elements(), a.dims()[0]);
    let (there, back) = E::there_and_back(primitive(x), primitive(a));
    (tensor(there), tensor(back))
}

/// See [`Engine::rotations`].
pub(crate) fn rotations<E: Engine>(
    rows: Tensor<E, 3>,
    width: usize,
    floors: Tensor<E, 1>,
    found: Tensor<E, 2>,
    tolerance: f64,
) -> Result<(Tensor<E, 3>, Tensor<E, 2>), Error> {
    let [p, d, _] = rows.dims();
    count_operations(p * d * d, width);
    let (floors, found) = (primitive(floors), primitive(found));
    let (rotations, found) = E::rotations(primitive(rows), width, floors, found, tolerance)?;
    Ok((tensor(rotations), tensor(found)))
}

/// Where blocks go: a permutation of their places, on the device.
#[derive(Debug, Clone)]
pub(crate) struct Places<E: Engine>(Tensor<E, 1, Int>);

impl<E: Engine> Places<E> {
    /// # Panics
    /// If it is no permutation.
    pub(crate) fn new(places: Vec<i64>, device: &Device<E>) -> Self {
        let mut sorted = places.clone();
        sorted.sort_unstable();
        assert!((0..).zip(&sorted).all(|(place, &found)| place == found), "each place is given once");
        let count = places.len();
        Self(Tensor::from_data(TensorData::new(places, [count]), device))
    }
}

/// See [`Engine::turn`].
///
/// # Panics
/// If there is not a place for each block.
pub(crate) fn turn<E: Engine>(
    rotations: Tensor<E, 3>,
    rows: Tensor<E, 3>,
    Places(places): Places<E>,
) -> Tensor<E, 2> {
    assert_eq!(places.dims(), [2 * rows.dims()[0]], "a place for each block");
    count_operations(rows.shape().num_elements(), rows.dims()[1]);
    #[expect(unsafe_code, reason = "see there")]
    // SAFETY: `Places` holds nothing but permutations, and this one has as many places as there are blocks.
    unsafe {
        tensor(E::turn(primitive(rotations), primitive(rows), places.into_primitive()))
    }
}

/// The entries of a small tensor, on the host.
pub(crate) fn entries<E: Engine, const D: usize>(a: Tensor<E, D>) -> Result<Vec<f64>, Error> {
    read::<E>(primitive(a))
}

/// The matrix on the host, checked and scaled.
pub(crate) fn scaled<E: Engine>(a: Tensor<E, 2>) -> Result<Scaled, Error> {
    let [m, n] = a.dims();
    let precision = if a.dtype() == DType::F64 { f64::PRECISION } else { f32::PRECISION };
    // Nothing to read, and not every device hands out an empty buffer.
    let values = if m * n == 0 { Vec::new() } else { entries(a)? };
    Scaled::new(values, m, n, precision)
}

fn two_products<E: Engine>(x: FloatTensor<E>, a: FloatTensor<E>) -> (FloatTensor<E>, FloatTensor<E>) {
    let there = E::product(x, E::float_transpose(a.clone()));
    (there.clone(), E::product(there, a))
}

fn two_norms<E: Engine>(a: FloatTensor<E>) -> Result<(f64, f64), Error> {
    let squares = blocks::squared_norm(&read::<E>(a.clone())?);
    Ok((E::largest(a)?, squares))
}

fn largest<B: Backend>(a: FloatTensor<B>) -> Result<f64, Error> {
    let data = read_data::<B>(a)?;
    if let Ok(values) = data.as_slice::<f32>() {
        return Ok(f64::from(blocks::largest(values)));
    }
    // What is not a number stays.
    let larger = |x: f64, y: f64| if y.abs() <= x || x.is_nan() { x } else { y.abs() };
    Ok(data.iter::<f64>().fold(0.0, larger))
}

static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations that this process has asked engines to do in products, two for each multiplication; for
/// measurements.
pub fn operations() -> u64 {
    OPERATIONS.load(Ordering::Relaxed)
}

/// Counts a multiplication and an addition for each of so many numbers, so many times.
fn count_operations(numbers: usize, times: usize) {
    OPERATIONS.fetch_add(2 * numbers as u64 * times as u64, Ordering::Relaxed);
}

thread_local! {
    static BYTES_READ: Cell<usize> = const { Cell::new(0) };
}

/// Counts what the host reads for a result.
pub(crate) fn count_read(bytes: usize) {
    BYTES_READ.set(BYTES_READ.get() + bytes);
}

/// What the host has read on this thread since it was asked last, in bytes.
pub(crate) fn take_bytes_read() -> usize {
    BYTES_READ.take()
}

pub(crate) fn read<B: Backend>(a: FloatTensor<B>) -> Result<Vec<f64>, Error> {
    let data = read_data::<B>(a)?;
    Ok(match data.as_slice::<f32>() {
        Ok(values) => values.par_iter().with_min_len(PARALLEL).map(|&x| f64::from(x)).collect(),
        Err(_) => data.iter::<f64>().collect(),
    })
}

/// Numbers that are worth a thread.
const PARALLEL: usize = 1 << 14;

/// Numbers of the host as the data of a tensor.
fn rounded(values: Vec<f64>, shape: impl Into<Shape>, dtype: DType) -> TensorData {
    if dtype == DType::F32 {
        let values: Vec<f32> = values.par_iter().with_min_len(PARALLEL).map(|&x| x as f32).collect();
        TensorData::new(values, shape)
    } else {
        TensorData::new(values, shape).convert_dtype(dtype)
    }
}

/// A matrix of the host as the data of a tensor.
pub(crate) fn matrix_data(a: MatRef<'_, f64>, dtype: DType) -> TensorData {
    let shape = [a.nrows(), a.ncols()];
    if dtype == DType::F32 {
        TensorData::new(row_major(a, |x| x as f32), shape)
    } else {
        TensorData::new(row_major(a, |x| x), shape).convert_dtype(dtype)
    }
}

fn read_data<B: Backend>(a: FloatTensor<B>) -> Result<TensorData, Error> {
    match try_read_sync(B::float_into_data(a)) {
        Some(Ok(data)) => {
            count_read(data.bytes.len());
            Ok(data)
        }
        Some(Err(error)) => Err(Error::Read { reason: error.to_string().replace('\n', " ") }),
        None => Err(Error::Read { reason: "it can only be awaited".into() }),
    }
}

fn push<B: Backend>(
    values: Vec<f64>,
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device<B>,
) -> FloatTensor<B> {
    B::float_from_data(rounded(values, shape, dtype), device)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Tensor;
    use burn_flex::{Flex, FlexDevice};

    use super::{Places, turn};

    #[test]
    fn only_permutations_are_places() {
        let refused = |places: &[i64]| {
            let places = places.to_vec();
            std::panic::catch_unwind(|| Places::<Flex>::new(places, &FlexDevice)).is_err()
        };
        assert!(!refused(&[2, 0, 3, 1]) && !refused(&[]));
        for wrong in [&[0, 0][..], &[1, 2], &[0, 2], &[-1, 0], &[0, 1, 1, 3], &[i64::MAX, 0]] {
            assert!(refused(wrong), "{wrong:?}");
        }
    }

    #[test]
    #[should_panic(expected = "a place for each block")]
    fn there_is_a_place_for_each_block() {
        let places = Places::<Flex>::new(vec![1, 0], &FlexDevice);
        let rotations = Tensor::zeros([2, 4, 4], &FlexDevice);
        turn(rotations, Tensor::zeros([2, 4, 3], &FlexDevice), places);
    }
}
