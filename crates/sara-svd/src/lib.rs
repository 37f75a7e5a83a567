//! Singular values, singular value decomposition and the SARA rank rule on any burn backend.
//!
//! ```
//! use burn::tensor::Tensor;
//! use burn_flex::Flex;
//! use sara_svd::{Convention, spectrum_rank, svd};
//!
//! let device = Default::default();
//! let weight = Tensor::<Flex, 2>::from_floats([[3.0, 0.0, 0.0], [0.0, -1.0, 0.0]], &device);
//!
//! // How many singular values make up 70 % of their sum?
//! let chosen = spectrum_rank(weight.clone(), 0.7, Convention::Reach)?;
//! assert_eq!(chosen.rank, 1); // 3 of 4
//! assert_eq!(chosen.values, [3.0, 1.0]);
//!
//! let f = svd(weight.clone())?; // u [2, 2], s [2], vt [2, 3]
//! let again = (f.u * f.s.unsqueeze::<2>()).matmul(f.vt);
//! again.into_data().assert_approx_eq::<f32>(&weight.into_data(), Default::default());
//! # Ok::<(), sara_svd::Error>(())
//! ```
//!
//! # The rank rule
//!
//! SARA gives every adapted layer its own rank. It sums the singular values `s` of the pretrained weight, and
//! asks how many of the largest are needed for a `share` of that sum:
//!
//! * [`Convention::Reach`], the default: the smallest `k` with `s[0] + .. + s[k - 1] >= share * sum(s)`.
//! * [`Convention::Floor`]: the number of partial sums that stay below `share * sum(s)`. This is what the
//!   unofficial code of SARA counts; it is one less, and for a small share it would often be no rank at all.
//!
//! Both are at least 1 (also for a share of 0 and for a matrix of zeros) and at most `min(m, n)`. A weight
//! with a slowly falling spectrum, as pretrained attention weights have, gets ranks far apart for shares that
//! look close, so a share is best chosen by looking at [`SpectrumRank::values`].
//!
//! The rule adds up singular values, not their squares: it is not the "explained energy" of principal
//! component analysis.
//!
//! # Conventions
//!
//! `a = u diag(s) vt` with `u [m, k]`, `s [k]` descending, `vt [k, n]` and `k = min(m, n)`. Vectors are unique
//! only up to their sign, which is fixed: in each column of `u` the entry of largest modulus is positive, and of several
//! that are within 1e-4 of the largest the first is. The
//! factors are orthonormal for every input; those that belong to singular values of zero are some orthonormal
//! completion. An empty matrix has empty factors.
//!
//! # Methods and precision
//!
//! Every result comes with a [`Report`]: the [`Algorithm`], the [`Place`], the [`Precision`] of the products and a
//! bound of the error.
//!
//! * On the host [`svd()`] and [`singular_values`] compute in f64 and round to the element type of their input at
//!   the very end: f32, bf16 and f16 by the eigenvalues of the Gram matrix `a^T a`, whose entries f64 holds with
//!   room to spare, where the condition number allows it; otherwise, and for f64, from the matrix itself.
//! * On a device they rotate the columns of the matrix until they are orthogonal (block Jacobi, in f32);
//!   [`svd_by`] does so anywhere.
//! * [`randomized_svd`] finds the largest `k` of them, as `torch.svd_lowrank` does or to 1e-4 of each.
//! * [`spectrum_rank`] uses all singular values on the host, and on a device bounds of their sum
//!   ([`nuclear_norm`]) and the leading ones; [`spectrum_rank_by`] does either anywhere.
//!
//! Input is scaled by a power of two, exactly, so neither 1e-40 nor 1e38 is special, and every result is checked
//! before it is returned.
//!
//! The factors carry no gradients: on `Autodiff` the functions work on the inner tensor, and their results
//! are constants to the graph.
//!
//! # Backends
//!
//! The functions take any backend that implements [`SvdOps`]: `Flex`, `NdArray`, `CubeBackend`, `Fusion` and
//! `Autodiff` around each of them, by the features `flex`, `ndarray`, `wgpu` and `cuda`. The algorithms are
//! written once, on burn's tensors and a few building blocks ([`Engine`]), which a backend without kernels of its
//! own computes on the host. [`host`] holds the host's own functions on plain slices. On the CPU call it all inside
//! [`sara_ops::threads::awake`].
//!
//! # Errors
//!
//! A NaN, a share of 1.5, a singular value that f16 cannot hold: all come back as an [`Error`] that says what
//! was found and what to do, in one line. Nothing here panics on data.

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod error;
pub mod host;
mod jacobi;
mod nuclear_norm;
mod ops;
mod orthonormalize;
mod prepare;
mod randomized;
mod rank_rule;
mod report;
mod rows;
mod spectrum_rank;
mod subspace;
mod svd;

pub use error::Error;
pub use nuclear_norm::{NuclearNorm, nuclear_norm};
pub use ops::{Engine, PANEL, SvdOps, operations};
pub use randomized::{Accuracy, randomized_svd};
pub use rank_rule::{Convention, SpectrumRank};
pub use report::{Algorithm, Place, Precision, Report, Way};
pub use spectrum_rank::{Rule, spectrum_rank, spectrum_rank_by};
pub use svd::{Svd, singular_values, svd, svd_batched, svd_by};
