//! Fake quantization: values rounded to a grid but kept as floats, and its gradients.
//!
//! The backward functions take the forward input, not the forward result, because they need the rounded code.

use crate::round::Quantizer;
use crate::scan::{check_finite, check_len};
use crate::{Error, QParams, QuantRange, Result};

/// Returns `dequantize(quantize(x))`, bit for bit.
///
/// # Errors
/// As [`crate::quantize`].
pub fn fake_quantize(x: &[f32], qparams: QParams, range: QuantRange) -> Result<Vec<f32>> {
    let mut y = vec![0.0; x.len()];
    fake_quantize_into(x, qparams, range, &mut y)?;
    Ok(y)
}

/// [`fake_quantize`] into a buffer of the length of `x`.
///
/// # Errors
/// As [`crate::quantize_into`].
pub fn fake_quantize_into(x: &[f32], qparams: QParams, range: QuantRange, y: &mut [f32]) -> Result<()> {
    check_len("y", x.len(), y.len())?;
    checked(x, qparams, range)?.fake_quantize_into(x, y);
    Ok(())
}

/// Mask of the values that the range does not clip: `quant_min <= rte(x / scale) + zero_point <= quant_max`, decided on
/// the rounded code as PyTorch does. It is 1 where the straight-through estimator passes the gradient.
///
/// # Errors
/// As [`crate::quantize`].
pub fn fake_quantize_mask(x: &[f32], qparams: QParams, range: QuantRange) -> Result<Vec<bool>> {
    let quantizer = checked(x, qparams, range)?;
    Ok(x.iter().map(|&x| quantizer.contains(quantizer.rounded(x))).collect())
}

/// Gradient of [`fake_quantize`] by the straight-through estimator: `grad_out` where the mask is set, 0
/// where the value was clipped (Bengio et al. 2013; PyTorch's `fake_quantize_per_tensor_affine`).
///
/// # Errors
/// As [`crate::quantize`], and [`Error::Length`] where `x` and `grad_out` differ in length.
pub fn fake_quantize_backward(
    x: &[f32],
    grad_out: &[f32],
    qparams: QParams,
    range: QuantRange,
) -> Result<Vec<f32>> {
    let mut grad_x = vec![0.0; x.len()];
    fake_quantize_backward_into(x, grad_out, qparams, range, &mut grad_x)?;
    Ok(grad_x)
}

/// [`fake_quantize_backward`] into a buffer of the length of `x`.
///
/// # Errors
/// As [`fake_quantize_backward`], and [`Error::Length`] for the buffer.
pub fn fake_quantize_backward_into(
    x: &[f32],
    grad_out: &[f32],
    qparams: QParams,
    range: QuantRange,
    grad_x: &mut [f32],
) -> Result<()> {
    check_len("grad_out", x.len(), grad_out.len())?;
    check_len("grad_x", x.len(), grad_x.len())?;
    let quantizer = checked(x, qparams, range)?;
    grad_x.copy_from_slice(grad_out);
    quantizer.clear_clipped(x, grad_x);
    Ok(())
}

/// Gradients of a fake quantization whose scale and zero point are learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnableGradients {
    /// Gradient with respect to the input, as from [`fake_quantize_backward`].
    pub grad_x: Vec<f32>,
    /// Gradient with respect to the scale, summed over the input.
    pub grad_scale: f32,
    /// Gradient with respect to the zero point, summed over the input.
    pub grad_zero_point: f32,
}

/// The integer zero point for a learned, fractional one: rounded half to even, then clamped to `range`.
///
/// # Errors
/// [`Error::NotFinite`] when it is NaN or infinite.
pub fn learned_zero_point(zero_point: f32, range: QuantRange) -> Result<i32> {
    if !zero_point.is_finite() {
        return Err(Error::NotFinite { what: "zero point", index: 0, value: zero_point });
    }
    Ok((zero_point.round_ties_even() as i32).clamp(range.quant_min(), range.quant_max()))
}

/// Gradients of fake quantization with respect to input, scale and zero point, for values that share one scale (Esser
/// et al. 2020, "Learned step size quantization"; the zero point as in PyTorch's learnable fake quantize).
///
/// With `r = rte(x / scale) + zp` and the mask of [`fake_quantize_mask`], each value contributes
/// `grad_out * ((r - zp) - x / scale)` to the gradient of the scale if it is inside the range, and `grad_out *
/// (clamp(r) - zp)` if it is clipped. To the gradient of the zero point it contributes 0 inside the range, and
/// `-grad_out * scale` if it is clipped. Both sums are multiplied by `grad_factor` (LSQ: `1 / sqrt(n * quant_max)`).
///
/// `zero_point` may be fractional. This function and the forward pass use its [`learned_zero_point`].
///
/// # Errors
/// As [`fake_quantize_backward`], and [`Error::NotFinite`] for `zero_point`.
pub fn fake_quantize_learnable_backward(
    x: &[f32],
    grad_out: &[f32],
    scale: f32,
    zero_point: f32,
    range: QuantRange,
    grad_factor: f32,
) -> Result<LearnableGradients> {
    let qparams = QParams { scale, zero_point: learned_zero_point(zero_point, range)? };
    let mut grad_x = vec![0.0; x.len()];
    let [by_scale, by_zero_point] =
        fake_quantize_learnable_backward_into(x, grad_out, qparams, range, &mut grad_x)?;
    let factor = f64::from(grad_factor);
    Ok(LearnableGradients {
        grad_x,
        grad_scale: (factor * by_scale) as f32,
        grad_zero_point: (factor * by_zero_point) as f32,
    })
}

/// [`fake_quantize_learnable_backward`] into a buffer of the length of `x`. Returns the sums for scale and zero
/// point, not yet multiplied by a factor, so that those of several slices with one scale can be added.
///
/// # Errors
/// As [`fake_quantize_backward_into`].
pub fn fake_quantize_learnable_backward_into(
    x: &[f32],
    grad_out: &[f32],
    qparams: QParams,
    range: QuantRange,
    grad_x: &mut [f32],
) -> Result<[f64; 2]> {
    check_len("grad_out", x.len(), grad_out.len())?;
    check_len("grad_x", x.len(), grad_x.len())?;
    let quantizer = checked(x, qparams, range)?;
    grad_x.copy_from_slice(grad_out);
    Ok(quantizer.learnable_backward(x, grad_x))
}

fn checked(x: &[f32], qparams: QParams, range: QuantRange) -> Result<Quantizer> {
    qparams.check(range)?;
    check_finite("x", x)?;
    Ok(Quantizer::new(qparams, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QPARAMS: QParams = QParams { scale: 1.0, zero_point: 0 };

    #[test]
    fn mask_is_decided_on_the_rounded_code() {
        let x = [7.49, 7.5, -8.5, -8.51, 0.0];
        let mask = fake_quantize_mask(&x, QPARAMS, QuantRange::INT4).unwrap();
        assert_eq!(mask, [true, false, true, false, true]);
        let grad = fake_quantize_backward(&x, &[2.0; 5], QPARAMS, QuantRange::INT4).unwrap();
        assert_eq!(grad, [2.0, 0.0, 2.0, 0.0, 2.0]);
    }

    #[test]
    fn learned_gradients_of_single_values() {
        let run = |x: f32| {
            fake_quantize_learnable_backward(&[x], &[3.0], 0.5, -1.4, QuantRange::INT4, 2.0).unwrap()
        };
        let inside = run(0.7);
        assert_eq!((inside.grad_zero_point, inside.grad_x[0]), (0.0, 3.0));
        assert!((inside.grad_scale - 6.0 * (1.0 - 1.4)).abs() < 1e-6);
        let clipped = run(100.0);
        assert_eq!(
            clipped,
            LearnableGradients { grad_x: vec![0.0], grad_scale: 48.0, grad_zero_point: -3.0 }
        );
    }

    #[test]
    fn refuses_mismatched_and_not_finite() {
        assert!(fake_quantize_backward(&[0.0], &[], QPARAMS, QuantRange::INT8).is_err());
        assert!(fake_quantize(&[f32::NAN], QPARAMS, QuantRange::INT8).is_err());
        assert!(fake_quantize_into(&[0.0], QPARAMS, QuantRange::INT8, &mut []).is_err());
        assert!(fake_quantize_mask(&[f32::INFINITY], QPARAMS, QuantRange::INT8).is_err());
        let nan = fake_quantize_learnable_backward(&[0.0], &[0.0], 1.0, f32::NAN, QuantRange::INT8, 1.0);
        assert!(matches!(nan, Err(Error::NotFinite { what: "zero point", .. })));
    }
}
