//! Quantization and dequantization of a weight matrix.

use rayon::prelude::*;

use crate::observer::{choose_weighted, choose_weighted_signed};
use crate::pack::{pack_row, unpack_row};
use crate::qparams::{TORCHAO_EPS, choose_qparams_stored};
use crate::round::Quantizer;
use crate::scan::{check_finite, check_len};
use crate::{
    Bits, Error, ErrorStats, Granularity, Mapping, ObserverKind, QParams, QuantScheme, QuantizedMatrix,
    Result, Scales,
};

/// Quantizes a `[rows, cols]` weight, row-major. For every tensor, row or group `observer` chooses a range, the range
/// gives scale and zero point, and these give the codes.
///
/// Scales are rounded to the scheme's type before anything is quantized with them. The least scale is
/// [`TORCHAO_EPS`], so that a row of tiny weights keeps its shape. A row of zeros gets exactly that scale.
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
    quantize_matrix_with_qparams(weight, rows, cols, scheme, &qparams)
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
    choose_by(weight, rows, cols, scheme, |values, _| {
        let (lo, hi) = observer.choose_range(values, scheme.range(), scheme.mapping, TORCHAO_EPS)?;
        choose_qparams_stored(lo, hi, scheme.range(), scheme.mapping, TORCHAO_EPS, scheme.scale_dtype)
    })
}

/// Scales and zero points of least squared error, with the error of each weight multiplied by the `importance` of its
/// column, in the order of [`QuantizedMatrix::scales`]. An importance is the mean square of that input over typical
/// data. The sum is then the squared error of the output, as long as rounding errors are independent.
///
/// The search is that of [`MseObserver`](crate::MseObserver). With scales as they are stored, the result is never worse
/// than min-max by this measure. `least_gain` is the share of min-max's error, from 0 to 1, that another range must save to
/// be taken: a range that clips has its errors in few outputs, so that a small gain may be none.
///
/// # Errors
/// As [`quantize_matrix`], [`Error::Length`] unless there is one importance for each column, and [`Error::Parameter`]
/// or [`Error::NotFinite`] for one that is negative or not finite; [`Error::Parameter`] for a `least_gain` out of range.
pub fn choose_weighted_qparams(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    importance: &[f32],
    least_gain: f64,
) -> Result<Vec<QParams>> {
    if !(0.0..=1.0).contains(&least_gain) {
        let detail = format!("{least_gain} is not from 0 to 1");
        return Err(Error::Parameter { what: "least gain", detail });
    }
    choose_by_importance(weight, rows, cols, scheme, importance, |values, weights, scheme| {
        choose_weighted(values, weights, scheme, least_gain)
    })
}

/// [`choose_weighted_qparams`] with scales of either sign if one end of the grid reaches further than the other, as in
/// [`Mapping::Symmetric`] with 4 bits, whose codes go from -8 to 7.
///
/// The largest value of a group then gets code -8 whatever its sign. ggml's Q4_0 does the same. On weights of language
/// models in groups of 32 the squared error is a sixth smaller.
pub(crate) fn choose_signed_qparams(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    importance: &[f32],
) -> Result<Vec<QParams>> {
    let choose = match (scheme.bits, scheme.mapping) {
        (Bits::Int4, Mapping::Symmetric) => choose_weighted_signed,
        _ => |values: &[f32], weights: &[f32], scheme| choose_weighted(values, weights, scheme, 0.0),
    };
    choose_by_importance(weight, rows, cols, scheme, importance, choose)
}

/// Calls `choose` for every tensor, row or group, with the importance of its columns.
fn choose_by_importance(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    importance: &[f32],
    choose: impl Fn(&[f32], &[f32], QuantScheme) -> Result<QParams> + Sync,
) -> Result<Vec<QParams>> {
    check_len("importance", cols, importance.len())?;
    check_finite("importance", importance)?;
    if let Some((index, value)) = importance.iter().enumerate().find(|(_, value)| **value < 0.0) {
        let detail = format!("{value} at index {index} is negative");
        return Err(Error::Parameter { what: "importance", detail });
    }
    // Relative, so that sums in f32 neither overflow nor vanish.
    let mean = importance.iter().map(|value| f64::from(*value)).sum::<f64>() / cols.max(1) as f64;
    let relative = |value: &f32| if mean > 0.0 { (f64::from(*value) / mean) as f32 } else { 1.0 };
    let importance: Vec<f32> = importance.iter().map(relative).collect();
    choose_by(weight, rows, cols, scheme, |values, start| {
        let width = values.len().min(cols);
        choose(values, &importance[start..start + width], scheme)
    })
}

/// Calls `choose` for every tensor, row or group, with the column that it starts at.
fn choose_by(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    choose: impl Fn(&[f32], usize) -> Result<QParams> + Sync,
) -> Result<Vec<QParams>> {
    check_weight(weight, rows, cols)?;
    match scheme.granularity {
        Granularity::PerTensor => Ok(vec![choose(weight, 0)?]),
        Granularity::PerChannel | Granularity::PerGroup { .. } => {
            let groups = scheme.granularity.groups_per_row(cols)?;
            let width = scheme.granularity.group_width(cols)?;
            let mut qparams = vec![QParams { scale: 1.0, zero_point: 0 }; rows * groups];
            let row = |(row, qparams): (&[f32], &mut [QParams])| {
                row.chunks(width).zip(qparams).enumerate().try_for_each(|(group, (values, qparams))| {
                    *qparams = choose(values, group * width)?;
                    Ok(())
                })
            };
            // Collected so that the error of the first row wins, whichever thread finishes first.
            let outcomes: Vec<Result<()>> =
                weight.par_chunks(cols).zip(qparams.par_chunks_mut(groups)).map(row).collect();
            outcomes.into_iter().collect::<Result<()>>()?;
            Ok(qparams)
        }
    }
}

/// Quantizes a `[rows, cols]` weight with given scales and zero points, such as learned ones.
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
    Ok(EncodedRows::with_params(rows, cols, scheme, scales, zero_points)?.round_to_nearest(weight))
}

/// [`quantize_matrix_with`] for scales and zero points as [`choose_matrix_qparams`] gives them.
///
/// # Errors
/// As [`quantize_matrix_with`].
pub fn quantize_matrix_with_qparams(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    qparams: &[QParams],
) -> Result<QuantizedMatrix> {
    check_weight(weight, rows, cols)?;
    Ok(EncodedRows::new(rows, cols, scheme, qparams)?.round_to_nearest(weight))
}

pub(crate) fn check_weight(weight: &[f32], rows: usize, cols: usize) -> Result<()> {
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

/// A matrix with checked scales and zero points, while its codes are filled in.
pub(crate) struct EncodedRows {
    matrix: QuantizedMatrix,
    codes: Vec<u8>,
}

impl EncodedRows {
    /// Creates rows whose scales and zero points are stored as `scheme` says.
    pub(crate) fn new(rows: usize, cols: usize, scheme: QuantScheme, qparams: &[QParams]) -> Result<Self> {
        let scales = Scales::from_f32(qparams.iter().map(|q| q.scale).collect(), scheme.scale_dtype);
        let zero_points =
            (!scheme.mapping.is_symmetric()).then(|| qparams.iter().map(|q| q.zero_point as i8).collect());
        Self::with_params(rows, cols, scheme, scales, zero_points)
    }

    fn with_params(
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        scales: Scales,
        zero_points: Option<Vec<i8>>,
    ) -> Result<Self> {
        // Assembled with zero codes first, so that scales and zero points are checked before they are used.
        let blank = vec![0; rows * scheme.bits.row_bytes(cols)];
        let mut matrix = QuantizedMatrix::from_parts(rows, cols, scheme, blank, scales, zero_points)?;
        for index in 0..matrix.scales().len() {
            matrix.qparams(index).check(scheme.range())?;
        }
        let codes = std::mem::take(matrix.codes_mut());
        Ok(Self { matrix, codes })
    }

    /// Quantizers in the order of [`QuantizedMatrix::scales`].
    pub(crate) fn quantizers(&self) -> Vec<Quantizer> {
        let range = self.matrix.scheme().range();
        (0..self.matrix.scales().len())
            .map(|index| Quantizer::new(self.matrix.qparams(index), range))
            .collect()
    }

    /// Packed codes of all rows.
    pub(crate) fn codes_mut(&mut self) -> &mut [u8] {
        &mut self.codes
    }

    /// Packs the codes of one row.
    pub(crate) fn pack(bits: Bits, codes: &[i8], packed: &mut [u8]) {
        match bits {
            Bits::Int8 => {
                for (byte, code) in packed.iter_mut().zip(codes) {
                    *byte = code.cast_unsigned();
                }
            }
            Bits::Int4 => pack_row(codes, packed),
        }
    }

    /// The matrix with the current codes.
    pub(crate) fn finish(mut self) -> QuantizedMatrix {
        *self.matrix.codes_mut() = self.codes;
        self.matrix
    }

    /// The matrix with the codes nearest to `weight`.
    fn round_to_nearest(mut self, weight: &[f32]) -> QuantizedMatrix {
        let Self { matrix, codes } = &mut self;
        let (scheme, cols, width) = (matrix.scheme(), matrix.cols(), matrix.group_width());
        let quantizer =
            |row, group| Quantizer::new(matrix.qparams(matrix.scale_index(row, group)), scheme.range());
        let encode_row = |scratch: &mut Vec<i8>, (row, (values, packed)): (usize, (&[f32], &mut [u8]))| {
            for (group, (values, codes)) in values.chunks(width).zip(scratch.chunks_mut(width)).enumerate() {
                quantizer(row, group).quantize_into(values, codes);
            }
            Self::pack(scheme.bits, scratch, packed);
        };
        weight
            .par_chunks(cols)
            .zip(codes.par_chunks_mut(scheme.bits.row_bytes(cols)))
            .enumerate()
            .for_each_init(|| vec![0_i8; cols], encode_row);
        self.finish()
    }
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

    /// Measures the distance of the values from `weight`, the matrix that was quantized, and counts the values outside
    /// the grid.
    ///
    /// Rows are handled in parallel and added up in their order.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NotFinite`].
    pub fn error_stats(&self, weight: &[f32]) -> Result<ErrorStats> {
        check_weight(weight, self.rows(), self.cols())?;
        let (cols, width, range) = (self.cols(), self.group_width(), self.scheme().range());
        let buffers = || (vec![0_i8; cols], vec![0.0_f32; cols]);
        let of_row = |(codes, decoded): &mut (Vec<i8>, Vec<f32>), (row, values): (usize, &[f32])| {
            self.decode_row(row, codes, decoded);
            check_finite("approximation", decoded)?;
            let mut stats = ErrorStats::default();
            stats.add(values, decoded);
            for (group, values) in values.chunks(width).enumerate() {
                let qparams = self.qparams(self.scale_index(row, group));
                stats.add_clipping(values, Quantizer::new(qparams, range));
            }
            Ok(stats)
        };
        let rows: Vec<Result<ErrorStats>> =
            weight.par_chunks(cols).enumerate().map_init(buffers, of_row).collect();
        rows.into_iter().try_fold(ErrorStats::default(), |mut total, row| {
            total.merge(&row?);
            Ok(total)
        })
    }

    fn check_row(&self, row: usize) -> Result<()> {
        if row < self.rows() {
            return Ok(());
        }
        Err(Error::Parameter { what: "row", detail: format!("{row} of a matrix of {} rows", self.rows()) })
    }
}
