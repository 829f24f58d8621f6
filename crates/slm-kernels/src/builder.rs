//! Packing from rows of codes as they arrive, without the whole matrix in its canonical layout.

use std::ops::Range;

use slm_quant_core::{Bits, Error, QuantScheme, QuantizedMatrix, Result, Scales, check_len};

use crate::KernelKind;
use crate::PackedMatrix;
use crate::kernel::NR;
use crate::packing::Packing;
use crate::packing::RowsMut;

/// Builds a [`PackedMatrix`] from rows of codes, in any order and on any threads.
///
/// The result equals [`PackedMatrix::new`] of the whole matrix, with the same checks as
/// [`QuantizedMatrix::from_parts`](slm_quant_core::QuantizedMatrix::from_parts). The only memory used is that of the
/// result.
///
/// ```
/// use slm_kernels::*;
/// use slm_quant_core::*;
///
/// let scheme = QuantScheme::per_tensor(Bits::Int8);
/// let (rows, cols) = (40, 3);
/// let codes = vec![1; rows * cols];
/// let mut builder = PackedMatrixBuilder::new(rows, cols, scheme, KernelKind::best())?;
/// let (first, last) = builder.rows_mut().split_at(32)?;
/// last.fill(&codes[32 * cols..])?;
/// first.fill(&codes[..32 * cols])?;
/// let matrix = builder.finish(Scales::F32(vec![0.5]), None)?;
/// assert_eq!(matrix.code(39, 2), 1);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct PackedMatrixBuilder {
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    packing: Packing,
    /// For each panel of rows, `true` once its codes are there.
    filled: Vec<bool>,
}

impl PackedMatrixBuilder {
    /// Rows that are packed together. A part of a matrix begins at a multiple of this number.
    pub const PANEL_ROWS: usize = NR;

    /// Reserves memory for a `[rows, cols]` matrix (`rows` outputs, `cols` inputs).
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Parameter`] for a shape that does not fit in memory, [`Error::GroupSize`], and as
    /// [`PackedMatrix::new`].
    pub fn new(rows: usize, cols: usize, scheme: QuantScheme, kernel: KernelKind) -> Result<Self> {
        QuantizedMatrix::check_shape(rows, cols, scheme)?;
        PackedMatrix::check_width(cols, scheme)?;
        let packing = Packing::new(rows, cols, scheme, kernel)?;
        Ok(Self { rows, cols, scheme, packing, filled: vec![false; rows.div_ceil(NR)] })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Packed bytes of one row of codes, as [`QuantizedMatrix`](slm_quant_core::QuantizedMatrix) describes them.
    pub fn row_bytes(&self) -> usize {
        self.scheme.bits.row_bytes(self.cols)
    }

    /// The destination of the codes of all rows.
    pub fn rows_mut(&mut self) -> PackedRows<'_> {
        PackedRows {
            first: 0,
            count: self.rows,
            cols: self.cols,
            bits: self.scheme.bits,
            into: self.packing.rows_mut(),
            filled: &mut self.filled,
        }
    }

    /// Finishes the matrix.
    ///
    /// # Errors
    /// [`Error::Length`] where not every row was filled, and as
    /// [`QuantizedMatrix::from_parts`](slm_quant_core::QuantizedMatrix::from_parts) for scales and zero points.
    pub fn finish(self, scales: Scales, zero_points: Option<Vec<i8>>) -> Result<PackedMatrix> {
        let panel_rows = |panel: usize| NR.min(self.rows - panel * NR);
        let filled = self.filled.iter().enumerate().filter(|(_, filled)| **filled);
        check_len("packed rows", self.rows, filled.map(|(panel, _)| panel_rows(panel)).sum())?;
        QuantizedMatrix::check_params(self.rows, self.cols, self.scheme, &scales, zero_points.as_deref())?;
        Ok(PackedMatrix::from_packed(self.packing.finish(scales, zero_points)))
    }
}

/// The destination of some rows of a [`PackedMatrixBuilder`].
#[derive(Debug)]
pub struct PackedRows<'a> {
    /// A multiple of [`NR`].
    first: usize,
    count: usize,
    cols: usize,
    bits: Bits,
    into: RowsMut<'a>,
    filled: &'a mut [bool],
}

impl PackedRows<'_> {
    /// The range of these rows.
    pub fn rows(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    /// Splits into the rows before `row` and those from it on.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a `row` outside these rows, or one that is neither a multiple of
    /// [`PackedMatrixBuilder::PANEL_ROWS`] nor the row after the last.
    pub fn split_at(self, row: usize) -> Result<(Self, Self)> {
        let (rows, end) = (self.rows(), self.first + self.count);
        if !(row == end || rows.contains(&row) && row.is_multiple_of(NR)) {
            return Err(Error::Parameter {
                what: "row",
                detail: format!("{row} is not a multiple of {NR} in {} to {end}, nor {end}", self.first),
            });
        }
        let Self { first, cols, bits, into, filled, .. } = self;
        let panels = (row - first).div_ceil(NR);
        let (before, into) = into.split_at(panels);
        let (filled_before, filled) = filled.split_at_mut(panels);
        let before = Self { first, count: row - first, cols, bits, into: before, filled: filled_before };
        Ok((before, Self { first: row, count: end - row, cols, bits, into, filled }))
    }

    /// Packs the codes of all these rows, which come row by row, packed as
    /// [`QuantizedMatrix`](slm_quant_core::QuantizedMatrix) describes.
    ///
    /// # Errors
    /// [`Error::Length`], and [`Error::Parameter`] for an odd INT4 row that does not end in a zero nibble.
    pub fn fill(self, codes: &[u8]) -> Result<()> {
        check_len("codes", self.count * self.bits.row_bytes(self.cols), codes.len())?;
        QuantizedMatrix::check_codes(self.first, self.cols, self.bits, codes)?;
        self.into.fill(codes);
        self.filled.fill(true);
        Ok(())
    }
}
