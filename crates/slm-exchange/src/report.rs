//! Reports of exports.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use slm_checkpoint::Checkpoint;

use crate::{Error, Result};

/// The fidelity of a tensor of the output to that of the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fidelity {
    /// Every number is the same: values, or codes and scales.
    Exact,
    /// The codes are the same; scales were rounded.
    ScaleRounded {
        /// The largest relative change of a scale.
        max_relative_change: f64,
    },
    /// The codes are the same; scales, or the offsets that represent zero points, were rounded.
    OffsetRounded {
        /// The largest change of a value of the grid, in steps.
        max_change_in_steps: f64,
    },
    /// Codes became floats, because the format has no type for them.
    Dequantized {
        /// The float type.
        float_type: String,
        /// The largest relative change of a value: 0 if the float type holds all of them.
        max_relative_change: f64,
        /// The reason.
        because: String,
    },
    /// Floats were rounded to the requested type.
    FloatRounded {
        /// The largest relative change of a value.
        max_relative_change: f64,
    },
    /// Floats were changed by a computation.
    Changed {
        /// The computation.
        how: String,
    },
}

impl Fidelity {
    /// The fidelity of values that are written as `float` with a relative change of at most `max_relative_change`.
    /// `because` is the reason for dequantizing codes.
    pub(crate) fn of_values(float: &str, max_relative_change: f64, because: Option<String>) -> Self {
        match (because, max_relative_change) {
            (Some(because), max_relative_change) => {
                Self::Dequantized { float_type: float.to_owned(), max_relative_change, because }
            }
            (None, 0.0) => Self::Exact,
            (None, max_relative_change) => Self::FloatRounded { max_relative_change },
        }
    }

    /// Returns `true` if nothing was changed.
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

/// Returns the reasons why an export of `tensors` (names and fidelities) is not exact; empty if it is.
fn inexact_reasons<'a>(tensors: impl Iterator<Item = (&'a str, &'a Fidelity)>) -> Vec<String> {
    /// Maximum number of tensors that a message lists.
    const LISTED: usize = 3;
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, fidelity) in tensors.filter(|(_, fidelity)| !fidelity.is_exact()) {
        let text = fidelity.to_string();
        match reasons.iter_mut().find(|(other, _)| *other == text) {
            Some((_, names)) => names.push(name),
            None => reasons.push((text, vec![name])),
        }
    }
    let listed = |(text, names): &(String, Vec<&str>)| match names.len() {
        count if count > LISTED => {
            format!("{} and {} more tensors: {text}", names[..LISTED].join(", "), count - LISTED)
        }
        _ => format!("{}: {text}", names.join(", ")),
    };
    let others: usize = reasons.iter().skip(LISTED).map(|(_, names)| names.len()).sum();
    let mut reasons: Vec<String> = reasons.iter().take(LISTED).map(listed).collect();
    if others > 0 {
        reasons.push(format!("and {others} more tensors"));
    }
    reasons
}

/// Fails if a tensor is not exact, or if the other program computes differently in the way of `differences`.
pub(crate) fn require_exact<'a>(
    checkpoint: &Checkpoint,
    tensors: impl Iterator<Item = (&'a str, &'a Fidelity)> + Clone,
    differences: &[String],
) -> Result<()> {
    let mut reasons = inexact_reasons(tensors.clone());
    reasons.extend_from_slice(differences);
    if reasons.is_empty() {
        return Ok(());
    }
    let any = |is: fn(&Fidelity) -> bool| tensors.clone().any(|(_, fidelity)| is(fidelity));
    Err(Error::Inexact {
        path: checkpoint.dir().to_owned(),
        reasons,
        rounds_scales: any(|fidelity| matches!(fidelity, Fidelity::ScaleRounded { .. })),
        dequantizes: any(|fidelity| matches!(fidelity, Fidelity::Dequantized { .. })),
    })
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorReport {
    /// Its name in the output.
    pub name: String,
    /// Its type in the output.
    pub kind: String,
    /// Its shape, rows before columns.
    pub shape: Vec<usize>,
    /// Its fidelity to the checkpoint.
    pub fidelity: Fidelity,
}

/// The result of an export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// The file or directory.
    pub output: PathBuf,
    /// The other program's name of the model's architecture.
    pub architecture: String,
    /// The tensors, in the order of the output.
    pub tensors: Vec<TensorReport>,
    /// Notes on differences in the other program, one sentence each. With `strict`, another formula is an error; other
    /// rounding of dynamic inputs in llama.cpp, or a tokenizer that does not normalize texts, is not.
    pub notes: Vec<String>,
    /// Size of the output in bytes.
    pub bytes: u64,
}

impl ExportReport {
    /// Returns `true` if every number of every tensor is unchanged.
    pub fn is_exact(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.fidelity.is_exact())
    }
}
