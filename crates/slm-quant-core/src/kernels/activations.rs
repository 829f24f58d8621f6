//! The input of a linear layer as unsigned 8-bit codes.

use crate::{ActivationGranularity, Error, QParams, QuantRange, Result};

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
    codes: Vec<u8>,
    params: Vec<QParams>,
}

impl QuantizedActivations {
    /// Assembles an input from row-major codes and either one set of parameters or one for each row.
    ///
    /// # Errors
    /// [`Error::Length`] where codes or parameters do not fit the shape, [`Error::Parameter`] for a zero
    /// point outside `[0, 255]` or a scale that is not positive and finite.
    pub fn from_codes(rows: usize, cols: usize, codes: Vec<u8>, params: Vec<QParams>) -> Result<Self> {
        check_len("activation codes", rows * cols, codes.len())?;
        if params.len() != 1 {
            check_len("activation qparams", rows, params.len())?;
        }
        params.iter().try_for_each(check_params)?;
        Ok(Self { rows, cols, codes, params })
    }

    /// Rows (tokens).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row-major codes, `[rows, cols]`.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Codes of one row.
    ///
    /// # Panics
    /// When `row` is out of bounds, as slices do.
    pub fn row_codes(&self, row: usize) -> &[u8] {
        &self.codes[row * self.cols..][..self.cols]
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
    if k == 0 {
        return Err(Error::Empty { what: "activations" });
    }
    let mut codes = vec![0; m * k];
    let params = match quant {
        ActivationQuant::Float => {
            return Err(Error::Parameter {
                what: "activation quantization",
                detail: "weight-only layers take the floats themselves; use Dynamic or Static".to_owned(),
            });
        }
        ActivationQuant::Static(params) => {
            check_params(params)?;
            check_finite(x)?;
            quantize_row(x, *params, &mut codes);
            vec![*params]
        }
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor) => {
            let params = dynamic_params(x, 0)?;
            quantize_row(x, params, &mut codes);
            vec![params]
        }
        ActivationQuant::Dynamic(ActivationGranularity::PerToken) => {
            let mut all = Vec::with_capacity(m);
            for (row, (x, codes)) in x.chunks_exact(k).zip(codes.chunks_exact_mut(k)).enumerate() {
                let params = dynamic_params(x, row * k)?;
                quantize_row(x, params, codes);
                all.push(params);
            }
            all
        }
    };
    Ok(QuantizedActivations { rows: m, cols: k, codes, params })
}

/// Parameters of PyTorch's dynamic quantized Linear for values within `[lo, hi]`, over `[0, 255]`.
///
/// Source: `ChooseQuantizationParams` in PyTorch's `aten/src/ATen/native/quantized/cpu/QuantUtils.h`,
/// including its floor of 6.1e-5 under the scale.
pub(crate) fn dynamic_activation_qparams(lo: f32, hi: f32) -> QParams {
    const SMALL_SCALE: f32 = 6.1e-5;
    let (quant_min, quant_max) =
        (f64::from(QuantRange::UINT8.quant_min()), f64::from(QuantRange::UINT8.quant_max()));
    let steps = quant_max - quant_min;
    let (mut lo, mut hi) = (lo.min(0.0), hi.max(0.0));
    let mut scale = (f64::from(hi) - f64::from(lo)) / steps;
    if scale as f32 == 0.0 || (1.0 / scale as f32).is_infinite() {
        scale = 0.1;
    }
    if scale < f64::from(SMALL_SCALE) {
        let original = scale as f32;
        scale = f64::from(SMALL_SCALE);
        if lo == 0.0 {
            hi = SMALL_SCALE * steps as f32;
        } else if hi == 0.0 {
            lo = -SMALL_SCALE * steps as f32;
        } else {
            let stretch = SMALL_SCALE / original;
            lo *= stretch;
            hi *= stretch;
        }
    }
    let (from_lo, from_hi) = (f64::from(lo) / scale, f64::from(hi) / scale);
    let zero_point = if quant_min.abs() - from_lo.abs() < quant_max.abs() - from_hi.abs() {
        quant_min - from_lo
    } else {
        quant_max - from_hi
    };
    QParams {
        scale: scale as f32,
        zero_point: zero_point.round_ties_even().clamp(quant_min, quant_max) as i32,
    }
}

/// Parameters for the range of `x`, which starts at `offset` in the whole input.
fn dynamic_params(x: &[f32], offset: usize) -> Result<QParams> {
    let (lo, hi) = min_max(x);
    // A NaN is invisible to a minimum, so the sum of all magnitudes is not enough either; the range check
    // finds infinities and the scan NaNs.
    if !lo.is_finite() || !hi.is_finite() || x.iter().any(|v| v.is_nan()) {
        let (index, value) = first_not_finite(x);
        return Err(Error::NotFinite { what: "activations", index: offset + index, value });
    }
    Ok(dynamic_activation_qparams(lo, hi))
}

fn min_max(x: &[f32]) -> (f32, f32) {
    let mut lo = [0.0f32; 16];
    let mut hi = [0.0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            lo[i] = if chunk[i] < lo[i] { chunk[i] } else { lo[i] };
            hi[i] = if chunk[i] > hi[i] { chunk[i] } else { hi[i] };
        }
    }
    let lo = lo.iter().chain(rest).fold(0.0f32, |a, &b| a.min(b));
    let hi = hi.iter().chain(rest).fold(0.0f32, |a, &b| a.max(b));
    (lo, hi)
}

/// Codes of `x`. Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even, for magnitudes up
/// to 2^22; values beyond are clamped first, which cannot change a code because the zero point is in
/// `[0, 255]`.
fn quantize_row(x: &[f32], params: QParams, codes: &mut [u8]) {
    const ROUND: f32 = 12_582_912.0;
    let inverse = 1.0 / params.scale;
    let zero_point = params.zero_point as f32;
    for (code, &x) in codes.iter_mut().zip(x) {
        let rounded = ((x * inverse).clamp(-1024.0, 1024.0) + ROUND) - ROUND;
        *code = (rounded + zero_point).clamp(0.0, 255.0) as u8;
    }
}

pub(crate) fn check_finite(x: &[f32]) -> Result<()> {
    if x.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let (index, value) = first_not_finite(x);
    Err(Error::NotFinite { what: "activations", index, value })
}

fn first_not_finite(x: &[f32]) -> (usize, f32) {
    let index = x.iter().position(|v| !v.is_finite()).unwrap_or(0);
    (index, x.get(index).copied().unwrap_or(f32::NAN))
}

fn check_params(params: &QParams) -> Result<()> {
    if !(0..=255).contains(&params.zero_point) {
        return Err(Error::Parameter {
            what: "activation zero point",
            detail: format!("{} is outside [0, 255]", params.zero_point),
        });
    }
    if !(params.scale > 0.0 && params.scale.is_finite() && (1.0 / params.scale).is_finite()) {
        return Err(Error::Parameter {
            what: "activation scale",
            detail: format!("{} is not positive and finite, or its reciprocal is not", params.scale),
        });
    }
    Ok(())
}

pub(crate) fn check_len(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
