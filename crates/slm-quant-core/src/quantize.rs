//! Quantization and dequantization of slices.

use crate::code::check_holds;
use crate::round::Quantizer;
use crate::scan::{check_finite, check_len};
use crate::{Code, QParams, QuantRange, Result};

/// Codes of `x`: `clamp(rte(x * (1 / scale)) + zero_point, quant_min, quant_max)`, in f32, where `rte`
/// rounds half to even and the zero point is added after rounding (as PyTorch's `quantize_per_tensor`).
///
/// # Errors
/// [`crate::Error::NotFinite`] for a NaN or an infinity in `x`, [`crate::Error::Parameter`] for unusable
/// `qparams` or a `range` that `C` does not hold.
///
/// ```
/// use slm_quant_core::{QParams, QuantRange, dequantize, quantize};
///
/// let qparams = QParams { scale: 0.5, zero_point: 1 };
/// let codes: Vec<i8> = quantize(&[0.0, 0.25, 0.75, 100.0], qparams, QuantRange::INT8)?;
/// assert_eq!(codes, [1, 1, 3, 127]);
/// assert_eq!(dequantize(&codes, qparams), [0.0, 0.0, 1.0, 63.0]);
/// # Ok::<(), slm_quant_core::Error>(())
/// ```
pub fn quantize<C: Code>(x: &[f32], qparams: QParams, range: QuantRange) -> Result<Vec<C>> {
    let mut codes = vec![C::default(); x.len()];
    quantize_into(x, qparams, range, &mut codes)?;
    Ok(codes)
}

/// [`quantize`] into a buffer of the length of `x`.
///
/// # Errors
/// As [`quantize`], and [`crate::Error::Length`] for a buffer of another length. The buffer is untouched
/// when there is an error.
pub fn quantize_into<C: Code>(x: &[f32], qparams: QParams, range: QuantRange, codes: &mut [C]) -> Result<()> {
    check_len("codes", x.len(), codes.len())?;
    check_holds::<C>(range)?;
    qparams.check(range)?;
    check_finite("x", x)?;
    Quantizer::new(qparams, range).quantize_into(x, codes);
    Ok(())
}

/// Values of `codes`: `(code - zero_point) * scale`.
pub fn dequantize<C: Code>(codes: &[C], qparams: QParams) -> Vec<f32> {
    codes.iter().map(|code| value(*code, qparams)).collect()
}

/// [`dequantize`] into a buffer of the length of `codes`.
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another length.
pub fn dequantize_into<C: Code>(codes: &[C], qparams: QParams, x: &mut [f32]) -> Result<()> {
    check_len("x", codes.len(), x.len())?;
    for (x, code) in x.iter_mut().zip(codes) {
        *x = value(*code, qparams);
    }
    Ok(())
}

#[inline(always)]
fn value<C: Code>(code: C, qparams: QParams) -> f32 {
    (code.widen() - qparams.zero_point) as f32 * qparams.scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn zero_point_is_added_after_rounding() {
        let qparams = QParams { scale: 1.0, zero_point: 1 };
        assert_eq!(quantize::<i8>(&[0.5, 1.5, -0.5], qparams, QuantRange::INT8).unwrap(), [1, 3, 1]);
    }

    #[test]
    fn refuses_what_it_cannot_quantize() {
        let good = QParams { scale: 1.0, zero_point: 0 };
        let run = |x: &[f32], qparams| quantize::<i8>(x, qparams, QuantRange::INT8);
        assert!(matches!(run(&[0.0, f32::NAN], good), Err(Error::NotFinite { index: 1, .. })));
        assert!(matches!(run(&[f32::INFINITY], good), Err(Error::NotFinite { .. })));
        for scale in [0.0, f32::NAN, f32::INFINITY, 1e-40, f32::MAX] {
            assert!(run(&[0.0], QParams { scale, zero_point: 0 }).is_err(), "{scale}");
        }
        assert!(run(&[0.0], QParams { scale: 1.0, zero_point: 128 }).is_err());
        assert!(run(&[0.0], QParams { scale: -1.0, zero_point: 1 }).is_err());
        let turned = QParams { scale: -1.0, zero_point: 0 };
        assert_eq!(run(&[2.0, -128.6, 128.6], turned), Ok(vec![-2, 127, -128]));
        assert!(quantize::<u8>(&[0.0], turned, QuantRange::UINT8).is_err());
        assert!(quantize::<i8>(&[0.0], good, QuantRange::UINT8).is_err());
        assert!(matches!(
            quantize_into(&[0.0], good, QuantRange::INT8, &mut [0_i8; 2]),
            Err(Error::Length { .. })
        ));
        assert!(dequantize_into(&[0_i8], good, &mut []).is_err());
        assert_eq!(run(&[], good), Ok(vec![]));
    }
}
