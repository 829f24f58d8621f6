//! Softmax and its logarithm.

use crate::dispatch::vectorized;
use crate::exp::exp_scalar;
use crate::lanes;

/// Replaces scores by `e^(scale (score - max))` and returns `max` and the sum of the results: a softmax before the
/// division by its sum.
#[inline(always)]
pub(crate) fn exponentials(scores: &mut [f32], scale: f32) -> (f32, f32) {
    let max = lanes::max(scores);
    for score in scores.iter_mut() {
        *score = exp_scalar((*score - max) * scale);
    }
    (max, lanes::sum(scores))
}

/// The sum of all values, in an order that does not depend on the processor.
pub fn sum(x: &[f32]) -> f32 {
    vectorized! { lanes::sum(x) }
}

/// The sum of the squares of all values, in an order that does not depend on the processor.
pub fn sum_squares(x: &[f32]) -> f32 {
    vectorized! { lanes::sum_squares(x, 0.0) }
}

/// Computes `log(sum(e^x))`, summed relative to the largest value; NaN if any value is NaN, `-inf` for an empty slice.
pub fn log_sum_exp(x: &[f32]) -> f64 {
    vectorized! {
        let max = lanes::max(x);
        if max == f32::NEG_INFINITY && !x.iter().any(|x| x.is_nan()) {
            return f64::NEG_INFINITY;
        }
        // Short runs are summed in f32 and their sums in f64, so that thousands of terms lose no precision.
        let mut total = 0.0;
        for chunk in x.chunks(256) {
            total += f64::from(lanes::reduce(
                chunk,
                0.0,
                #[inline(always)]
                |sum, x| sum + exp_scalar(x - max),
                |a, b| a + b,
            ));
        }
        total.ln() + f64::from(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_against_f64() {
        for len in [1, 5, 256, 1000, 32_000] {
            let x: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1009) as f32 / 60.0 - 9.0).collect();
            let expected = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let found = log_sum_exp(&x);
            assert!((found - expected).abs() < 1e-7 * (1.0 + expected.abs()), "{len}: {found} {expected}");
        }
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert!(log_sum_exp(&[1.0, f32::NAN, 2.0]).is_nan());
        assert!(log_sum_exp(&[f32::NEG_INFINITY, f32::NAN]).is_nan());
    }

    #[test]
    fn exponentials_of_any_size_stay_finite() {
        let mut scores = [1e6, -1e6, 1e6];
        assert_eq!(exponentials(&mut scores, 0.125), (1e6, 2.0));
        assert_eq!(scores, [1.0, 0.0, 1.0]);
    }
}
