//! The input of a linear layer as unsigned 8-bit codes.

use std::borrow::Cow;

use super::blocked::{Blocked, first};
use crate::quantize::quantize_checked;
use crate::round::Quantizer;
use crate::scan::{check_finite, check_len, min_max};
use crate::{ActivationGranularity, Bits, Error, QParams, QuantRange, Result, choose_qparams_dynamic};

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// How a linear layer treats its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationQuant {
    /// Not quantized: floats times dequantized weights, summed in 32-bit floats (*weight-only*).
    Float,
    /// Quantized with parameters computed from the input itself.
    Dynamic(ActivationGranularity),
    /// Quantized with one scale and zero point in `[0, 255]`, fixed by calibration.
    Static(QParams),
}

/// A `[rows, cols]` input as unsigned 8-bit codes: `x = (code - zero_point) * scale`.
///
/// Quantize once and hand the result to every linear layer that reads the same input
/// ([`crate::linear_quantized`]).
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedActivations {
    rows: usize,
    cols: usize,
    /// Codes from the start of one row to the next; past `cols` a row holds its zero point.
    stride: usize,
    codes: Vec<u8>,
    params: Vec<QParams>,
}

impl QuantizedActivations {
    /// Assembles an input from row-major codes and either one set of parameters or one for each row.
    ///
    /// # Errors
    /// [`Error::Length`] where codes or parameters do not fit the shape, [`Error::Parameter`] or
    /// [`Error::NotFinite`] for a zero point outside `[0, 255]` or a scale that is not positive and finite.
    pub fn from_codes(rows: usize, cols: usize, codes: Vec<u8>, params: Vec<QParams>) -> Result<Self> {
        check_len("activation codes", rows * cols, codes.len())?;
        if params.len() != 1 {
            check_len("activation qparams", rows, params.len())?;
        }
        params.iter().try_for_each(|p| p.check(QuantRange::UINT8))?;
        let mut all = Self::zeros(rows, cols)?;
        all.params = params;
        for (row, codes) in codes.chunks_exact(cols).enumerate() {
            let params = all.qparams(row);
            all.row_mut(row, params).copy_from_slice(codes);
        }
        Ok(all)
    }

    fn zeros(rows: usize, cols: usize) -> Result<Self> {
        if cols == 0 {
            return Err(Error::Empty { what: "activations" });
        }
        let stride = stride(cols);
        Ok(Self { rows, cols, stride, codes: vec![0; rows * stride], params: Vec::new() })
    }

    /// One row to be filled, its padding being set.
    fn row_mut(&mut self, row: usize, params: QParams) -> &mut [u8] {
        let (codes, padding) = self.codes[row * self.stride..][..self.stride].split_at_mut(self.cols);
        padding.fill(params.zero_point as u8);
        codes
    }

    /// Rows (tokens).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Codes of one row.
    ///
    /// # Panics
    /// When `row` is out of bounds, as slices do.
    pub fn row_codes(&self, row: usize) -> &[u8] {
        &self.codes[row * self.stride..][..self.cols]
    }

    /// Scale and zero point of one row.
    ///
    /// # Panics
    /// When `row` is out of bounds, as slices do.
    pub fn qparams(&self, row: usize) -> QParams {
        if self.params.len() == 1 { self.params[0] } else { self.params[row] }
    }
}

/// Quantizes a row-major `[m, k]` input.
///
/// Codes are `clamp(round_half_even(x * (1 / scale)) + zero_point, 0, 255)`. Dynamic parameters are those
/// of PyTorch's dynamic quantized Linear over the range `[0, 255]`.
///
/// # Errors
/// [`Error::NotFinite`] for a NaN or an infinity, [`Error::Length`] where `x` is not `m * k` long, and
/// [`Error::Parameter`] for [`ActivationQuant::Float`] or bad static parameters.
pub fn quantize_activations(
    x: &[f32],
    m: usize,
    k: usize,
    quant: &ActivationQuant,
) -> Result<QuantizedActivations> {
    check_len("activations", m * k, x.len())?;
    let mut all = QuantizedActivations::zeros(m, k)?;
    match quant {
        ActivationQuant::Float => {
            return Err(Error::Parameter {
                what: "activation quantization",
                detail: "weight-only layers take the floats themselves; use Dynamic or Static".to_owned(),
            });
        }
        ActivationQuant::Static(params) => {
            params.check(QuantRange::UINT8)?;
            check_finite("activations", x)?;
            all.params = vec![*params];
        }
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor) if m > 0 => {
            all.params = vec![dynamic_params(x)?];
        }
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor) => {}
        ActivationQuant::Dynamic(ActivationGranularity::PerToken) => {
            let params: Result<_> = x.chunks_exact(k).map(dynamic_params).collect();
            // A row knows its own positions only; for the error, name the one in the whole input.
            all.params = params.or_else(|error| check_finite("activations", x).and(Err(error)))?;
        }
    }
    for (row, x) in x.chunks_exact(k).enumerate() {
        let params = all.qparams(row);
        quantize_checked(x, Quantizer::new(params, QuantRange::UINT8), all.row_mut(row, params));
    }
    Ok(all)
}

/// Parameters for the range of `x`.
fn dynamic_params(x: &[f32]) -> Result<QParams> {
    let (lo, hi) = min_max("activations", x)?;
    choose_qparams_dynamic(lo, hi, QuantRange::UINT8)
}

/// Distance between rows of at least `bytes`: a whole and odd number of cache lines, so that the same
/// column of neighbouring rows never falls into the same set of a cache.
fn stride(bytes: usize) -> usize {
    (bytes.div_ceil(CACHE_LINE) | 1) * CACHE_LINE
}

/// Columns of `row` at the positions where kernels expect them: groups one after the other, each padded
/// to `padded` columns with `fill`.
fn scatter<T: Copy>(row: &[T], width: usize, padded: usize, fill: T, out: &mut [T]) {
    out.fill(fill);
    for (from, to) in row.chunks(width).zip(out.chunks_mut(padded)) {
        to[..from.len()].copy_from_slice(from);
    }
}

/// Whether columns are where kernels expect them but for the end of the row.
fn is_contiguous(w: &Blocked) -> bool {
    w.groups_per_row() == 1 || w.padded_width() == w.group_width()
}

/// Quantized inputs in the form that a kernel reads.
pub(crate) struct Inputs<'a> {
    source: &'a QuantizedActivations,
    codes: Codes<'a>,
    /// Bytes from row to row.
    stride: usize,
    /// `[group][row]` sums of codes less the zero point; empty where no kernel needs them.
    group_sums: Vec<i32>,
}

enum Codes<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Less the zero point.
    Centered(Vec<i16>),
}

impl<'a> Inputs<'a> {
    /// Arranges `source` for the groups of `w`. `centered8`: for INT8 weights, as 16-bit codes less their
    /// zero points.
    pub(crate) fn new(source: &'a QuantizedActivations, w: &Blocked, centered8: bool) -> Self {
        let centered = centered8 && w.scheme().bits == Bits::Int8;
        let width = w.group_width();
        let (codes, stride) = if centered {
            let stride = stride(w.padded_cols() * 2);
            let mut codes = vec![0i16; source.rows * stride / 2];
            let mut row_codes = vec![0; source.cols];
            for (row, out) in codes.chunks_exact_mut(stride / 2).enumerate() {
                let zero_point = source.qparams(row).zero_point as i16;
                for (centered, &code) in row_codes.iter_mut().zip(source.row_codes(row)) {
                    *centered = i16::from(code) - zero_point;
                }
                scatter(&row_codes, width, w.padded_width(), 0, out);
            }
            (Codes::Centered(codes), stride)
        } else if is_contiguous(w) {
            // Rows are padded to whole cache lines, hence to whole lines of weights.
            (Codes::Bytes(Cow::Borrowed(source.codes.as_slice())), source.stride)
        } else {
            let stride = stride(w.padded_cols());
            let mut codes = vec![0; source.rows * stride];
            for (row, out) in codes.chunks_exact_mut(stride).enumerate() {
                let fill = source.qparams(row).zero_point as u8;
                scatter(source.row_codes(row), width, w.padded_width(), fill, out);
            }
            (Codes::Bytes(Cow::Owned(codes)), stride)
        };
        let mut group_sums = Vec::new();
        if w.needs_input_sums() {
            group_sums = vec![0; w.groups_per_row() * source.rows];
            for row in 0..source.rows {
                let zero_point = source.qparams(row).zero_point;
                for (group, codes) in source.row_codes(row).chunks(width).enumerate() {
                    let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                    group_sums[group * source.rows + row] = sum - zero_point * codes.len() as i32;
                }
            }
        }
        Self { source, codes, stride, group_sums }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.source.rows
    }

    /// The codes of a row, readable for all columns of the weights they were arranged for.
    ///
    /// # Panics
    /// When `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        match &self.codes {
            Codes::Bytes(codes) => codes[row * self.stride..][..self.stride].as_ptr(),
            Codes::Centered(codes) => codes[row * self.stride / 2..][..self.stride / 2].as_ptr().cast(),
        }
    }

    /// Scale of a row.
    #[inline(always)]
    pub(crate) fn scale(&self, row: usize) -> f32 {
        self.source.qparams(row).scale
    }

    /// Zero point of a row.
    #[inline(always)]
    pub(crate) fn zero_point(&self, row: usize) -> i32 {
        self.source.qparams(row).zero_point
    }

    /// Sums of a group less zero points, of `M` rows from `row` on.
    #[inline(always)]
    pub(crate) fn group_sums<const M: usize>(&self, row: usize, group: usize) -> &[i32; M] {
        first(&self.group_sums[group * self.source.rows + row..])
    }
}

/// Float inputs in the form that a kernel reads.
pub(crate) struct FloatInputs<'a> {
    rows: usize,
    values: Cow<'a, [f32]>,
    stride: usize,
}

impl<'a> FloatInputs<'a> {
    /// Arranges a row-major `[m, cols]` input for the groups of `w`, padded with zeros.
    pub(crate) fn new(x: &'a [f32], m: usize, w: &Blocked) -> Self {
        let cols = w.cols();
        // Few rows need no care for cache sets.
        if is_contiguous(w) && w.padded_cols() == cols && (m <= 4 || stride(cols * 4) == cols * 4) {
            return Self { rows: m, values: Cow::Borrowed(x), stride: cols };
        }
        let stride = stride(w.padded_cols() * 4) / 4;
        let mut values = vec![0.0; m * stride];
        for (x, out) in x.chunks_exact(cols).zip(values.chunks_exact_mut(stride)) {
            scatter(x, w.group_width(), w.padded_width(), 0.0, out);
        }
        Self { rows: m, values: Cow::Owned(values), stride }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The values of a row, readable for all columns of the weights they were arranged for.
    ///
    /// # Panics
    /// When `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const f32 {
        self.values[row * self.stride..][..self.stride].as_ptr()
    }
}
