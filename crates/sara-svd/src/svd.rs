use burn::tensor::backend::Backend;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::host::{Solver, Triplets};
use crate::jacobi::{self, Factors, Task};
use crate::ops::{Engine, enter, leave, matrix_data, product, scaled, take_bytes_read};
use crate::orthonormalize::orthonormalize;
use crate::prepare::{Prepared, rounding};
use crate::rows::fix_signs;
use crate::{Algorithm, Error, Place, Precision, Report, SvdOps, Way};

/// A thin singular value decomposition `a = u diag(s) vt`, with `k = min(m, n)` or as many as were asked for.
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
    /// How they were found and how good they are.
    pub report: Report,
}

impl<B: Backend> Svd<B> {
    /// The `k` largest singular values and their vectors; all where there are no more.
    pub fn truncate(self, k: usize) -> Self {
        let ([m, have], [_, n]) = (self.u.dims(), self.vt.dims());
        if k >= have {
            return self;
        }
        Self {
            u: self.u.slice([0..m, 0..k]),
            s: self.s.narrow(0, 0, k),
            vt: self.vt.slice([0..k, 0..n]),
            report: self.report,
        }
    }
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
/// [`Error::NonFinite`], [`Error::NotConverged`], [`Error::Read`], [`Error::Dtype`], and [`Error::Overflow`]
/// where a singular value is larger than the element type can hold.
pub fn svd<B: SvdOps>(a: Tensor<B, 2>) -> Result<Svd<B>, Error> {
    svd_by(a, Way::Auto)
}

/// [`svd`] by a method of one's choice.
///
/// # Errors
/// As [`svd`].
pub fn svd_by<B: SvdOps>(a: Tensor<B, 2>, method: Way) -> Result<Svd<B>, Error> {
    let a = enter::<B, 2>(a);
    B::Engine::run(|| counted(|| full(a, method))).map(outside)
}

/// Decomposes every matrix of a stack together; the results are those of [`svd_by`] on each, bit for bit.
///
/// # Shapes
/// - `a`: `[batch, m, n]`
///
/// # Errors
/// As [`svd`], for the first matrix that has one.
pub fn svd_batched<B: SvdOps>(a: Tensor<B, 3>, method: Way) -> Result<Vec<Svd<B>>, Error> {
    let [batch, m, n] = a.dims();
    let a = enter::<B, 3>(a);
    let all = B::Engine::run(|| {
        let matrices: Vec<Tensor<B::Engine, 2>> =
            (0..batch).map(|i| a.clone().narrow(0, i, 1).reshape([m, n])).collect();
        if on_host(&a, method) || m.min(n) == 0 {
            return matrices.into_iter().map(|a| counted(|| full(a, method))).collect();
        }
        take_bytes_read();
        let mut all = by_jacobi(matrices)?;
        // What was read is read for all of them.
        let bytes_read = take_bytes_read();
        for svd in &mut all {
            svd.report.bytes_read = bytes_read;
        }
        Ok(all)
    });
    Ok(all?.into_iter().map(outside).collect())
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
    let a = enter::<B, 2>(a);
    B::Engine::run(|| values(a)).map(leave::<B, 1>)
}

fn values<E: Engine>(a: Tensor<E, 2>) -> Result<Tensor<E, 1>, Error> {
    if !on_host(&a, Way::Auto) {
        return Ok(full(a, Way::Auto)?.s);
    }
    let (device, dtype) = (a.device(), a.dtype());
    Ok(push(checked(host_spectrum(a)?.0, dtype)?, dtype, &device))
}

/// Numbers of the host as a tensor; without a copy where there are none, which not every device takes.
fn push<E: Engine, const D: usize>(data: TensorData, dtype: DType, device: &Device<E>) -> Tensor<E, D> {
    if data.num_elements() == 0 {
        Tensor::empty(data.shape, (device, dtype))
    } else {
        Tensor::from_data(data, (device, dtype))
    }
}

/// A decomposition with what was read for it in its report.
pub(crate) fn counted<E: Engine>(work: impl FnOnce() -> Result<Svd<E>, Error>) -> Result<Svd<E>, Error> {
    take_bytes_read();
    let mut svd = work()?;
    svd.report.bytes_read = take_bytes_read();
    Ok(svd)
}

/// A decomposition that was made on the engine, as one of `B`.
pub(crate) fn outside<B: SvdOps>(svd: Svd<B::Engine>) -> Svd<B> {
    Svd { u: leave(svd.u), s: leave(svd.s), vt: leave(svd.vt), report: svd.report }
}

/// Whether a method works on the host: by itself, or because the device has no such numbers.
pub(crate) fn on_host<E: Engine, const D: usize>(a: &Tensor<E, D>, method: Way) -> bool {
    match E::place() {
        Place::Host => method == Way::Auto,
        Place::Device => a.dtype() == DType::F64,
    }
}

/// The thin decomposition on the engine.
pub(crate) fn full<E: Engine>(a: Tensor<E, 2>, method: Way) -> Result<Svd<E>, Error> {
    let [m, n] = a.dims();
    leading_part(a, m.min(n), method)
}

/// [`full`] for the `k` largest values alone, from all of the matrix.
pub(crate) fn leading_part<E: Engine>(a: Tensor<E, 2>, k: usize, method: Way) -> Result<Svd<E>, Error> {
    let [m, n] = a.dims();
    if on_host(&a, method) || m.min(n) == 0 {
        return host_svd(a, k);
    }
    let mut all = by_jacobi(vec![a])?;
    Ok(all.swap_remove(0).truncate(k))
}

/// The `k` largest values of a matrix and their vectors, as rows.
pub(crate) struct Leading<E: Engine> {
    /// `[k, m]`
    pub(crate) u: Tensor<E, 2>,
    /// `[k]`
    pub(crate) s: Tensor<E, 1>,
    /// `[k, n]`
    pub(crate) v: Tensor<E, 2>,
}

/// The `k` largest of a matrix with few rows, scaled as it is: what is decomposed is square, its coordinates on orthonormal
/// rows.
pub(crate) fn leading_part_of_flat<E: Engine>(a: Tensor<E, 2>, k: usize) -> Result<Leading<E>, Error> {
    let rows = orthonormalize(a.clone())?;
    let core = product(a, rows.clone().transpose());
    let Leading { u, s, v } = if on_host(&core, Way::Auto) {
        let Svd { u, s, vt, .. } = host_svd(core, k)?;
        Leading { u: u.transpose(), s, v: vt }
    } else {
        let Factors { u, s, v, .. } = jacobi::decompose(&[Task::even(core)])?.swap_remove(0);
        Leading { u: u.narrow(0, 0, k), s: s.narrow(0, 0, k), v: v.narrow(0, 0, k) }
    };
    Ok(Leading { u, s, v: product(v, rows) })
}

/// Matrices of one shape, decomposed together.
fn by_jacobi<E: Engine>(matrices: Vec<Tensor<E, 2>>) -> Result<Vec<Svd<E>>, Error> {
    let prepared = matrices.into_iter().map(Prepared::new).collect::<Result<Vec<_>, _>>()?;
    let tasks = prepared.iter().map(|a| Task::new(a.a.clone())).collect::<Result<Vec<_>, _>>()?;
    let columns = prepared.first().map_or(1, |a| a.a.dims().into_iter().fold(usize::MAX, usize::min).max(1));
    let mut factors = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks((COLUMNS / columns).max(1)) {
        factors.extend(jacobi::decompose(tasks)?);
    }
    let all = factors.into_iter().zip(prepared).zip(tasks);
    all.map(|((factors, a), task)| restored(factors, &a, &task)).collect()
}

/// Columns that are rotated together: more would be more workgroups in one dimension than devices allow.
const COLUMNS: usize = 1 << 15;

/// The factors of the matrix as it was given.
fn restored<E: Engine>(factors: Factors<E>, a: &Prepared<E>, task: &Task<E>) -> Result<Svd<E>, Error> {
    let error_bound = jacobi::error_bound(task, &factors)?;
    let Factors { u, s, v, sweeps } = factors;
    let (u, v) = if task.is_transposed { fix_signs(v, u) } else { fix_signs(u, v) };
    let s = a.unscale_values(s)?;
    let report = Report {
        algorithm: Algorithm::Jacobi,
        place: E::place(),
        precision: a.precision(),
        iterations: sweeps,
        bytes_read: 0,
        error_bound: a.unscale_bound(error_bound, &s)?,
    };
    Ok(Svd { u: a.restore(u).transpose(), s, vt: a.restore(v), report })
}

fn host_svd<E: Engine>(a: Tensor<E, 2>, k: usize) -> Result<Svd<E>, Error> {
    let (device, dtype, [m, n]) = (a.device(), a.dtype(), a.dims());
    let (Triplets { u, s, v }, solver) = scaled(a)?.svd(k)?;
    let report = Report {
        algorithm: solver.algorithm(),
        place: Place::Host,
        precision: Precision::F64,
        iterations: 0,
        bytes_read: 0,
        error_bound: solver.error_bound(&s, m.max(n)) + rounding(s.first().copied().unwrap_or(0.0), dtype),
    };
    Ok(Svd {
        u: push(matrix_data(u.as_ref(), dtype), dtype, &device),
        s: push(checked(s, dtype)?, dtype, &device),
        vt: push(matrix_data(v.transpose(), dtype), dtype, &device),
        report,
    })
}

/// All singular values by the host, in f64.
pub(crate) fn host_spectrum<E: Engine>(a: Tensor<E, 2>) -> Result<(Vec<f64>, Solver), Error> {
    scaled(a)?.singular_values()
}

/// Singular values as tensor data, unless the element type cannot hold the largest.
fn checked(s: Vec<f64>, dtype: DType) -> Result<TensorData, Error> {
    let k = s.len();
    let data = TensorData::new(s, [k]).convert_dtype(dtype);
    let fits = data.iter::<f64>().all(f64::is_finite);
    if fits { Ok(data) } else { Err(Error::Overflow { dtype: dtype.name() }) }
}
