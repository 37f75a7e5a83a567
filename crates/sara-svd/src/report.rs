use serde::{Deserialize, Serialize};

/// Which algorithm to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// [`Algorithm::Gram`] or [`Algorithm::Bidiagonal`] on the host, [`Algorithm::Jacobi`] on a device.
    #[default]
    Auto,
    /// [`Algorithm::Jacobi`] wherever the tensor is.
    Jacobi,
}

/// The algorithm that made a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Eigenvalues of the Gram matrix in f64.
    Gram,
    /// Reduction to a bidiagonal matrix in f64, where the Gram matrix would lose small singular values.
    Bidiagonal,
    /// One-sided block Jacobi rotations in the element type of the input.
    Jacobi,
    /// Projection onto a subspace that random vectors span after a few products with the matrix.
    Randomized,
    /// Nuclear norm by the polar iteration, leading singular values by [`Algorithm::Randomized`].
    Interval,
}

/// Where a result was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On the processor.
    Host,
    /// On the device that holds the tensor, without reading more than a few bytes before the result; a matrix
    /// of denormal numbers excepted, which is scaled on the host.
    Device,
}

/// The arithmetic that the products were done in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 24 significant bits, no TF32.
    F32,
    /// 53 significant bits.
    F64,
}

/// How a result came about and how good it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Report {
    /// What ran; not always what was asked for, see [`crate::randomized_svd`].
    pub algorithm: Algorithm,
    /// Where it ran.
    pub place: Place,
    /// What its products were rounded to.
    pub precision: Precision,
    /// Sweeps of Jacobi rotations, or passes over a random subspace; 0 for the other algorithms.
    pub iterations: usize,
    /// Bytes that the host read before the result was there; on the host the matrix is among them.
    pub bytes_read: usize,
    /// Bound of the absolute error of every returned singular value.
    ///
    /// Of a randomized result it holds for the singular values that the returned ones belong to: that no
    /// larger one was missed is certain but for an event of the random numbers far below 1e-6.
    pub error_bound: f64,
}
