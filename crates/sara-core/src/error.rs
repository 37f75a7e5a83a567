//! What can go wrong in this crate.

use std::path::PathBuf;

use crate::site::Site;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, with its cause and, where there is one, its remedy, in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of a method's configuration is out of its range.
    #[error("{field}: {found} is not {expected}")]
    Config {
        /// The configuration field.
        field: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A target name matches no linear layer of the model.
    #[error(
        "target `{name}` matches no linear layer of this model; its names are {known}, or \"all-linear\""
    )]
    UnknownTarget {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A rank is zero or larger than the layer allows.
    #[error("{field}: rank {rank} at {name} ({d_in} -> {d_out}) is not in 1..={limit}; choose another rank")]
    Rank {
        /// The configuration field.
        field: String,
        /// Path of the layer.
        name: String,
        /// The rank asked for.
        rank: usize,
        /// Input width of the layer.
        d_in: usize,
        /// Output width of the layer.
        d_out: usize,
        /// The largest rank that is possible there.
        limit: usize,
    },
    /// A key of a method's configuration that should name layers names none.
    #[error("{field}: `{name}` names no adapted layer; did you mean `{nearest}`?")]
    UnknownLayer {
        /// The configuration field.
        field: String,
        /// The name given.
        name: String,
        /// The nearest name of an adapted layer.
        nearest: String,
    },
    /// The layers that are to share factors have not the shape that these need.
    #[error("{method}: {name} is {d_in} -> {d_out}, and its factors need {expected}; target {remedy}")]
    SharedShape {
        /// The method.
        method: &'static str,
        /// Path of the layer.
        name: String,
        /// Input width of the layer.
        d_in: usize,
        /// Output width of the layer.
        d_out: usize,
        /// What would fit.
        expected: String,
        /// What can be targeted.
        remedy: String,
    },
    /// What was frozen out of the base weights is not what these weights give.
    #[error(
        "{name}: this adapter was trained beside other weights (a projection differs by {difference:.1e} of its size); give the base it was trained on, or its frozen.safetensors"
    )]
    OtherBase {
        /// The tensor.
        name: String,
        /// The largest difference, relative.
        difference: f64,
    },
    /// The ranks of the method come from the weights, and there are none.
    #[error("the ranks of this method come from the weights, and {reason}")]
    NoWeights {
        /// Why the weights are not at hand.
        reason: String,
    },
    /// A weight could not be decomposed.
    #[error("{name}: {source}")]
    Spectrum {
        /// Path of the layer.
        name: String,
        /// What the decomposition said.
        source: sara_svd::Error,
    },
    /// The adapter cannot be folded into the weights.
    #[error("this adapter cannot be merged: {reason}")]
    NotMergeable {
        /// Why.
        reason: String,
    },
    /// The adapter would be folded into a weight that cannot hold it.
    #[error(
        "the weight of {site} is in 8 or 4 bits, which would round the change away; merge into the weights as the checkpoint has them"
    )]
    Packed {
        /// Where.
        site: Site,
    },
    /// The adapter changes a bias where the layer has none.
    #[error(
        "this adapter cannot be merged: it changes the bias of {site}, and that layer has none; it belongs to another model"
    )]
    NoBias {
        /// The layer.
        site: Site,
    },
    /// The adapter cannot be written in a format.
    #[error("this adapter cannot be exported to {format}: {reason}; export the merged model instead")]
    NotExportable {
        /// The format.
        format: &'static str,
        /// Why.
        reason: String,
    },
    /// The adapter changes nothing.
    #[error("merging this adapter would change no weight: it is untrained, or it belongs to another model")]
    NothingToMerge,
    /// Names, shapes or types of stored tensors differ from what is expected.
    #[error("{what}: {} tensors do not fit: {}", mismatches.len(), mismatches.join("; "))]
    Mismatch {
        /// The file or module.
        what: String,
        /// One entry for each tensor, with what was expected and what was found.
        mismatches: Vec<String>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl Error {
    /// An error of a file's content.
    pub fn format(path: &std::path::Path, problem: impl std::fmt::Display) -> Self {
        Self::Format { path: path.to_owned(), problem: problem.to_string() }
    }

    /// An error of the file system.
    pub fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
