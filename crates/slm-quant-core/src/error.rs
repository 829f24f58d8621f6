//! The one error type of this crate.

use std::fmt;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from a quantization function that rejects its input.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A slice or matrix has another length than its shape says.
    Length {
        /// Name of the measured values, such as `"codes"`.
        what: &'static str,
        /// The length that the shape requires.
        expected: usize,
        /// The length found.
        found: usize,
    },
    /// An input that needs at least one value has none.
    Empty {
        /// Name of the empty input.
        what: &'static str,
    },
    /// A value is NaN or infinite.
    NotFinite {
        /// Name of the input that holds the value.
        what: &'static str,
        /// Position of the first such value.
        index: usize,
        /// The value itself.
        value: f32,
    },
    /// A group size of zero, or one above the matrix's width.
    GroupSize {
        /// The requested group size.
        group_size: usize,
        /// The width (input features) of the matrix.
        cols: usize,
    },
    /// A parameter is outside what the operation allows.
    Parameter {
        /// Name of the parameter.
        what: &'static str,
        /// Description of the problem and of accepted values.
        detail: String,
    },
    /// A range or parameters were asked of something that has seen no values.
    NothingObserved {
        /// Name of the observer that has seen no values.
        what: &'static str,
    },
    /// The products of a row this wide could overflow a 32-bit accumulator.
    AccumulatorOverflow {
        /// Number of products summed.
        k: usize,
        /// The largest number that is safe.
        max_k: usize,
    },
    /// A string that names no scheme element.
    Parse {
        /// Name of the parsed value, such as `"granularity"`.
        what: &'static str,
        /// The text found.
        found: String,
        /// The accepted forms.
        expected: &'static str,
    },
    /// A requested kernel is not available on this machine or in this build.
    KernelUnavailable {
        /// The requested kernel.
        kernel: String,
        /// The kernels that are available.
        available: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { what, expected, found } => {
                write!(f, "{what}: expected {expected} values, found {found}")
            }
            Self::Empty { what } => write!(f, "{what}: empty, at least one value is needed"),
            Self::NotFinite { what, index, value } => {
                write!(f, "{what}: value {value} at index {index} is not finite")
            }
            Self::GroupSize { group_size, cols } => {
                write!(f, "group size {group_size} does not fit a width of {cols}: use 1 to {cols}")
            }
            Self::Parameter { what, detail } => write!(f, "{what}: {detail}"),
            Self::NothingObserved { what } => {
                write!(f, "{what}: nothing observed yet, give it at least one batch of values first")
            }
            Self::AccumulatorOverflow { k, max_k } => {
                write!(f, "{k} products could overflow a 32-bit accumulator; at most {max_k} are safe")
            }
            Self::Parse { what, found, expected } => match crate::hint::meant(what, found) {
                Some(meant) => write!(f, "unknown {what} {found:?}; did you mean {meant}?"),
                None => write!(f, "{what} must be one of {expected}, not {found:?}"),
            },
            Self::KernelUnavailable { kernel, available } => {
                write!(f, "kernel {kernel:?} is not available here; available: {available}")
            }
        }
    }
}

impl std::error::Error for Error {}
