//! What is timed: each function of sara-svd that does a whole job.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensorOps;
use sara_svd::{
    Accuracy, Algorithm, Convention, Engine, Error, Place, Rule, Svd, SvdOps, Way, nuclear_norm, operations,
    randomized_svd, singular_values, spectrum_rank_by, svd_batched, svd_by,
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
    /// The matrix times its transpose, which is what all else is made of.
    Product,
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
    pub const ALL: [Self; 10] = [
        Self::Product,
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
            Self::Product => "product",
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

    /// Does the job and waits for the device.
    ///
    /// # Errors
    /// Those of the job.
    pub fn run<B: SvdOps>(self, a: Tensor<B, 2>) -> Result<Outcome, Error> {
        let [m, n] = a.dims();
        let top = |accuracy| randomized_svd(a.clone(), TOP.min(m).min(n), accuracy, 0);
        let rank = |rule| spectrum_rank_by(a.clone(), SHARE, Convention::Reach, rule);
        let before = operations();
        let outcome = match self {
            Self::Product => {
                product(a)?;
                Outcome::plain(Vec::new()).with(2.0 * (m * m * n) as f64)
            }
            Self::Svd => self.outcome(svd_by(a, Way::Auto)?, m, n, 1),
            Self::Jacobi => self.outcome(svd_by(a, Way::Jacobi)?, m, n, 1),
            Self::Stack => {
                let mut all = svd_batched(a.unsqueeze::<3>().repeat_dim(0, STACK), Way::Auto)?;
                self.outcome(all.swap_remove(0), m, n, STACK)
            }
            Self::Values => Outcome::plain(singular_values(a)?.into_data().iter::<f64>().collect()),
            Self::Fast => self.outcome(top(Accuracy::Fast { iterations: ITERATIONS })?, m, n, 1),
            Self::Full => self.outcome(top(Accuracy::Full)?, m, n, 1),
            Self::NuclearNorm => Outcome::plain(nuclear_norm(a).map(|_| Vec::new())?),
            Self::Rank => Outcome::plain(rank(Rule::Auto)?.values),
            Self::RankByBounds => Outcome::plain(rank(Rule::Interval)?.values),
        };
        // Beside what the host's own methods count for themselves.
        let counted = (operations() - before) as f64 + outcome.operations.unwrap_or(0.0);
        Ok(if counted > 0.0 { outcome.with(counted) } else { outcome })
    }

    /// What the decompositions of `copies` matrices did beside the products that are counted, by the report of one.
    fn outcome<B: SvdOps>(self, svd: Svd<B>, m: usize, n: usize, copies: usize) -> Outcome {
        let (short, area, copies) = (m.min(n) as f64, (m * n) as f64, copies as f64);
        let iterations = svd.report.iterations as f64;
        let (operations, bytes) = match svd.report.algorithm {
            // The Gram matrix; its tridiagonal form, whose one half reads what is left of it again for every
            // column; the merges of its halves; the vectors back, and times the matrix.
            Algorithm::Gram => (
                Some(area * short + (4.0 / 3.0 + 4.0 / 3.0 + 2.0) * short.powi(3) + 2.0 * area * short),
                Some(8.0 * (2.0 * area + short.powi(3) / 6.0)),
            ),
            // In a sweep every two blocks make a Gram matrix and are rotated, and the rotations as well.
            Algorithm::Jacobi => {
                (None, Some(iterations * short / JACOBI_BLOCK * 4.0 * (3.0 * area + 2.0 * short * short)))
            }
            // A first product, two an iteration, and the projection.
            Algorithm::Randomized if self == Self::Fast => {
                (None, Some((2.0 + 2.0 * iterations) * 4.0 * area))
            }
            // Two products a pass, on the host with one reading.
            Algorithm::Randomized => {
                let readings = if svd.report.place == Place::Host { 1.0 } else { 2.0 };
                (None, Some(readings * iterations * 4.0 * area))
            }
            Algorithm::Bidiagonal | Algorithm::Interval => (None, None),
        };
        Outcome {
            values: svd.s.into_data().iter::<f64>().collect(),
            operations: operations.map(|x: f64| x * copies),
            bytes: bytes.map(|x: f64| x * copies),
        }
    }
}

/// `a a^T`, waited for.
fn product<B: SvdOps>(a: Tensor<B, 2>) -> Result<(), Error> {
    let device = a.device();
    let a = B::enter(a.into_primitive().tensor());
    drop(B::Engine::product(a.clone(), B::Engine::float_transpose(a)));
    <B::Engine as Backend>::sync(&device).map_err(|error| Error::Read { reason: error.to_string() })
}

/// Power iterations of [`Kernel::Fast`], as many as torch makes.
const ITERATIONS: usize = 2;
/// Columns that are rotated together.
const JACOBI_BLOCK: f64 = 16.0;

/// What came out, and what it took where the way there tells.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Singular values.
    pub values: Vec<f64>,
    /// Floating-point operations in products.
    pub operations: Option<f64>,
    /// Bytes of large matrices that products read or wrote.
    pub bytes: Option<f64>,
}

impl Outcome {
    fn plain(values: Vec<f64>) -> Self {
        Self { values, operations: None, bytes: None }
    }

    fn with(self, operations: f64) -> Self {
        Self { operations: Some(operations), ..self }
    }
}
