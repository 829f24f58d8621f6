//! A weight matrix in the layout that one kernel reads.

use slm_quant_core::{Error, QParams, QuantScheme, QuantizedMatrix, Result, check_len, max_safe_products};

use crate::KernelKind;
use crate::packed::Packed;

/// A quantized `[rows, cols]` weight matrix in the layout that one kernel reads.
///
/// Packing moves codes, scales and zero points without changing them. [`PackedMatrix::unpack`] returns the same matrix.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    packed: Packed,
}

impl PackedMatrix {
    /// Packs `matrix` for `kernel`.
    ///
    /// # Errors
    /// [`Error::KernelUnavailable`] if this processor cannot run the kernel, [`Error::AccumulatorOverflow`] if a group
    /// (or row) is so wide that its sum of products with 8-bit activations could exceed 32 bits.
    pub fn new(matrix: QuantizedMatrix, kernel: KernelKind) -> Result<Self> {
        Self::check_width(matrix.cols(), matrix.scheme())?;
        Ok(Self { packed: Packed::new(matrix, kernel)? })
    }

    /// Rejects groups (or rows) whose sums of products with 8-bit activations could exceed 32 bits.
    pub(crate) fn check_width(cols: usize, scheme: QuantScheme) -> Result<()> {
        let (k, max_k) = (scheme.granularity.group_width(cols)?, max_safe_products::<u8>(scheme));
        if k > max_k { Err(Error::AccumulatorOverflow { k, max_k }) } else { Ok(()) }
    }

    pub(crate) fn from_packed(packed: Packed) -> Self {
        Self { packed }
    }

    pub(crate) fn packed(&self) -> &Packed {
        &self.packed
    }

    /// The kernel that the matrix is packed for.
    pub fn kernel(&self) -> KernelKind {
        self.packed.kernel()
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.packed.rows()
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.packed.cols()
    }

    /// The quantization scheme.
    pub fn scheme(&self) -> QuantScheme {
        self.packed.scheme()
    }

    /// Columns that share a scale within a row.
    pub fn group_width(&self) -> usize {
        self.packed.group_width()
    }

    /// Scales per row (1 unless the granularity is per group).
    pub fn groups_per_row(&self) -> usize {
        self.packed.groups_per_row()
    }

    /// Bytes held in memory: codes, scales, zero points and padding.
    pub fn byte_size(&self) -> usize {
        self.packed.byte_size()
    }

    /// The code at (`row`, `col`).
    ///
    /// # Panics
    /// If an index is out of bounds, as for slices.
    pub fn code(&self, row: usize, col: usize) -> i8 {
        self.packed.code(row, col)
    }

    /// Scale and zero point of one group of one row.
    ///
    /// # Panics
    /// If an index is out of bounds, as for slices.
    pub fn qparams(&self, row: usize, group: usize) -> QParams {
        self.packed.qparams(row, group)
    }

    /// Writes row `row` as floats, `(code - zero_point) * scale`.
    ///
    /// # Errors
    /// [`Error::Length`] if `out` is not [`PackedMatrix::cols`] long, [`Error::Parameter`] for a row that does not
    /// exist.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) -> Result<()> {
        check_len("row", self.cols(), out.len())?;
        if row >= self.rows() {
            return Err(Error::Parameter {
                what: "row",
                detail: format!("{row} of a matrix of {} rows", self.rows()),
            });
        }
        let width = self.group_width();
        for (group, values) in out.chunks_mut(width).enumerate() {
            let params = self.qparams(row, group);
            for (i, value) in values.iter_mut().enumerate() {
                let code = i32::from(self.code(row, group * width + i));
                *value = (code - params.zero_point) as f32 * params.scale;
            }
        }
        Ok(())
    }

    /// The matrix in its canonical layout, exactly as it was before packing.
    pub fn unpack(&self) -> QuantizedMatrix {
        self.packed.unpack()
    }
}
