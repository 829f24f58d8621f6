//! Destinations for the bytes of tensors when a whole file is read.

use slm_kernels::PackedMatrixBuilder;
use slm_kernels::PackedRows;

use super::convert::first_not_finite;

/// The memory of a tensor that is being read.
#[derive(Debug)]
pub enum Destination {
    /// An F32 tensor, which must be finite.
    Floats(Vec<f32>),
    /// An F16 or BF16 tensor, as stored.
    Halves(Vec<u16>),
    /// Codes, which are packed for a kernel while they are read.
    Codes(Box<PackedMatrixBuilder>),
    /// The bytes of a small tensor of any type, as stored.
    Bytes(Vec<u8>),
}

impl Destination {
    /// Returns the slot that covers all of it.
    pub(super) fn slot(&mut self) -> Slot<'_> {
        match self {
            Self::Floats(values) => Slot::Floats { first: 0, values },
            Self::Halves(values) => Slot::Halves(values),
            Self::Codes(builder) => Slot::Codes { row_bytes: builder.row_bytes(), rows: builder.rows_mut() },
            Self::Bytes(bytes) => Slot::Bytes(bytes),
        }
    }
}

/// A part of a [`Destination`], which one thread fills.
#[derive(Debug)]
pub(super) enum Slot<'a> {
    /// `first` is the index of the first value in the tensor.
    Floats {
        first: usize,
        values: &'a mut [f32],
    },
    Halves(&'a mut [u16]),
    Codes {
        row_bytes: usize,
        rows: PackedRows<'a>,
    },
    Bytes(&'a mut [u8]),
}

/// Reason for rejecting bytes.
#[derive(Debug)]
pub(super) enum Refused {
    NotFinite { index: usize, value: f32 },
    Codes(slm_quant_core::Error),
}

impl Slot<'_> {
    /// Number of bytes that fill the slot.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats { values, .. } => size_of_val(&**values),
            Self::Halves(values) => size_of_val(&**values),
            Self::Codes { row_bytes, rows } => rows.rows().len() * row_bytes,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Unit in bytes: the slot can be split after any number of units. The last unit may be shorter.
    pub(super) fn unit_bytes(&self) -> usize {
        match self {
            Self::Floats { .. } => size_of::<f32>(),
            Self::Halves(_) => size_of::<u16>(),
            Self::Codes { row_bytes, .. } => PackedMatrixBuilder::PANEL_ROWS * row_bytes,
            Self::Bytes(_) => 1,
        }
    }

    /// Splits the slot after `bytes` bytes, which must be whole units or all of it.
    pub(super) fn split_at(self, bytes: usize) -> Result<(Self, Self), Refused> {
        Ok(match self {
            Self::Floats { first, values } => {
                let (before, values) = values.split_at_mut(bytes / size_of::<f32>());
                let next = first + before.len();
                (Self::Floats { first, values: before }, Self::Floats { first: next, values })
            }
            Self::Halves(values) => {
                let (before, values) = values.split_at_mut(bytes / size_of::<u16>());
                (Self::Halves(before), Self::Halves(values))
            }
            Self::Codes { row_bytes, rows } => {
                let row = rows.rows().start + bytes / row_bytes;
                let (before, rows) = rows.split_at(row).map_err(Refused::Codes)?;
                (Self::Codes { row_bytes, rows: before }, Self::Codes { row_bytes, rows })
            }
            Self::Bytes(all) => {
                let (before, all) = all.split_at_mut(bytes);
                (Self::Bytes(before), Self::Bytes(all))
            }
        })
    }

    /// Fills the slot with `from`, which must be [`Slot::bytes`] long.
    pub(super) fn fill(self, from: &[u8]) -> Result<(), Refused> {
        match self {
            Self::Floats { first, values } => {
                for (value, bytes) in values.iter_mut().zip(from.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
                match first_not_finite(values) {
                    Some((index, value)) => Err(Refused::NotFinite { index: first + index, value }),
                    None => Ok(()),
                }
            }
            Self::Halves(values) => {
                for (value, bytes) in values.iter_mut().zip(from.as_chunks().0) {
                    *value = u16::from_le_bytes(*bytes);
                }
                Ok(())
            }
            Self::Codes { rows, .. } => rows.fill(from).map_err(Refused::Codes),
            Self::Bytes(to) => {
                to.copy_from_slice(from);
                Ok(())
            }
        }
    }
}
