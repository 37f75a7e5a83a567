//! What is timed: each function of sara-svd that does a whole job.

use burn::tensor::Tensor;
use sara_svd::{
    Accuracy, Convention, Error, Method, Rule, SvdOps, nuclear_norm, randomized_svd, singular_values,
    spectrum_rank_by, svd_batched, svd_by,
};
use serde::Serialize;

/// Singular values that a truncated decomposition keeps.
pub const TOP: usize = 64;
/// Matrices of a stack.
pub const STACK: usize = 64;
/// Longest side of a matrix that is worth stacking.
const SMALL: usize = 128;
/// Share of the rank rule.
pub const SHARE: f64 = 0.1;

/// A job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Thin decomposition by the device's own method.
    Svd,
    /// Thin decomposition by Jacobi rotations.
    Jacobi,
    /// [`STACK`] copies together, of small matrices.
    Stack,
    /// Singular values alone.
    Values,
    /// The largest [`TOP`], as `torch.svd_lowrank` computes them.
    Fast,
    /// The largest [`TOP`], to 1e-4 of themselves.
    Full,
    /// Bounds of the nuclear norm.
    NuclearNorm,
    /// The rank for [`SHARE`] by the device's own rule.
    Rank,
    /// The rank for [`SHARE`] from bounds.
    RankByBounds,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Svd,
        Self::Jacobi,
        Self::Stack,
        Self::Values,
        Self::Fast,
        Self::Full,
        Self::NuclearNorm,
        Self::Rank,
        Self::RankByBounds,
    ];

    /// In a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Svd => "svd",
            Self::Jacobi => "svd, jacobi",
            Self::Stack => "svd, 64 at once",
            Self::Values => "singular values",
            Self::Fast => "top 64, fast",
            Self::Full => "top 64, full",
            Self::NuclearNorm => "nuclear norm",
            Self::Rank => "rank, share 0.1",
            Self::RankByBounds => "rank by bounds",
        }
    }

    /// Whether `part` is its name, or a part of it and the whole name of none.
    pub fn is_called(self, part: &str) -> bool {
        let whole = Self::ALL.iter().any(|kernel| kernel.name() == part);
        if whole { self.name() == part } else { self.name().contains(part) }
    }

    /// Whether the job makes sense for an `m x n` matrix.
    pub fn suits(self, m: usize, n: usize) -> bool {
        self != Self::Stack || m.max(n) <= SMALL
    }

    /// Does the job and waits for the device; returns the singular values that came out.
    ///
    /// # Errors
    /// Those of the job.
    pub fn run<B: SvdOps>(self, a: Tensor<B, 2>) -> Result<Vec<f64>, Error> {
        let values = |s: Tensor<B, 1>| s.into_data().iter::<f64>().collect();
        let rank = |rule| spectrum_rank_by(a.clone(), SHARE, Convention::Reach, rule);
        let top = |accuracy| randomized_svd(a.clone(), TOP.min(a.dims()[0]).min(a.dims()[1]), accuracy, 0);
        Ok(match self {
            Self::Svd => values(svd_by(a, Method::Auto)?.s),
            Self::Jacobi => values(svd_by(a, Method::Jacobi)?.s),
            Self::Stack => {
                let mut all = svd_batched(a.unsqueeze::<3>().repeat_dim(0, STACK), Method::Auto)?;
                values(all.swap_remove(0).s)
            }
            Self::Values => values(singular_values(a)?),
            Self::Fast => values(top(Accuracy::Fast { iterations: 2 })?.s),
            Self::Full => values(top(Accuracy::Full)?.s),
            Self::NuclearNorm => nuclear_norm(a).map(|_| Vec::new())?,
            Self::Rank => rank(Rule::Auto)?.values,
            Self::RankByBounds => rank(Rule::Interval)?.values,
        })
    }

    /// Floating-point operations in products, where their number is known beforehand.
    pub fn operations(self, m: usize, n: usize) -> Option<f64> {
        // A first product, two for each of two iterations, and the projection.
        (self == Self::Fast).then(|| 6.0 * 2.0 * (m * n * TOP) as f64)
    }
}
