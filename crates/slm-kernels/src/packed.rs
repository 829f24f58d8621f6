//! Weights together with the kernel that reads them.

use slm_quant_core::{QParams, QuantScheme, QuantizedMatrix, Result};

use crate::KernelKind;
use crate::QuantizedActivations;
use crate::Workspace;
use crate::isa::{Isa, with_isa};
use crate::kernel::{Input, Kernel, MatmulPart, NR};
use crate::packed_rhs::PackedRhs;
use crate::scalar::Scalar;

/// Weights packed for a kernel that this processor can run.
#[derive(Debug, Clone)]
pub(crate) enum Packed {
    Scalar(QuantizedMatrix),
    Vector(Isa, PackedRhs),
}

/// Evaluates `$body` with the weights of any kernel.
macro_rules! with_weights {
    ($packed:expr, $weights:ident => $body:expr) => {
        match $packed {
            Packed::Scalar($weights) => $body,
            Packed::Vector(_, $weights) => $body,
        }
    };
}

/// Evaluates `$body` with any kernel and its weights.
macro_rules! with {
    ($packed:expr, $kernel:ident, $weights:pat => $body:expr) => {
        match $packed {
            Packed::Scalar($weights) => {
                let $kernel = Scalar;
                $body
            }
            Packed::Vector(isa, $weights) => with_isa!(*isa, $kernel => $body),
        }
    };
}

impl Packed {
    /// Packs `matrix`, or returns an error if the processor lacks the kernel.
    pub(crate) fn new(matrix: QuantizedMatrix, kind: KernelKind) -> Result<Self> {
        if kind == KernelKind::Scalar {
            return Ok(Self::Scalar(matrix));
        }
        let isa = Isa::new(kind).ok_or_else(|| kind.unavailable())?;
        Ok(Self::Vector(isa, PackedRhs::pack(&matrix)))
    }

    pub(crate) fn kernel(&self) -> KernelKind {
        match self {
            Self::Scalar(_) => KernelKind::Scalar,
            Self::Vector(isa, _) => isa.kind(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        with_weights!(self, w => w.rows())
    }

    pub(crate) fn cols(&self) -> usize {
        with_weights!(self, w => w.cols())
    }

    pub(crate) fn scheme(&self) -> QuantScheme {
        with_weights!(self, w => w.scheme())
    }

    pub(crate) fn group_width(&self) -> usize {
        with_weights!(self, w => w.group_width())
    }

    pub(crate) fn groups_per_row(&self) -> usize {
        with_weights!(self, w => w.groups_per_row())
    }

    pub(crate) fn byte_size(&self) -> usize {
        with_weights!(self, w => w.byte_size())
    }

    pub(crate) fn code(&self, row: usize, col: usize) -> i8 {
        with_weights!(self, w => w.code(row, col))
    }

    pub(crate) fn qparams(&self, row: usize, group: usize) -> QParams {
        with_weights!(self, w => w.qparams(w.scale_index(row, group)))
    }

    pub(crate) fn unpack(&self) -> QuantizedMatrix {
        match self {
            Self::Scalar(w) => w.clone(),
            Self::Vector(_, w) => w.unpack(),
        }
    }

    /// Bytes of the codes of a panel of rows.
    pub(crate) fn panel_bytes(&self) -> usize {
        match self {
            Self::Scalar(w) => NR * w.scheme().bits.row_bytes(w.cols()),
            Self::Vector(_, w) => w.panel_bytes(),
        }
    }

    /// Granularity of panels in parts of many rows.
    pub(crate) fn panels_per_tile(&self) -> usize {
        fn panels_per_tile<K: Kernel>(_: K) -> usize {
            K::PANELS_PER_TILE
        }
        with!(self, kernel, _ => panels_per_tile(kernel))
    }

    /// [`Kernel::pack_lhs`].
    pub(crate) fn pack_lhs(&self, x: Input<'_>, workspace: &mut Workspace) -> usize {
        with!(self, kernel, w => kernel.pack_lhs(x, w, workspace))
    }

    /// [`Kernel::part`].
    pub(crate) fn part(&self, part: MatmulPart<'_>) {
        with!(self, kernel, w => kernel.part(w, part));
    }

    /// [`Kernel::accumulate`].
    pub(crate) fn accumulate(&self, x: &QuantizedActivations, out: &mut [i32]) {
        with!(self, kernel, w => kernel.accumulate(x, w, out));
    }
}
