//! Weights together with the kernel that reads them.

use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512Vnni, blocked::Blocked};
use super::{Input, Kernel, KernelKind, Part, QuantizedActivations, UNIT_ROWS, Workspace};
use crate::{QParams, QuantScheme, QuantizedMatrix, Result};

/// Weights packed for a kernel that this processor can run.
#[derive(Debug, Clone)]
pub(crate) enum Packed {
    Scalar(Scalar, QuantizedMatrix),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2, Blocked),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni, Blocked),
}

/// Evaluates `$body` with the kernel and its weights, whichever they are.
macro_rules! with {
    ($packed:expr, $kernel:pat, $weights:pat => $body:expr) => {
        match $packed {
            Packed::Scalar($kernel, $weights) => $body,
            #[cfg(target_arch = "x86_64")]
            Packed::Avx2($kernel, $weights) => $body,
            #[cfg(target_arch = "x86_64")]
            Packed::Avx512Vnni($kernel, $weights) => $body,
        }
    };
}

impl Packed {
    /// Packs `matrix`, or says that the processor lacks the kernel.
    pub(crate) fn new(matrix: QuantizedMatrix, kind: KernelKind) -> Result<Self> {
        let packed = match kind {
            KernelKind::Scalar => Some(Self::Scalar(Scalar, matrix)),
            #[cfg(target_arch = "x86_64")]
            KernelKind::Avx2 => Avx2::new().map(|kernel| Self::Avx2(kernel, Blocked::pack(&matrix))),
            #[cfg(target_arch = "x86_64")]
            KernelKind::Avx512Vnni => {
                Avx512Vnni::new().map(|kernel| Self::Avx512Vnni(kernel, Blocked::pack(&matrix)))
            }
            #[cfg(not(target_arch = "x86_64"))]
            KernelKind::Avx2 | KernelKind::Avx512Vnni => None,
        };
        packed.ok_or_else(|| kind.unavailable())
    }

    pub(crate) fn kernel(&self) -> KernelKind {
        match self {
            Self::Scalar(..) => KernelKind::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(..) => KernelKind::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(..) => KernelKind::Avx512Vnni,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        with!(self, _, w => w.rows())
    }

    pub(crate) fn cols(&self) -> usize {
        with!(self, _, w => w.cols())
    }

    pub(crate) fn scheme(&self) -> QuantScheme {
        with!(self, _, w => w.scheme())
    }

    pub(crate) fn group_width(&self) -> usize {
        with!(self, _, w => w.group_width())
    }

    pub(crate) fn groups_per_row(&self) -> usize {
        with!(self, _, w => w.groups_per_row())
    }

    pub(crate) fn byte_size(&self) -> usize {
        with!(self, _, w => w.byte_size())
    }

    pub(crate) fn code(&self, row: usize, col: usize) -> i8 {
        with!(self, _, w => w.code(row, col))
    }

    pub(crate) fn qparams(&self, row: usize, group: usize) -> QParams {
        with!(self, _, w => w.qparams(w.scale_index(row, group)))
    }

    pub(crate) fn unpack(&self) -> QuantizedMatrix {
        match self {
            Self::Scalar(_, w) => w.clone(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_, w) | Self::Avx512Vnni(_, w) => w.unpack(),
        }
    }

    /// Bytes of the codes of a unit of rows.
    pub(crate) fn unit_bytes(&self) -> usize {
        match self {
            Self::Scalar(_, w) => UNIT_ROWS * w.scheme().bits.row_bytes(w.cols()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_, w) | Self::Avx512Vnni(_, w) => w.block_bytes(),
        }
    }

    /// Units that parts of many rows should have a multiple of.
    pub(crate) fn tile_units(&self) -> usize {
        fn tile_units<K: Kernel>(_: K) -> usize {
            K::TILE_UNITS
        }
        with!(self, kernel, _ => tile_units(*kernel))
    }

    /// [`Kernel::arrange`].
    pub(crate) fn arrange(&self, x: Input<'_>, workspace: &mut Workspace) -> usize {
        with!(self, kernel, w => kernel.arrange(x, w, workspace))
    }

    /// [`Kernel::part`].
    pub(super) fn part(&self, part: Part<'_>) {
        with!(self, kernel, w => kernel.part(w, part));
    }

    /// [`Kernel::accumulate`].
    pub(crate) fn accumulate(&self, x: &QuantizedActivations, out: &mut [i32]) {
        with!(self, kernel, w => kernel.accumulate(x, w, out));
    }
}
