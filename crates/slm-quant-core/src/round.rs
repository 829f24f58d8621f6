//! Rounding half to even, and the conversion of a value to its code that everything else uses.

use crate::{Code, QParams, QuantRange};

/// 1.5 * 2^23. Adding it to a value of magnitude up to 2^22 leaves a number whose last bit has the value 1, so the
/// addition itself rounds to an integer, half to even, and the low bits hold that integer. `f32::round_ties_even` gives
/// the same result, but on x86-64 without SSE4.1 it is a library call per value, while this becomes vector code.
const ROUNDER: f32 = 12_582_912.0;

/// Bound on the values that [`ROUNDER`] rounds. Every code range lies far inside it, so clamping a quotient to it first
/// never changes a code.
const LIMIT: f32 = 4_194_304.0;

/// Number of independent sums.
const LANES: usize = 8;

/// Number of terms that are computed before they are added, so that both loops are vectorized. A multiple of [`LANES`].
const RUN: usize = 64;

/// Rounds `x`, which must lie within ±2^22, to the nearest integer, half to even.
#[inline(always)]
pub(crate) fn round_small(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// Adds each term to the sum of its lane.
#[inline(always)]
fn add_terms(sums: &mut [f64; LANES], terms: &[f32]) {
    let (whole, rest) = terms.as_chunks::<LANES>();
    for terms in whole {
        for lane in 0..LANES {
            sums[lane] += f64::from(terms[lane]);
        }
    }
    sums.iter_mut().zip(rest).for_each(|(sum, &term)| *sum += f64::from(term));
}

/// Quantization by one scale and zero point, with the reciprocal of the scale computed once: the loop of
/// [`quantize_into`](crate::quantize_into) without its checks, for code that has checked its parameters and values.
#[derive(Debug, Clone, Copy)]
pub struct Quantizer {
    pub(crate) scale: f32,
    pub(crate) inverse: f32,
    pub(crate) zero_point: i32,
    pub(crate) quant_min: i32,
    pub(crate) quant_max: i32,
}

impl Quantizer {
    /// A quantizer for parameters that [`QParams::check`] accepts. With other parameters, codes are within `range` but
    /// meaningless.
    pub fn new(qparams: QParams, range: QuantRange) -> Self {
        Self {
            scale: qparams.scale,
            inverse: 1.0 / qparams.scale,
            zero_point: qparams.zero_point,
            quant_min: range.quant_min(),
            quant_max: range.quant_max(),
        }
    }

    /// `rte(x * (1 / scale)) + zero_point`, not yet clamped to the code range (but to ±2^22).
    #[inline(always)]
    pub(crate) fn rounded(self, x: f32) -> i32 {
        let steps = (x * self.inverse).clamp(-LIMIT, LIMIT);
        let rounded = (steps + ROUNDER).to_bits().cast_signed() - ROUNDER.to_bits().cast_signed();
        rounded.wrapping_add(self.zero_point)
    }

    /// Writes the codes of finite values `x`, as far as both slices go. `C` must hold the range, or codes wrap.
    #[inline(always)]
    pub fn quantize_into<C: Code>(self, x: &[f32], codes: &mut [C]) {
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = C::narrow(self.code(x));
        }
    }

    /// Writes the fake-quantized values of finite `x`, as far as both slices go: the loop of
    /// [`fake_quantize_into`](crate::fake_quantize_into).
    #[inline(always)]
    pub fn fake_quantize_into(self, x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = self.value(self.code(x));
        }
    }

    /// Sets to 0 the gradients of values `x` that are clipped: the loop of
    /// [`fake_quantize_backward`](crate::fake_quantize_backward), in place.
    #[inline(always)]
    pub fn clear_clipped(self, x: &[f32], grad: &mut [f32]) {
        for (grad, &x) in grad.iter_mut().zip(x) {
            *grad = if self.contains(self.rounded(x)) { *grad } else { 0.0 };
        }
    }

    /// [`clear_clipped`](Self::clear_clipped) that also returns the gradients with respect to scale and zero point,
    /// without the factor: the loop of [`fake_quantize_learnable_backward`](crate::fake_quantize_learnable_backward),
    /// in place.
    #[inline(always)]
    pub fn learnable_backward(self, x: &[f32], grad: &mut [f32]) -> [f64; 2] {
        let (mut by_scale, mut by_zero_point) = ([0.0; LANES], [0.0; LANES]);
        for (x, grad) in x.chunks(RUN).zip(grad.chunks_mut(RUN)) {
            let mut terms = [0.0; RUN];
            for ((term, &x), &grad) in terms.iter_mut().zip(x).zip(&*grad) {
                let clipped = if self.contains(self.rounded(x)) { 0.0 } else { grad };
                *term = -(clipped * self.scale);
            }
            add_terms(&mut by_zero_point, &terms[..x.len()]);
            self.add_scale_terms(x, grad, &mut by_scale);
        }
        [by_scale, by_zero_point].map(|lanes| lanes.iter().sum())
    }

    /// [`learnable_backward`](Self::learnable_backward) with respect to the scale alone.
    #[inline(always)]
    pub fn scale_backward(self, x: &[f32], grad: &mut [f32]) -> f64 {
        let mut by_scale = [0.0; LANES];
        for (x, grad) in x.chunks(RUN).zip(grad.chunks_mut(RUN)) {
            self.add_scale_terms(x, grad, &mut by_scale);
        }
        by_scale.iter().sum()
    }

    /// Adds the gradients with respect to the scale to `sums`, and sets to 0 the gradients of values that are clipped.
    /// At most [`RUN`] values.
    #[inline(always)]
    fn add_scale_terms(self, x: &[f32], grad: &mut [f32], sums: &mut [f64; LANES]) {
        let mut terms = [0.0; RUN];
        for ((term, &x), grad) in terms.iter_mut().zip(x).zip(grad) {
            let rounded = self.rounded(x);
            let code = self.clamp(rounded);
            let inside = code == rounded;
            // Divided also where it is not used: a branch would keep the loop from being vectorized.
            let exact = x / self.scale;
            let error = (code - self.zero_point) as f32 - if inside { exact } else { 0.0 };
            *term = *grad * error;
            *grad = if inside { *grad } else { 0.0 };
        }
        add_terms(sums, &terms[..x.len()]);
    }

    /// Returns `true` if a rounded code lies inside the range, that is, if the value is not clipped.
    #[inline(always)]
    pub(crate) fn contains(self, rounded: i32) -> bool {
        self.clamp(rounded) == rounded
    }

    /// Clamps a rounded code to the range.
    #[inline(always)]
    pub(crate) fn clamp(self, rounded: i32) -> i32 {
        // `clamp` would check the order of its bounds, which keeps loops from being vectorized.
        rounded.max(self.quant_min).min(self.quant_max)
    }

    /// The code of `x`.
    #[inline(always)]
    pub(crate) fn code(self, x: f32) -> i32 {
        self.clamp(self.rounded(x))
    }

    /// The value of a code.
    #[inline(always)]
    pub(crate) fn value(self, code: i32) -> f32 {
        (code - self.zero_point) as f32 * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_round_ties_even() {
        let unit = Quantizer::new(QParams { scale: 1.0, zero_point: 0 }, QuantRange::INT8);
        for halves in -2_000..=2_000 {
            for ulps in -2..=2 {
                let x = halves as f32 * 0.5;
                let x = f32::from_bits(x.to_bits().wrapping_add_signed(ulps));
                if !x.is_finite() {
                    continue;
                }
                assert_eq!(round_small(x), x.round_ties_even(), "{x}");
                assert_eq!(unit.rounded(x), x.round_ties_even() as i32, "{x}");
            }
        }
        for x in [LIMIT, LIMIT - 0.5, LIMIT - 0.25, -LIMIT, -LIMIT + 0.5, 1e-40, -0.0] {
            assert_eq!(round_small(x), x.round_ties_even(), "{x}");
        }
    }

    #[test]
    fn huge_quotients_clamp() {
        let tiny = Quantizer::new(QParams { scale: f32::MIN_POSITIVE, zero_point: 3 }, QuantRange::INT8);
        assert_eq!(tiny.code(f32::MAX), 127);
        assert_eq!(tiny.code(f32::MIN), -128);
    }
}
