//! The kernels by name, and the choice of one.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use slm_quant_core::{Error, Result};

use crate::isa::Isa;

/// Environment variable that forces a kernel.
const SLM_KERNEL: &str = "SLM_KERNEL";

/// Position in [`KernelKind::ALL`] of this process's kernel.
static SELECTED: AtomicU8 = AtomicU8::new(NONE_SELECTED);
const NONE_SELECTED: u8 = u8::MAX;

/// An implementation of the matrix products, named after the instructions that it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelKind {
    /// Portable Rust, the reference. Written `scalar`.
    Scalar,
    /// AArch64 with the dot product extension. Written `dotprod`.
    DotProd,
    /// AVX2 with FMA and F16C. Written `avx2`.
    Avx2,
    /// AVX-512 with VNNI. Written `avx512vnni`.
    Avx512Vnni,
}

impl KernelKind {
    /// Every kernel, slowest first.
    const ALL: [Self; 4] = [Self::Scalar, Self::DotProd, Self::Avx2, Self::Avx512Vnni];

    /// Kernels that this processor can run, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|kind| kind.is_available()).collect()
    }

    /// The fastest kernel that this processor can run.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Scalar)
    }

    /// Returns `true` if this processor can run the kernel.
    pub fn is_available(self) -> bool {
        self == Self::Scalar || Isa::new(self).is_some()
    }

    /// The error for a kernel that this processor cannot run.
    pub(crate) fn unavailable(self) -> Error {
        let available: Vec<String> = Self::available().iter().map(Self::to_string).collect();
        Error::KernelUnavailable { kernel: self.to_string(), available: available.join(", ") }
    }

    /// The default kernel of this process: the one that [`KernelKind::select`] has chosen, or the best one if it has
    /// not been called.
    pub fn selected() -> Self {
        let index = usize::from(SELECTED.load(Ordering::Relaxed));
        Self::ALL.get(index).copied().unwrap_or_else(Self::best)
    }

    /// Chooses the default kernel of this process: the one that the environment variable `SLM_KERNEL` names, or the
    /// best one if it is not set. [`KernelKind::selected`] returns it from then on.
    ///
    /// For programs and test harnesses, once at their start. Libraries do not read the environment: they take a
    /// `KernelKind`, or call [`KernelKind::selected`].
    ///
    /// # Errors
    /// [`Error::KernelUnavailable`] if the variable names a kernel that this processor cannot run, and [`Error::Parse`]
    /// if it names none. The choice is unchanged then.
    pub fn select() -> Result<Self> {
        let kind = match std::env::var_os(SLM_KERNEL) {
            None => Self::best(),
            Some(name) => Self::available_from(&name.to_string_lossy())?,
        };
        let index = Self::ALL.iter().position(|other| *other == kind);
        SELECTED.store(index.map_or(NONE_SELECTED, |index| index as u8), Ordering::Relaxed);
        Ok(kind)
    }

    /// The kernel that the value of `SLM_KERNEL` names, if this processor can run it.
    fn available_from(name: &str) -> Result<Self> {
        let kind: Self = name.parse().map_err(|error| match error {
            Error::Parse { found, expected, .. } => Error::Parse { what: SLM_KERNEL, found, expected },
            error => error,
        })?;
        if kind.is_available() { Ok(kind) } else { Err(kind.unavailable()) }
    }
}

impl fmt::Display for KernelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scalar => "scalar",
            Self::DotProd => "dotprod",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
        })
    }
}

impl FromStr for KernelKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == text).ok_or_else(|| Error::Parse {
            what: "kernel",
            found: text.to_owned(),
            expected: "scalar, avx2, avx512vnni, dotprod",
        })
    }
}
