//! Destinations of the bytes of a tensor that is read as part of a whole file.

use slm_kernels::PackedMatrixBuilder;
use slm_kernels::PackedRows;

use super::convert::first_not_finite;

/// The memory of a tensor that is being read.
#[derive(Debug)]
pub enum Destination {
    /// An F32 tensor, which must be finite.
    Floats(Vec<f32>),
    /// An F16 or BF16 tensor, as it is.
    Halves(Vec<u16>),
    /// Codes, which are packed for a kernel as they come.
    Codes(Box<PackedMatrixBuilder>),
    /// The bytes of a small tensor of any type, as they are.
    Bytes(Vec<u8>),
}

impl Destination {
    /// The whole of it, to be filled.
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

/// Reason for refusing bytes.
#[derive(Debug)]
pub(super) enum Refused {
    NotFinite { index: usize, value: f32 },
    Codes(slm_quant_core::Error),
}

impl Slot<'_> {
    /// Bytes that fill it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats { values, .. } => size_of_val(&**values),
            Self::Halves(values) => size_of_val(&**values),
            Self::Codes { row_bytes, rows } => rows.rows().len() * row_bytes,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// It can be split after any number of so many bytes. What is left at the end may be less.
    pub(super) fn unit_bytes(&self) -> usize {
        match self {
            Self::Floats { .. } => size_of::<f32>(),
            Self::Halves(_) => size_of::<u16>(),
            Self::Codes { row_bytes, .. } => PackedMatrixBuilder::PANEL_ROWS * row_bytes,
            Self::Bytes(_) => 1,
        }
    }

    /// The part that the first `bytes` fill, which are whole units or all, and the rest.
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

    /// Fills it with `from`, which is [`Slot::bytes`] long.
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
