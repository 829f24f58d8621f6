//! Reports of exports.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// What a tensor in the output is of the one in the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fidelity {
    /// Every number is the same: values, or codes and scales.
    Exact,
    /// The codes are the same, scales were rounded.
    ScaleRounded {
        /// The largest change of a scale, relative to it.
        max_relative_change: f64,
    },
    /// The codes are the same, scales or the offsets that stand for zero points were rounded.
    OffsetRounded {
        /// The largest change of a value of the grid, in steps.
        max_change_in_steps: f64,
    },
    /// Codes became floats, because the format has no type for them.
    Dequantized {
        /// The float type.
        float_type: String,
        /// The largest change of a value, relative to it: 0 where the float type holds all of them.
        max_relative_change: f64,
        /// Why.
        because: String,
    },
    /// Floats were rounded to the type that was asked for.
    FloatRounded {
        /// The largest change of a value, relative to it.
        max_relative_change: f64,
    },
    /// Floats were computed with.
    Changed {
        /// How.
        how: String,
    },
}

impl Fidelity {
    /// Of values that are written as `float`, which changes them by `max_relative_change`; `because` says why codes became
    /// values.
    pub(crate) fn of_values(float: &str, max_relative_change: f64, because: Option<String>) -> Self {
        match (because, max_relative_change) {
            (Some(because), max_relative_change) => {
                Self::Dequantized { float_type: float.to_owned(), max_relative_change, because }
            }
            (None, 0.0) => Self::Exact,
            (None, max_relative_change) => Self::FloatRounded { max_relative_change },
        }
    }

    /// Whether nothing was changed.
    pub fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::ScaleRounded { max_relative_change } => {
                write!(f, "scale rounded (max relative change {max_relative_change:.1e})")
            }
            Self::OffsetRounded { max_change_in_steps } => {
                write!(f, "offset rounded (max change {max_change_in_steps:.1e} steps)")
            }
            Self::Dequantized { float_type, max_relative_change, because } => match *max_relative_change {
                0.0 => write!(f, "written as {float_type}, same values, because {because}"),
                change => {
                    write!(f, "written as {float_type} (max relative change {change:.1e}) because {because}")
                }
            },
            Self::FloatRounded { max_relative_change } => {
                write!(f, "rounded (max relative change {max_relative_change:.1e})")
            }
            Self::Changed { how } => f.write_str(how),
        }
    }
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorReport {
    /// Its name there.
    pub name: String,
    /// Its type there.
    pub kind: String,
    /// Its shape, rows before columns.
    pub shape: Vec<usize>,
    /// What it is of the checkpoint's.
    pub fidelity: Fidelity,
}

/// Result of an export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// The file or directory.
    pub output: PathBuf,
    /// What the other program calls the model's architecture.
    pub architecture: String,
    /// Its tensors, in the order in which they lie there.
    pub tensors: Vec<TensorReport>,
    /// What the other program does otherwise than this one, a sentence each. With `strict` those that change what the
    /// model computes are refused.
    pub notes: Vec<String>,
    /// Bytes of the output.
    pub bytes: u64,
}

impl ExportReport {
    /// Whether every number of every tensor is the checkpoint's.
    pub fn is_exact(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.fidelity.is_exact())
    }
}
