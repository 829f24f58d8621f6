//! A matrix that is being packed for a kernel, a few rows at a time.

use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512Vnni, block_rows::BlockRows, blocked::Blocked};
use super::{KernelKind, Packed, UNIT_ROWS};
use crate::{QuantScheme, QuantizedMatrix, Result, Scales};

/// Codes on their way into the layout of a kernel that this processor can run.
#[derive(Debug)]
pub(crate) enum Packing {
    Scalar {
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        codes: Vec<u8>,
    },
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2, Blocked),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni, Blocked),
}

impl Packing {
    /// Room for a matrix of a valid shape, or says that the processor lacks the kernel.
    pub(crate) fn new(rows: usize, cols: usize, scheme: QuantScheme, kind: KernelKind) -> Result<Self> {
        let packing = match kind {
            KernelKind::Scalar => {
                let codes = vec![0; rows * scheme.bits.row_bytes(cols)];
                Some(Self::Scalar { rows, cols, scheme, codes })
            }
            #[cfg(target_arch = "x86_64")]
            KernelKind::Avx2 => {
                Avx2::new().map(|kernel| Self::Avx2(kernel, Blocked::new(rows, cols, scheme)))
            }
            #[cfg(target_arch = "x86_64")]
            KernelKind::Avx512Vnni => {
                Avx512Vnni::new().map(|kernel| Self::Avx512Vnni(kernel, Blocked::new(rows, cols, scheme)))
            }
            #[cfg(not(target_arch = "x86_64"))]
            KernelKind::Avx2 | KernelKind::Avx512Vnni => None,
        };
        packing.ok_or_else(|| kind.unavailable())
    }

    /// Where the codes of all rows go.
    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        match self {
            Self::Scalar { cols, scheme, codes, .. } => {
                RowsMut::Canonical { unit_bytes: UNIT_ROWS * scheme.bits.row_bytes(*cols), codes }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_, blocked) | Self::Avx512Vnni(_, blocked) => RowsMut::Blocks(blocked.rows_mut()),
        }
    }

    /// The matrix, with scales and zero points that fit it.
    pub(crate) fn finish(self, scales: Scales, zero_points: Option<Vec<i8>>) -> Packed {
        match self {
            Self::Scalar { rows, cols, scheme, codes } => {
                let matrix =
                    QuantizedMatrix::from_valid_parts(rows, cols, scheme, codes, scales, zero_points);
                Packed::Scalar(Scalar, matrix)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel, mut blocked) => {
                blocked.set_params(&scales, zero_points.as_deref());
                Packed::Avx2(kernel, blocked)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(kernel, mut blocked) => {
                blocked.set_params(&scales, zero_points.as_deref());
                Packed::Avx512Vnni(kernel, blocked)
            }
        }
    }
}

/// Where the codes of some rows go.
#[derive(Debug)]
pub(crate) enum RowsMut<'a> {
    Canonical {
        unit_bytes: usize,
        codes: &'a mut [u8],
    },
    #[cfg(target_arch = "x86_64")]
    Blocks(BlockRows<'a>),
}

impl RowsMut<'_> {
    /// The rows of the first `units` units, which must be there, and those after them.
    pub(crate) fn split_at(self, units: usize) -> (Self, Self) {
        match self {
            Self::Canonical { unit_bytes, codes } => {
                let (first, codes) = codes.split_at_mut(codes.len().min(units * unit_bytes));
                (Self::Canonical { unit_bytes, codes: first }, Self::Canonical { unit_bytes, codes })
            }
            #[cfg(target_arch = "x86_64")]
            Self::Blocks(rows) => {
                let (first, rows) = rows.split_at(units);
                (Self::Blocks(first), Self::Blocks(rows))
            }
        }
    }

    /// Takes the codes of all these rows, in canonical order and of the right length.
    pub(crate) fn fill(self, from: &[u8]) {
        match self {
            Self::Canonical { codes, .. } => codes.copy_from_slice(from),
            #[cfg(target_arch = "x86_64")]
            Self::Blocks(rows) => rows.fill(from),
        }
    }
}
