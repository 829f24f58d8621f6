//! Quantizing a weight matrix, and reading one back.

use rayon::prelude::*;

use crate::pack::{pack_row, unpack_row};
use crate::qparams::{TORCHAO_EPS, choose_qparams_stored};
use crate::round::Quantizer;
use crate::scan::{check_finite, check_len};
use crate::{Bits, Error, Granularity, ObserverKind, QParams, QuantScheme, QuantizedMatrix, Result, Scales};

/// Quantizes a `[rows, cols]` weight, row-major: for every tensor, row or group `observer` chooses a range,
/// the range gives scale and zero point, and these give the codes.
///
/// Scales are rounded to the scheme's type before anything is quantized with them. The least scale is
/// [`TORCHAO_EPS`], so that a row of tiny weights keeps its shape; an all-zero one gets exactly that scale.
///
/// Rows are handled in parallel. The result does not depend on the number of threads, and beyond input and
/// output each thread holds a row of codes and what the observer needs for one row or group.
///
/// # Errors
/// [`Error::Length`], [`Error::Empty`] and [`Error::GroupSize`] for shapes, [`Error::NotFinite`] for a NaN
/// or an infinity (`index` is row-major), [`Error::Parameter`] for a scale that its type does not hold.
///
/// ```
/// use slm_quant_core::{Bits, Granularity, ObserverKind, QuantScheme, quantize_matrix};
///
/// let weight = [0.1, -0.8, 0.3, 0.7, 0.2, -0.4];
/// let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerChannel);
/// let quantized = quantize_matrix(&weight, 2, 3, scheme, &ObserverKind::MinMax)?;
/// assert_eq!(quantized.scales().to_f32(), [0.1, 0.1]);
/// assert_eq!(quantized.code(0, 1), -8);
/// assert_eq!(quantized.byte_size(), 2 * 2 + 2 * 4);
/// # Ok::<(), slm_quant_core::Error>(())
/// ```
pub fn quantize_matrix(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    observer: &ObserverKind,
) -> Result<QuantizedMatrix> {
    let qparams = choose_matrix_qparams(weight, rows, cols, scheme, observer)?;
    let scales = Scales::from_f32(qparams.iter().map(|q| q.scale).collect(), scheme.scale_dtype);
    let zero_points =
        (!scheme.mapping.is_symmetric()).then(|| qparams.iter().map(|q| q.zero_point as i8).collect());
    drop(qparams);
    encode(weight, rows, cols, scheme, scales, zero_points)
}

/// The scales and zero points that [`quantize_matrix`] quantizes with, in the order of
/// [`QuantizedMatrix::scales`].
///
/// # Errors
/// As [`quantize_matrix`].
pub fn choose_matrix_qparams(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    observer: &ObserverKind,
) -> Result<Vec<QParams>> {
    check_weight(weight, rows, cols)?;
    let choose = |values: &[f32]| {
        let (lo, hi) = observer.choose_range(values, scheme.range(), scheme.mapping, TORCHAO_EPS)?;
        choose_qparams_stored(lo, hi, scheme.range(), scheme.mapping, TORCHAO_EPS, scheme.scale_dtype)
    };
    match scheme.granularity {
        Granularity::PerTensor => Ok(vec![choose(weight)?]),
        Granularity::PerChannel | Granularity::PerGroup { .. } => {
            let groups = scheme.granularity.groups_per_row(cols)?;
            let width = scheme.granularity.group_width(cols)?;
            let mut qparams = vec![QParams { scale: 1.0, zero_point: 0 }; rows * groups];
            let row = |(row, qparams): (&[f32], &mut [QParams])| {
                row.chunks(width).zip(qparams).try_for_each(|(values, qparams)| {
                    *qparams = choose(values)?;
                    Ok(())
                })
            };
            // Collected so that the error of the first row wins, whatever thread was first.
            let outcomes: Vec<Result<()>> =
                weight.par_chunks(cols).zip(qparams.par_chunks_mut(groups)).map(row).collect();
            outcomes.into_iter().collect::<Result<()>>()?;
            Ok(qparams)
        }
    }
}

/// Quantizes a `[rows, cols]` weight with scales and zero points that are given, such as learned ones.
///
/// # Errors
/// As [`quantize_matrix`] for shapes and values, and as [`QuantizedMatrix::from_parts`] for scales and zero
/// points.
pub fn quantize_matrix_with(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    scales: Scales,
    zero_points: Option<Vec<i8>>,
) -> Result<QuantizedMatrix> {
    check_weight(weight, rows, cols)?;
    encode(weight, rows, cols, scheme, scales, zero_points)
}

fn check_weight(weight: &[f32], rows: usize, cols: usize) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Err(Error::Empty { what: "matrix" });
    }
    let expected = rows.checked_mul(cols).ok_or_else(|| Error::Parameter {
        what: "matrix shape",
        detail: format!("{rows} x {cols} does not fit in memory"),
    })?;
    check_len("weight", expected, weight.len())?;
    check_finite("weight", weight)
}

fn encode(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    scales: Scales,
    zero_points: Option<Vec<i8>>,
) -> Result<QuantizedMatrix> {
    let row_bytes = scheme.bits.row_bytes(cols);
    // Assembled with zero codes first, so that scales and zero points are checked before they are used.
    let blank = vec![0; rows * row_bytes];
    let mut matrix = QuantizedMatrix::from_parts(rows, cols, scheme, blank, scales, zero_points)?;
    for index in 0..matrix.scales().len() {
        matrix.qparams(index).check(scheme.range())?;
    }
    let mut codes = std::mem::take(matrix.codes_mut());
    let quantizer =
        |row, group| Quantizer::new(matrix.qparams(matrix.scale_index(row, group)), scheme.range());
    let width = matrix.group_width();
    let encode_row = |scratch: &mut Vec<i8>, (row, (values, packed)): (usize, (&[f32], &mut [u8]))| {
        for (group, (values, codes)) in values.chunks(width).zip(scratch.chunks_mut(width)).enumerate() {
            quantizer(row, group).quantize_into(values, codes);
        }
        match scheme.bits {
            Bits::Int8 => {
                for (byte, code) in packed.iter_mut().zip(scratch) {
                    *byte = code.cast_unsigned();
                }
            }
            Bits::Int4 => pack_row(scratch, packed),
        }
    };
    weight
        .par_chunks(cols)
        .zip(codes.par_chunks_mut(row_bytes))
        .enumerate()
        .for_each_init(|| vec![0_i8; cols], encode_row);
    *matrix.codes_mut() = codes;
    Ok(matrix)
}

impl QuantizedMatrix {
    /// All values, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows() * self.cols()];
        values
            .par_chunks_mut(self.cols())
            .enumerate()
            .for_each_init(|| vec![0_i8; self.cols()], |codes, (row, out)| self.decode_row(row, codes, out));
        values
    }

    /// Writes the values of one row.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer that is not as long as the row, [`Error::Parameter`] for a row that
    /// does not exist.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.check_row(row)?;
        check_len("row", self.cols(), out.len())?;
        self.decode_row(row, &mut vec![0; self.cols()], out);
        Ok(())
    }

    /// Writes the codes of one row, one to an `i8`.
    ///
    /// # Errors
    /// As [`QuantizedMatrix::dequantize_row_into`].
    pub fn unpack_row_into(&self, row: usize, codes: &mut [i8]) -> Result<()> {
        self.check_row(row)?;
        check_len("row", self.cols(), codes.len())?;
        self.unpack_row(row, codes);
        Ok(())
    }

    /// [`QuantizedMatrix::unpack_row_into`] for callers that have checked.
    pub(crate) fn unpack_row(&self, row: usize, codes: &mut [i8]) {
        let packed = self.row_codes(row);
        match self.scheme().bits {
            Bits::Int8 => {
                for (code, byte) in codes.iter_mut().zip(packed) {
                    *code = byte.cast_signed();
                }
            }
            Bits::Int4 => unpack_row(packed, codes),
        }
    }

    fn decode_row(&self, row: usize, codes: &mut [i8], out: &mut [f32]) {
        self.unpack_row(row, codes);
        let width = self.group_width();
        for (group, (out, codes)) in out.chunks_mut(width).zip(codes.chunks(width)).enumerate() {
            let QParams { scale, zero_point } = self.qparams(self.scale_index(row, group));
            for (value, code) in out.iter_mut().zip(codes) {
                *value = (i32::from(*code) - zero_point) as f32 * scale;
            }
        }
    }

    fn check_row(&self, row: usize) -> Result<()> {
        if row < self.rows() {
            return Ok(());
        }
        Err(Error::Parameter { what: "row", detail: format!("{row} of a matrix of {} rows", self.rows()) })
    }
}
