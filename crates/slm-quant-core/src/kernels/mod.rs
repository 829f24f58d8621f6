//! Integer kernels: one file per instruction set, and what they share.
//!
//! | file | holds |
//! |---|---|
//! | `activations` | quantizing the input, and the form kernels read it in |
//! | `scalar` | the reference every other kernel equals bit for bit |

mod activations;
mod scalar;
mod shared_out;

pub use activations::{ActivationQuant, QuantizedActivations, quantize_activations};
pub(crate) use activations::{check_finite, check_len};
pub(crate) use shared_out::SharedOut;

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

pub(crate) use scalar::Scalar;

/// Environment variable that forces a kernel.
const SLM_KERNEL: &str = "SLM_KERNEL";

/// An implementation of the matrix products, named after the instructions it is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelKind {
    /// Portable Rust; the reference. Written `scalar`.
    Scalar,
}

impl KernelKind {
    /// Kernels that this processor can run, slowest first.
    pub fn available() -> Vec<Self> {
        vec![Self::Scalar]
    }

    /// The fastest kernel that this processor can run.
    pub fn best() -> Self {
        Self::Scalar
    }

    /// Whether this processor can run the kernel.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
        }
    }

    /// The kernel that the environment variable `SLM_KERNEL` names, or the best one where it is not set.
    ///
    /// # Errors
    /// [`Error::KernelUnavailable`] when the variable names a kernel that this processor cannot run, and
    /// [`Error::Parse`] when it names none.
    pub fn select() -> Result<Self> {
        match std::env::var_os(SLM_KERNEL) {
            None => Ok(Self::best()),
            Some(name) => name.to_string_lossy().parse::<Self>()?.require(),
        }
    }

    /// The kernel itself where this processor can run it.
    pub(crate) fn require(self) -> Result<Self> {
        if self.is_available() {
            return Ok(self);
        }
        let available: Vec<String> = Self::available().iter().map(Self::to_string).collect();
        Err(Error::KernelUnavailable { kernel: self.to_string(), available: available.join(", ") })
    }
}

impl fmt::Display for KernelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scalar => "scalar",
        })
    }
}

impl FromStr for KernelKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "scalar" => Ok(Self::Scalar),
            _ => Err(Error::Parse { what: "kernel", found: text.to_owned(), expected: "scalar" }),
        }
    }
}
