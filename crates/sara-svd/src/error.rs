/// What can go wrong in a decomposition: the matrix, the share, or the device.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An entry is NaN or infinite.
    #[error(
        "the matrix holds {value} at row {row}, column {column}: a decomposition needs finite entries, check the checkpoint or the training step that wrote it"
    )]
    NonFinite {
        /// Row of the first such entry.
        row: usize,
        /// Column of the first such entry.
        column: usize,
        /// The entry itself.
        value: f64,
    },
    /// A list of singular values holds something that is not one.
    #[error(
        "value {index} of the spectrum is {value}: singular values are finite, not negative and descending"
    )]
    Spectrum {
        /// Position of the first such value.
        index: usize,
        /// The value itself.
        value: f64,
    },
    /// No solver gave a result that passes its own check.
    #[error("the SVD of the {rows} x {columns} matrix did not converge: please report the matrix as a bug")]
    NotConverged {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// The number of values does not fit the shape.
    #[error(
        "{values} values do not fill a {rows} x {columns} matrix: pass rows times columns of them, row by row"
    )]
    Shape {
        /// Rows that were named.
        rows: usize,
        /// Columns that were named.
        columns: usize,
        /// Values that were given.
        values: usize,
    },
    /// The number of singular values that was asked for is not possible.
    #[error(
        "{k} singular values of a {rows} x {columns} matrix: ask for at least 1 and at most the shorter side"
    )]
    Count {
        /// The number that was asked for.
        k: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// The share is not a fraction.
    #[error("share {share} is not between 0 and 1: name a fraction of the sum of the singular values")]
    Share {
        /// The share that was asked for.
        share: f64,
    },
    /// A singular value, or their sum, is larger than the element type can hold.
    #[error(
        "a singular value or their sum exceeds what {dtype} can hold: cast to a wider type or scale the matrix down"
    )]
    Overflow {
        /// Name of the element type.
        dtype: &'static str,
    },
    /// The tensor's elements are not floating-point numbers that the host can read.
    #[error("cannot decompose a tensor of type {dtype}: cast it to f32, f64, f16 or bf16 first")]
    Dtype {
        /// Name of the element type.
        dtype: &'static str,
    },
    /// The device failed to hand its data over.
    #[error(
        "the matrix could not be read from the device ({reason}): run the computation that made it on its own"
    )]
    Read {
        /// What the backend said, on one line.
        reason: String,
    },
}
