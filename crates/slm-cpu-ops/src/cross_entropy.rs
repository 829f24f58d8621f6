//! The cross-entropy loss of a language model.

use crate::add::scale;
use crate::dispatch::vectorized;
use crate::exp::exp_scalar;
use crate::lanes;

/// Replaces a row of logits by its softmax and returns `-log(softmax[target])` in nats; NaN if any logit is NaN.
///
/// # Panics
/// If `target` is not an index of the row.
pub fn cross_entropy(logits: &mut [f32], target: usize) -> f64 {
    assert!(target < logits.len(), "cross_entropy: target {target} of {} classes", logits.len());
    vectorized! {
        let max = lanes::max(logits);
        let wanted = logits[target];
        for logit in logits.iter_mut() {
            *logit = exp_scalar(*logit - max);
        }
        // Short runs are summed in f32 and their sums in f64, so that thousands of terms lose no precision.
        let total: f64 = logits.chunks(256).map(|chunk| f64::from(lanes::sum(chunk))).sum();
        let factor = (1.0 / total) as f32;
        logits.iter_mut().for_each(|p| *p *= factor);
        total.ln() - (f64::from(wanted) - f64::from(max))
    }
}

/// Replaces a row's softmax by the gradient of `factor` times its [`cross_entropy`].
///
/// # Panics
/// If `target` is not an index of the row.
pub fn cross_entropy_backward(softmax: &mut [f32], target: usize, factor: f32) {
    assert!(target < softmax.len(), "cross_entropy: target {target} of {} classes", softmax.len());
    softmax[target] -= 1.0;
    scale(softmax, factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_gradient_against_f64() {
        for len in [1usize, 5, 256, 1000] {
            let logits: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1009) as f32 / 60.0 - 9.0).collect();
            let target = len / 2;
            let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let mut row = logits.clone();
            let loss = cross_entropy(&mut row, target);
            let expected = total.ln() - f64::from(logits[target]);
            assert!((loss - expected).abs() < 1e-6, "{len}: {loss} {expected}");
            cross_entropy_backward(&mut row, target, 0.5);
            for (i, (found, logit)) in row.iter().zip(&logits).enumerate() {
                let p = f64::from(*logit).exp() / total;
                let e = 0.5 * (p - f64::from(u8::from(i == target)));
                assert!((f64::from(*found) - e).abs() < 1e-6, "{len}, {i}: {found} {e}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_none_afterwards() {
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 40] {
                let mut row = vec![0.5; 50];
                row[at] = bad;
                assert!(cross_entropy(&mut row, 7).is_nan(), "{bad} at {at}");
            }
        }
        let mut far = [-1e30, 1e30];
        assert_eq!(cross_entropy(&mut far, 1), 0.0);
    }
}
