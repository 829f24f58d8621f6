//! The input of a linear layer as unsigned 8-bit codes.

use rayon::prelude::*;

use crate::quantize::quantize_checked;
use crate::round::Quantizer;
use crate::scan::{check_finite, check_len, min_max};
use crate::{ActivationGranularity, Error, QParams, QuantRange, Result, choose_qparams_dynamic};

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Values from which on it pays to quantize rows on several threads.
const PARALLEL_VALUES: usize = 1 << 16;

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

    #[cfg(target_arch = "x86_64")]
    /// All rows with their padding, and the distance from row to row.
    pub(super) fn padded(&self) -> (&[u8], usize) {
        (&self.codes, self.stride)
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
    let parallel = m > 1 && m * k >= PARALLEL_VALUES;
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
            let params: Result<_> = if parallel {
                x.par_chunks_exact(k).map(dynamic_params).collect()
            } else {
                x.chunks_exact(k).map(dynamic_params).collect()
            };
            // A row knows its own positions only; for the error, name the one in the whole input.
            all.params = params.or_else(|error| check_finite("activations", x).and(Err(error)))?;
        }
    }
    let QuantizedActivations { cols, stride, codes, params, .. } = &mut all;
    let quantize = |row: usize, x: &[f32], out: &mut [u8]| {
        let params = if params.len() == 1 { params[0] } else { params[row] };
        let (codes, padding) = out.split_at_mut(*cols);
        padding.fill(params.zero_point as u8);
        quantize_checked(x, Quantizer::new(params, QuantRange::UINT8), codes);
    };
    if parallel {
        let rows = x.par_chunks_exact(k).zip(codes.par_chunks_exact_mut(*stride)).enumerate();
        rows.for_each(|(row, (x, out))| quantize(row, x, out));
    } else {
        let rows = x.chunks_exact(k).zip(codes.chunks_exact_mut(*stride)).enumerate();
        rows.for_each(|(row, (x, out))| quantize(row, x, out));
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
pub(super) fn stride(bytes: usize) -> usize {
    (bytes.div_ceil(CACHE_LINE) | 1) * CACHE_LINE
}
