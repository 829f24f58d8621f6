//! Norms over a row.

use crate::dispatch::vectorize;
use crate::lanes;

/// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 2019, arXiv:1910.07467), of one row.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm: lengths differ");
    vectorize(|| {
        let mean_square = lanes::sum_squares(x, 0.0) / x.len() as f32;
        let factor = 1.0 / (mean_square + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    });
}

/// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` with the biased variance (Ba, Kiros and Hinton,
/// 2016, arXiv:1607.06450), of one row.
///
/// # Panics
/// When the lengths differ.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let fits = x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len();
    assert!(fits, "layer_norm: lengths differ");
    vectorize(|| {
        let mean = lanes::sum(x) / x.len() as f32;
        let factor = 1.0 / (lanes::sum_squares(x, mean) / x.len() as f32 + eps).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = ((x - mean) * factor).mul_add(*weight, *bias);
        }
    });
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
            // A large epsilon tells whether it is added inside the root.
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
