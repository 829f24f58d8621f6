//! Backward passes of the norms.

use crate::dispatch::vectorized;
use crate::lanes;
use crate::norm::{layer_factor, rms_factor};

/// Backward pass of [`rms_norm`](crate::rms_norm) of one row: `grad` holds the gradient of the output and receives
/// that of `x`; that of the weight is added to `weight_grad`.
///
/// With `f = 1 / sqrt(mean(x^2) + eps)` and `a = grad * weight` the gradient of `x` is
/// `f a - x f^3 mean(a x)`.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, grad: &mut [f32], weight_grad: &mut [f32]) {
    let len = x.len();
    let fits = len == weight.len() && len == grad.len() && len == weight_grad.len();
    assert!(fits, "rms_norm_backward: lengths differ");
    vectorized! {
        let f = rms_factor(x, eps);
        for (((weight_grad, grad), x), weight) in
            weight_grad.iter_mut().zip(grad.iter_mut()).zip(x).zip(weight)
        {
            *weight_grad += *grad * x * f;
            *grad *= weight;
        }
        let shift = f * f * f * lanes::dot(grad, x) / len as f32;
        for (grad, x) in grad.iter_mut().zip(x) {
            *grad = *grad * f - x * shift;
        }
    }
}

/// Backward pass of [`layer_norm`](crate::layer_norm) of one row: `grad` holds the gradient of the output and
/// receives that of `x`; those of weight and bias are added to `weight_grad` and `bias_grad`.
///
/// With `n = (x - mean(x)) f` and `a = grad * weight` the gradient of `x` is `f (a - mean(a) - n mean(a n))`.
///
/// # Panics
/// If the lengths differ.
pub fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    grad: &mut [f32],
    weight_grad: &mut [f32],
    bias_grad: &mut [f32],
) {
    let len = x.len();
    let fits = len == weight.len() && len == grad.len() && len == weight_grad.len() && len == bias_grad.len();
    assert!(fits, "layer_norm_backward: lengths differ");
    vectorized! {
        let (mean, f) = layer_factor(x, eps);
        let grads = weight_grad.iter_mut().zip(bias_grad).zip(grad.iter_mut());
        for (((weight_grad, bias_grad), grad), (x, weight)) in grads.zip(x.iter().zip(weight)) {
            *weight_grad += *grad * (x - mean) * f;
            *bias_grad += *grad;
            *grad *= weight;
        }
        let grad_mean = lanes::sum(grad) / len as f32;
        // mean(a n) = f (mean(a x) - mean(a) mean(x)) would suffer from cancellation, so the centred values are
        // multiplied.
        let slope = f * lanes::dot_centred(grad, x, mean) / len as f32;
        for (grad, x) in grad.iter_mut().zip(x) {
            *grad = f * (*grad - grad_mean - (x - mean) * f * slope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::norm::{layer_norm, rms_norm};

    const EPS: f32 = 0.1;

    fn wave(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 97) as f32 / 48.0 - 1.0).collect()
    }

    /// The slope of `loss` at each of `at`, by central differences.
    fn slopes(at: &[f32], loss: impl Fn(&[f32]) -> f64) -> Vec<f64> {
        (0..at.len())
            .map(|i| {
                let moved = |step: f32| {
                    let mut moved = at.to_vec();
                    moved[i] += step;
                    loss(&moved)
                };
                (moved(1e-2) - moved(-1e-2)) / 2e-2
            })
            .collect()
    }

    fn check(what: &str, found: &[f32], expected: &[f64]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f64::from(*f) - e).abs() < 2e-3 * (1.0 + e.abs()), "{what}: {f} {e}");
        }
    }

    fn weighted(y: &[f32], grad: &[f32]) -> f64 {
        y.iter().zip(grad).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    }

    #[test]
    fn rms_norm_by_finite_differences() {
        for len in [1, 5, 33, 70] {
            let (x, weight, grad) = (wave(len, 31), wave(len, 17), wave(len, 41));
            let loss = |x: &[f32], weight: &[f32]| {
                let mut out = vec![0.0; len];
                rms_norm(x, weight, EPS, &mut out);
                weighted(&out, &grad)
            };
            let (mut by_x, mut by_weight) = (grad.clone(), vec![1.0; len]);
            rms_norm_backward(&x, &weight, EPS, &mut by_x, &mut by_weight);
            check("x", &by_x, &slopes(&x, |x| loss(x, &weight)));
            by_weight.iter_mut().for_each(|g| *g -= 1.0);
            check("weight", &by_weight, &slopes(&weight, |weight| loss(&x, weight)));
        }
    }

    #[test]
    fn layer_norm_by_finite_differences() {
        for len in [2, 5, 33, 70] {
            let (x, weight, grad) = (wave(len, 31), wave(len, 17), wave(len, 41));
            let bias = wave(len, 13);
            let loss = |x: &[f32], weight: &[f32], bias: &[f32]| {
                let mut out = vec![0.0; len];
                layer_norm(x, weight, bias, EPS, &mut out);
                weighted(&out, &grad)
            };
            let (mut by_x, mut by_weight, mut by_bias) = (grad.clone(), vec![1.0; len], vec![2.0; len]);
            layer_norm_backward(&x, &weight, EPS, &mut by_x, &mut by_weight, &mut by_bias);
            check("x", &by_x, &slopes(&x, |x| loss(x, &weight, &bias)));
            by_weight.iter_mut().for_each(|g| *g -= 1.0);
            check("weight", &by_weight, &slopes(&weight, |weight| loss(&x, weight, &bias)));
            by_bias.iter_mut().for_each(|g| *g -= 2.0);
            check("bias", &by_bias, &slopes(&bias, |bias| loss(&x, &weight, bias)));
        }
    }
}
