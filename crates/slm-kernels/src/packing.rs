//! A matrix that is packed for a kernel a few rows at a time.

use slm_quant_core::{QuantScheme, QuantizedMatrix, Result, Scales};

use crate::KernelKind;
use crate::isa::Isa;
use crate::kernel::NR;
use crate::packed::Packed;
use crate::packed_rhs::PackedRhs;
use crate::panel_rows::PanelRows;

/// Codes being packed in the layout of a kernel that this processor can run.
#[derive(Debug)]
pub(crate) enum Packing {
    Scalar { rows: usize, cols: usize, scheme: QuantScheme, codes: Vec<u8> },
    Vector(Isa, Box<PackedRhs>),
}

impl Packing {
    /// Reserves memory for a matrix of a valid shape, or returns an error if the processor lacks the kernel.
    pub(crate) fn new(rows: usize, cols: usize, scheme: QuantScheme, kind: KernelKind) -> Result<Self> {
        if kind == KernelKind::Scalar {
            let codes = vec![0; rows * scheme.bits.row_bytes(cols)];
            return Ok(Self::Scalar { rows, cols, scheme, codes });
        }
        let isa = Isa::new(kind).ok_or_else(|| kind.unavailable())?;
        Ok(Self::Vector(isa, Box::new(PackedRhs::new(rows, cols, scheme))))
    }

    /// The destination of the codes of all rows.
    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        match self {
            Self::Scalar { cols, scheme, codes, .. } => {
                RowsMut::Canonical { panel_bytes: NR * scheme.bits.row_bytes(*cols), codes }
            }
            Self::Vector(_, packed_rhs) => RowsMut::Panels(packed_rhs.rows_mut()),
        }
    }

    /// Finishes the matrix with scales and zero points that fit it.
    pub(crate) fn finish(self, scales: Scales, zero_points: Option<Vec<i8>>) -> Packed {
        match self {
            Self::Scalar { rows, cols, scheme, codes } => {
                let matrix =
                    QuantizedMatrix::from_checked_parts(rows, cols, scheme, codes, scales, zero_points);
                Packed::Scalar(matrix)
            }
            Self::Vector(isa, mut packed_rhs) => {
                packed_rhs.set_params(&scales, zero_points.as_deref());
                Packed::Vector(isa, *packed_rhs)
            }
        }
    }
}

/// The destination of the codes of some rows.
#[derive(Debug)]
pub(crate) enum RowsMut<'a> {
    Canonical { panel_bytes: usize, codes: &'a mut [u8] },
    Panels(PanelRows<'a>),
}

impl RowsMut<'_> {
    /// Splits into the rows of the first `panels` panels, which must exist, and the rows after them.
    pub(crate) fn split_at(self, panels: usize) -> (Self, Self) {
        match self {
            Self::Canonical { panel_bytes, codes } => {
                let (first, codes) = codes.split_at_mut(codes.len().min(panels * panel_bytes));
                (Self::Canonical { panel_bytes, codes: first }, Self::Canonical { panel_bytes, codes })
            }
            Self::Panels(rows) => {
                let (first, rows) = rows.split_at(panels);
                (Self::Panels(first), Self::Panels(rows))
            }
        }
    }

    /// Packs the codes of all these rows, given in canonical order and with the right length.
    pub(crate) fn fill(self, from: &[u8]) {
        match self {
            Self::Canonical { codes, .. } => codes.copy_from_slice(from),
            Self::Panels(rows) => rows.fill(from),
        }
    }
}
