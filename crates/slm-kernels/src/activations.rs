//! The input of a linear layer as unsigned 8-bit codes.

use std::sync::{Mutex, PoisonError};

use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Error, QParams, QuantRange, Quantizer, Result, check_finite,
    check_len, choose_qparams_dynamic, min_max,
};
use slm_runtime::for_each_chunk;

use crate::vectorize::{Op, vectorize};

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Minimum number of values that are quantized on several threads, and rows per task in that case.
const PARALLEL_VALUES: usize = 1 << 15;
const ROWS_PER_TASK: usize = 8;

/// A `[rows, cols]` input as unsigned 8-bit codes: `x = (code - zero_point) * scale`.
///
/// Quantize once and hand the result to every linear layer that reads the same input
/// ([`crate::linear_quantized`]).
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedActivations {
    rows: usize,
    cols: usize,
    /// Codes from the start of one row to the start of the next. A row is padded with its zero point past `cols`.
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
        let mut all = Self::empty();
        all.resize(rows, cols)?;
        all.params = params;
        for (row, codes) in codes.chunks_exact(cols).enumerate() {
            let params = all.qparams(row);
            all.row_mut(row, params).copy_from_slice(codes);
        }
        Ok(all)
    }

    /// An empty input, to be filled by [`quantize_activations_into`].
    pub fn empty() -> Self {
        Self { rows: 0, cols: 1, stride: stride(1), codes: Vec::new(), params: Vec::new() }
    }

    /// Sets another shape. The codes are arbitrary then, and there are no parameters.
    fn resize(&mut self, rows: usize, cols: usize) -> Result<()> {
        if cols == 0 {
            return Err(Error::Empty { what: "activations" });
        }
        (self.rows, self.cols, self.stride) = (rows, cols, stride(cols));
        self.codes.resize(rows * self.stride, 0);
        self.params.clear();
        Ok(())
    }

    /// Quantizes `x`, which must have as many values as the shape.
    fn quantize(&mut self, x: &[f32], quant: &ActivationQuant) -> Result<()> {
        let Self { rows, cols, stride, codes, params } = self;
        match quant {
            ActivationQuant::Float => {
                return Err(Error::Parameter {
                    what: "activation quantization",
                    detail: "weight-only layers take the floats themselves; use Dynamic or Static".to_owned(),
                });
            }
            ActivationQuant::Static(fixed) => {
                fixed.check(QuantRange::UINT8)?;
                check_finite("activations", x)?;
                params.push(*fixed);
            }
            ActivationQuant::Dynamic(ActivationGranularity::PerTensor) if *rows == 0 => {}
            ActivationQuant::Dynamic(ActivationGranularity::PerTensor) => params.push(dynamic_params(x)?),
            ActivationQuant::Dynamic(ActivationGranularity::PerToken) => {
                params.resize(*rows, QParams { scale: 1.0, zero_point: 0 });
                let failure = Mutex::new(None);
                for_each_few(params, 1, x.len(), |row, params| {
                    match dynamic_params(&x[row * *cols..][..*cols]) {
                        Ok(found) => params[0] = found,
                        Err(error) => *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                    }
                });
                if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    // A row knows its own positions only; name the one in the whole input.
                    return check_finite("activations", x).and(Err(error));
                }
            }
        }
        for_each_few(codes, *stride, x.len(), |row, out| {
            let params = if params.len() == 1 { params[0] } else { params[row] };
            let (codes, padding) = out.split_at_mut(*cols);
            padding.fill(params.zero_point as u8);
            let quantizer = Quantizer::new(params, QuantRange::UINT8);
            vectorize(QuantizeRow { x: &x[row * *cols..][..*cols], quantizer, codes });
        });
        Ok(())
    }

    /// One row to be filled. Its padding is already set.
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

    /// All rows with their padding, and the distance in codes from row to row.
    pub(crate) fn padded(&self) -> (&[u8], usize) {
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
    let mut all = QuantizedActivations::empty();
    quantize_activations_into(x, m, k, quant, &mut all)?;
    Ok(all)
}

/// [`quantize_activations`] into the memory of an earlier input. Allocates only if the input is larger than all before
/// it.
///
/// # Errors
/// As [`quantize_activations`]; then `all` holds no rows.
pub fn quantize_activations_into(
    x: &[f32],
    m: usize,
    k: usize,
    quant: &ActivationQuant,
    all: &mut QuantizedActivations,
) -> Result<()> {
    check_len("activations", m * k, x.len())?;
    all.resize(m, k)?;
    let result = all.quantize(x, quant);
    if result.is_err() {
        all.resize(0, k)?;
    }
    result
}

/// Calls `f(i, values)` for each run of `len` of `values`: on several threads if `total` is large.
fn for_each_few<T: Send>(values: &mut [T], len: usize, total: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if total < PARALLEL_VALUES {
        return values.chunks_exact_mut(len).enumerate().for_each(|(i, values)| f(i, values));
    }
    for_each_chunk(values, len * ROWS_PER_TASK, |chunk, values| {
        for (i, values) in values.chunks_exact_mut(len).enumerate() {
            f(chunk * ROWS_PER_TASK + i, values);
        }
    });
}

/// Quantization parameters for the range of `x`.
fn dynamic_params(x: &[f32]) -> Result<QParams> {
    let mut range = Ok((0.0, 0.0));
    vectorize(RangeOf { x, range: &mut range });
    let (lo, hi) = range?;
    choose_qparams_dynamic(lo, hi, QuantRange::UINT8)
}

/// Computes the minimum and maximum of some values.
struct RangeOf<'a> {
    x: &'a [f32],
    range: &'a mut Result<(f32, f32)>,
}

impl Op for RangeOf<'_> {
    #[inline(always)]
    fn run(self) {
        *self.range = min_max("activations", self.x);
    }
}

/// Quantizes some values.
struct QuantizeRow<'a> {
    x: &'a [f32],
    quantizer: Quantizer,
    codes: &'a mut [u8],
}

impl Op for QuantizeRow<'_> {
    #[inline(always)]
    fn run(self) {
        self.quantizer.quantize_into(self.x, self.codes);
    }
}

/// Distance between rows of at least `bytes`: an odd number of whole cache lines, so that the same column of
/// neighbouring rows never falls into the same set of a cache.
pub(crate) fn stride(bytes: usize) -> usize {
    (bytes.div_ceil(CACHE_LINE) | 1) * CACHE_LINE
}
