//! RMS norm and layer norm of a row.

use crate::dispatch::vectorized;
use crate::lanes;

/// Computes `out = x / sqrt(mean(x^2) + eps) * weight` of one row (Zhang and Sennrich, 2019, arXiv:1910.07467).
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm: lengths differ");
    vectorized! {
        let factor = rms_factor(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

/// [`rms_norm`] of every run of as many values as there are weights, in place. It normalizes attention heads.
///
/// # Panics
/// If the length of `x` is not a multiple of the number of weights.
pub fn rms_norm_heads(x: &mut [f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "rms_norm_heads: lengths do not fit");
    vectorized! {
        for head in x.chunks_exact_mut(width) {
            let factor = rms_factor(head, eps);
            for (x, weight) in head.iter_mut().zip(weight) {
                *x = *x * factor * weight;
            }
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(crate) fn rms_factor(x: &[f32], eps: f32) -> f32 {
    1.0 / (lanes::sum_squares(x, 0.0) / x.len() as f32 + eps).sqrt()
}

/// Computes `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` of one row, with the biased variance (Ba, Kiros
/// and Hinton, 2016, arXiv:1607.06450).
///
/// # Panics
/// If the lengths differ.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let fits = x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len();
    assert!(fits, "layer_norm: lengths differ");
    vectorized! {
        let (mean, factor) = layer_factor(x, eps);
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = ((x - mean) * factor).mul_add(*weight, *bias);
        }
    }
}

/// `mean(x)` and `1 / sqrt(var(x) + eps)`.
#[inline(always)]
pub(crate) fn layer_factor(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = lanes::sum(x) / x.len() as f32;
    (mean, 1.0 / (lanes::sum_squares(x, mean) / x.len() as f32 + eps).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: usize, shift: f32) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 97) as f32 / 24.0 - shift).collect()
    }

    #[test]
    fn both_norms_against_f64() {
        for len in [1, 4, 31, 32, 33, 576, 2048] {
            // A large epsilon shows that it is added inside the root.
            for eps in [1e-5, 0.5] {
                let (x, weight, bias) = (wave(len, 31, 1.0), wave(len, 17, 2.0), wave(len, 41, 0.5));
                let wide = |v: f32| f64::from(v);
                let count = len as f64;
                let mut out = vec![0.0; len];
                rms_norm(&x, &weight, eps, &mut out);
                let mean_square = x.iter().map(|&x| wide(x).powi(2)).sum::<f64>() / count;
                for i in 0..len {
                    let expected = wide(x[i]) / (mean_square + wide(eps)).sqrt() * wide(weight[i]);
                    assert!((wide(out[i]) - expected).abs() < 2e-6, "{len} {eps}: {} {expected}", out[i]);
                }
                layer_norm(&x, &weight, &bias, eps, &mut out);
                let mean = x.iter().map(|&x| wide(x)).sum::<f64>() / count;
                let var = x.iter().map(|&x| (wide(x) - mean).powi(2)).sum::<f64>() / count;
                for i in 0..len {
                    let normal = (wide(x[i]) - mean) / (var + wide(eps)).sqrt();
                    let expected = normal * wide(weight[i]) + wide(bias[i]);
                    assert!((wide(out[i]) - expected).abs() < 4e-6, "{len} {eps}: {} {expected}", out[i]);
                }
            }
        }
    }

    #[test]
    fn heads_are_normalized_one_by_one() {
        let (x, weight) = (wave(5 * 12, 31, 1.0), wave(12, 17, 2.0));
        let mut heads = x.clone();
        rms_norm_heads(&mut heads, &weight, 1e-6);
        for (x, found) in x.chunks(12).zip(heads.chunks(12)) {
            let mut expected = [0.0; 12];
            rms_norm(x, &weight, 1e-6, &mut expected);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_large_mean_does_not_cancel() {
        let x: Vec<f32> = (0..64).map(|i| 10_000.0 + (i % 2) as f32).collect();
        let mut out = vec![0.0; 64];
        layer_norm(&x, &[1.0; 64], &[0.0; 64], 1e-5, &mut out);
        for (i, y) in out.iter().enumerate() {
            let expected = if i % 2 == 0 { -1.0 } else { 1.0 };
            assert!((y - expected).abs() < 1e-3, "{y}");
        }
    }
}
