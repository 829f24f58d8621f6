//! Packing a matrix from rows of codes as they come, without the matrix in its canonical layout.

use std::ops::Range;

use slm_quant_core::{Bits, Error, QuantScheme, QuantizedMatrix, Result, Scales, check_len};

use crate::KernelKind;
use crate::PackedMatrix;
use crate::kernel::NR;
use crate::packing::Packing;
use crate::packing::RowsMut;

/// A [`PackedMatrix`] that is being made from rows of codes, in any order and on any threads.
///
/// What comes out is what [`PackedMatrix::new`] makes of the whole matrix, with everything checked that
/// [`QuantizedMatrix::from_parts`](slm_quant_core::QuantizedMatrix::from_parts) checks. No more memory is taken than that of
/// the result.
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
    /// Of each panel of rows, whether its codes are there.
    filled: Vec<bool>,
}

impl PackedMatrixBuilder {
    /// Rows whose codes are taken together: parts of a matrix begin at a multiple of it.
    pub const PANEL_ROWS: usize = NR;

    /// Room for a `[rows, cols]` matrix (`rows` outputs, `cols` inputs).
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

    /// Where the codes of all rows go.
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

    /// The matrix.
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

/// Where the codes of some rows of a [`PackedMatrixBuilder`] go.
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
    /// Which rows these are.
    pub fn rows(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    /// The rows before `row`, and those from it on.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a row that is none of these, or neither a multiple of
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

    /// Takes the codes of all these rows, row by row, packed as
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
