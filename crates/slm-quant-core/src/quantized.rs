//! A quantized weight matrix in the canonical, row-major form that checkpoints store.

use half::f16;

use crate::pack;
use crate::scan::check_len;
use crate::{Bits, Error, Mapping, QParams, QuantScheme, Result, ScaleDtype};

/// Scales in the type they are stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// 32-bit scales.
    F32(Vec<f32>),
    /// 16-bit scales.
    F16(Vec<f16>),
}

impl Scales {
    /// Stores `values` as `dtype`, rounding to nearest even.
    pub fn from_f32(values: Vec<f32>, dtype: ScaleDtype) -> Self {
        match dtype {
            ScaleDtype::F32 => Self::F32(values),
            ScaleDtype::F16 => Self::F16(values.into_iter().map(f16::from_f32).collect()),
        }
    }

    /// Number of scales.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
        }
    }

    /// Returns `true` if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type in which the scales are stored.
    #[inline]
    pub fn dtype(&self) -> ScaleDtype {
        match self {
            Self::F32(_) => ScaleDtype::F32,
            Self::F16(_) => ScaleDtype::F16,
        }
    }

    /// Scale `index`, widened.
    ///
    /// # Panics
    /// When `index` is out of bounds, as slices do.
    #[inline]
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(v) => v[index],
            Self::F16(v) => v[index].to_f32(),
        }
    }

    /// All scales, widened.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.len()).map(|i| self.get(i)).collect()
    }
}

/// A quantized `[rows, cols]` weight matrix (`rows` outputs, `cols` inputs).
///
/// Codes are row-major and signed. An INT8 code takes one byte. INT4 codes are packed two to a byte in two's
/// complement, the even column in the low nibble; an odd row ends in a zero nibble, so that every row starts on a byte
/// boundary. Scales are ordered by row, then by group within the row. Zero points exist only in the affine mapping, one
/// for each scale.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedMatrix {
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    codes: Vec<u8>,
    scales: Scales,
    zero_points: Option<Vec<i8>>,
}

impl QuantizedMatrix {
    /// Assembles a matrix from stored parts, checking everything about them.
    ///
    /// # Errors
    /// [`Error::Length`] where a part does not fit the shape or zero points are missing or unexpected,
    /// [`Error::NotFinite`] for a scale that is not finite, and [`Error::Parameter`] for a scale that is 0, a negative
    /// scale unless the mapping is [`Mapping::Symmetric`], a zero point outside the code range, or an odd INT4 row that
    /// does not end in a zero nibble.
    pub fn from_parts(
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        codes: Vec<u8>,
        scales: Scales,
        zero_points: Option<Vec<i8>>,
    ) -> Result<Self> {
        let bytes = Self::check_shape(rows, cols, scheme)?;
        check_len("codes", bytes, codes.len())?;
        Self::check_codes(0, cols, scheme.bits, &codes)?;
        Self::check_params(rows, cols, scheme, &scales, zero_points.as_deref())?;
        Ok(Self { rows, cols, scheme, codes, scales, zero_points })
    }

    /// Assembles a matrix from parts that are known to pass [`QuantizedMatrix::check_shape`],
    /// [`QuantizedMatrix::check_codes`] and [`QuantizedMatrix::check_params`], such as those from
    /// [`QuantizedMatrix::into_parts`]. With other parts, methods return wrong values or panic.
    pub fn from_checked_parts(
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        codes: Vec<u8>,
        scales: Scales,
        zero_points: Option<Vec<i8>>,
    ) -> Self {
        Self { rows, cols, scheme, codes, scales, zero_points }
    }

    /// Outputs.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Quantization scheme.
    #[inline]
    pub fn scheme(&self) -> QuantScheme {
        self.scheme
    }

    /// Packed codes, as described on the type.
    #[inline]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Packed codes. Replacements must have the same length and pass the checks of [`QuantizedMatrix::from_parts`].
    pub(crate) fn codes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.codes
    }

    /// Scales by row, then group.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Zero points, one for each scale; `None` in a symmetric mapping, where they are all 0.
    pub fn zero_points(&self) -> Option<&[i8]> {
        self.zero_points.as_deref()
    }

    /// Parameters of scale `index`.
    #[inline]
    pub fn qparams(&self, index: usize) -> QParams {
        QParams {
            scale: self.scales.get(index),
            zero_point: self.zero_points.as_ref().map_or(0, |z| i32::from(z[index])),
        }
    }

    /// Columns that share a scale within a row.
    #[inline]
    pub fn group_width(&self) -> usize {
        self.scheme.granularity.group_width(self.cols).unwrap_or(self.cols)
    }

    /// Scales per row (1 unless the granularity is per group).
    #[inline]
    pub fn groups_per_row(&self) -> usize {
        self.cols.div_ceil(self.group_width())
    }

    /// Index of the scale of row `row`, group `group`.
    #[inline]
    pub fn scale_index(&self, row: usize, group: usize) -> usize {
        match self.scheme.granularity {
            crate::Granularity::PerTensor => 0,
            _ => row * self.groups_per_row() + group,
        }
    }

    /// Packed bytes of one row.
    #[inline]
    pub fn row_codes(&self, row: usize) -> &[u8] {
        let bytes = self.scheme.bits.row_bytes(self.cols);
        &self.codes[row * bytes..][..bytes]
    }

    /// The code at (`row`, `col`).
    #[inline]
    pub fn code(&self, row: usize, col: usize) -> i8 {
        let codes = self.row_codes(row);
        match self.scheme.bits {
            Bits::Int8 => codes[col].cast_signed(),
            Bits::Int4 if col.is_multiple_of(2) => pack::low(codes[col / 2]),
            Bits::Int4 => pack::high(codes[col / 2]),
        }
    }

    /// Bytes of codes, scales and zero points.
    pub fn byte_size(&self) -> usize {
        self.codes.len()
            + self.scales.len() * self.scales.dtype().size()
            + self.zero_points.as_ref().map_or(0, Vec::len)
    }

    /// Splits the matrix into codes, scales and zero points.
    pub fn into_parts(self) -> (Vec<u8>, Scales, Option<Vec<i8>>) {
        (self.codes, self.scales, self.zero_points)
    }
}

impl QuantizedMatrix {
    /// Rejects an invalid shape. Returns the bytes of its codes.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::GroupSize`], and [`Error::Parameter`] for a shape that does not fit in memory.
    pub fn check_shape(rows: usize, cols: usize, scheme: QuantScheme) -> Result<usize> {
        if rows == 0 || cols == 0 {
            return Err(Error::Empty { what: "matrix" });
        }
        scheme.granularity.group_width(cols)?;
        rows.checked_mul(scheme.bits.row_bytes(cols)).ok_or_else(|| Error::Parameter {
            what: "matrix shape",
            detail: format!("{rows} x {cols} does not fit in memory"),
        })
    }

    /// Rejects packed codes of whole rows, starting at row `first`, that are not as [`QuantizedMatrix`] describes them.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an odd INT4 row that does not end in a zero nibble.
    pub fn check_codes(first: usize, cols: usize, bits: Bits, codes: &[u8]) -> Result<()> {
        if bits == Bits::Int8 || cols.is_multiple_of(2) {
            return Ok(());
        }
        let mut rows = codes.chunks_exact(bits.row_bytes(cols));
        match rows.position(|row| row.last().is_some_and(|byte| pack::high(*byte) != 0)) {
            None => Ok(()),
            Some(row) => Err(Error::Parameter {
                what: "codes",
                detail: format!(
                    "row {}, of an odd number of INT4 codes, does not end in a zero nibble",
                    first + row
                ),
            }),
        }
    }

    /// Rejects scales and zero points that do not fit a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// As [`QuantizedMatrix::from_parts`] for scales and zero points.
    pub fn check_params(
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        scales: &Scales,
        zero_points: Option<&[i8]>,
    ) -> Result<()> {
        let count = scheme.granularity.scale_count(rows, cols)?;
        check_len("scales", count, scales.len())?;
        if scales.dtype() != scheme.scale_dtype {
            return Err(Error::Parameter {
                what: "scale dtype",
                detail: format!("the scheme says {}, the scales are {}", scheme.scale_dtype, scales.dtype()),
            });
        }
        for index in 0..count {
            let value = scales.get(index);
            if !value.is_finite() {
                return Err(Error::NotFinite { what: "scales", index, value });
            }
            // Negative scales mirror a symmetric grid.
            if value == 0.0 || (value < 0.0 && scheme.mapping != Mapping::Symmetric) {
                return Err(Error::Parameter {
                    what: "scales",
                    detail: format!("value {value} at index {index} is not positive"),
                });
            }
        }
        match zero_points {
            Some(z) if scheme.mapping.is_symmetric() => {
                Err(Error::Length { what: "zero points", expected: 0, found: z.len() })
            }
            None if !scheme.mapping.is_symmetric() => {
                Err(Error::Length { what: "zero points", expected: count, found: 0 })
            }
            Some(z) => {
                check_len("zero points", count, z.len())?;
                let range = scheme.range();
                let outside =
                    |&&z: &&i8| i32::from(z) < range.quant_min() || i32::from(z) > range.quant_max();
                match z.iter().find(outside) {
                    None => Ok(()),
                    Some(z) => Err(Error::Parameter {
                        what: "zero points",
                        detail: format!("{z} is outside [{}, {}]", range.quant_min(), range.quant_max()),
                    }),
                }
            }
            None => Ok(()),
        }
    }
}
