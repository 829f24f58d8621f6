//! Addition of an update to quantized weights, and quantization of the sum.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use slm_quant_core::{QuantizedMatrix, Result, Scales, quantize_matrix_with};

/// Steps of the residual in one scale: half a scale is 127.
const RESIDUAL_STEPS: f32 = 254.0;

/// Rounding of updated weights back to codes. Most updates are far smaller than the distance between two codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Rounds to the nearest code: an update of less than half a scale is lost.
    Nearest,
    /// Rounds up or down at random, so that the mean is the updated weight (Gupta and others, 2015, arXiv:1502.02551).
    Stochastic {
        /// Seed of the draws.
        seed: u64,
    },
    /// Rounds to the nearest code; the remainder is kept in 8 bits and added to the next update (Seide and others,
    /// 2014, "1-bit stochastic gradient descent", for gradients).
    ErrorFeedback,
}

/// Returns `weights + update`, quantized with the scales of `weights`. `residual` has one value for each weight with
/// error feedback, and is empty otherwise.
pub(super) fn requantize(
    weights: &QuantizedMatrix,
    update: &[f32],
    residual: &mut [i8],
    rounding: Rounding,
    draw: u64,
) -> Result<QuantizedMatrix> {
    let (rows, cols, scheme) = (weights.rows(), weights.cols(), weights.scheme());
    let (low, high) = (scheme.range().quant_min() as f32, scheme.range().quant_max() as f32);
    let mut random = match rounding {
        Rounding::Stochastic { seed } => {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(draw);
            Some(random)
        }
        Rounding::Nearest | Rounding::ErrorFeedback => None,
    };
    let mut values = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        for col in 0..cols {
            let index = row * cols + col;
            let params = weights.qparams(weights.scale_index(row, col / weights.group_width()));
            let code = f32::from(weights.code(row, col)) + update[index] / params.scale;
            let kept = residual.get_mut(index);
            let exact = code + kept.as_ref().map_or(0.0, |kept| f32::from(**kept) / RESIDUAL_STEPS);
            let rounded = match &mut random {
                // 24 bits, as many as evenly spaced floats in [0, 1) have.
                Some(random) => (exact + (random.next_u32() >> 8) as f32 / 16_777_216.0).floor(),
                None => exact.round_ties_even(),
            };
            let rounded = if rounded.is_nan() { rounded } else { rounded.clamp(low, high) };
            if let Some(kept) = kept {
                *kept = ((exact - rounded) * RESIDUAL_STEPS).round_ties_even().clamp(-127.0, 127.0) as i8;
            }
            values.push((rounded - params.zero_point as f32) * params.scale);
        }
    }
    // A code's own value rounds back to it.
    let scales = Scales::from_f32(weights.scales().to_f32(), scheme.scale_dtype);
    quantize_matrix_with(&values, rows, cols, scheme, scales, weights.zero_points().map(<[i8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slm_quant_core::{Bits, Granularity, Mapping, ObserverKind, QuantScheme, quantize_matrix};

    fn weights(bits: Bits, mapping: Mapping) -> QuantizedMatrix {
        let values: Vec<f32> = (0..6 * 13).map(|i| ((i * 37) % 79) as f32 / 40.0 - 0.9).collect();
        let scheme = QuantScheme::per_tensor(bits)
            .with_granularity(Granularity::PerGroup { group_size: 5 })
            .with_mapping(mapping);
        quantize_matrix(&values, 6, 13, scheme, &ObserverKind::MinMax).unwrap()
    }

    fn scale(weights: &QuantizedMatrix, index: usize) -> f32 {
        weights.qparams(weights.scale_index(index / 13, index % 13 / 5)).scale
    }

    #[test]
    fn no_update_changes_nothing() {
        for bits in [Bits::Int8, Bits::Int4] {
            for mapping in [Mapping::Symmetric, Mapping::Affine] {
                let weights = weights(bits, mapping);
                for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 3 }, Rounding::ErrorFeedback]
                {
                    let mut residual = vec![0; 6 * 13];
                    let again = requantize(&weights, &[0.0; 6 * 13], &mut residual, rounding, 1).unwrap();
                    assert_eq!(again, weights, "{rounding:?}");
                    assert_eq!(residual, vec![0; 6 * 13]);
                }
            }
        }
    }

    /// Ten updates of a fifth of a scale: rounding to nearest loses them, the other two keep them on average or
    /// exactly.
    #[test]
    fn small_updates_vanish_or_add_up() {
        let run = |rounding: Rounding, length: usize| {
            let mut weights = weights(Bits::Int8, Mapping::Symmetric);
            let before = weights.dequantize();
            let update: Vec<f32> = (0..6 * 13).map(|i| 0.2 * scale(&weights, i)).collect();
            let mut residual = vec![0; length];
            for draw in 0..10 {
                weights = requantize(&weights, &update, &mut residual, rounding, draw).unwrap();
            }
            let after = weights.dequantize();
            // Steps of the scale that weights have moved; weights at the top of their range cannot move.
            let moved: Vec<f32> = (0..6 * 13)
                .filter(|&i| i16::from(weights.code(i / 13, i % 13)) < 120)
                .map(|i| (after[i] - before[i]) / scale(&weights, i))
                .collect();
            assert!(moved.len() > 50);
            moved
        };
        assert!(run(Rounding::Nearest, 0).iter().all(|moved| moved.abs() < 1e-3));
        assert!(run(Rounding::ErrorFeedback, 6 * 13).iter().all(|moved| (moved - 2.0).abs() < 1e-3));
        let random = run(Rounding::Stochastic { seed: 1 }, 0);
        let mean = random.iter().sum::<f32>() / random.len() as f32;
        // Each is a sum of ten draws of variance 0.16.
        assert!((mean - 2.0).abs() < 4.0 * (1.6 / random.len() as f32).sqrt(), "{mean}");
        assert_ne!(random, run(Rounding::Stochastic { seed: 2 }, 0));
        assert_eq!(random, run(Rounding::Stochastic { seed: 1 }, 0));
    }

    #[test]
    fn weights_stay_in_their_range_and_nan_is_refused() {
        let weights = weights(Bits::Int4, Mapping::Symmetric);
        let top = requantize(&weights, &[1e3; 6 * 13], &mut [], Rounding::Nearest, 0).unwrap();
        assert!((0..6 * 13).all(|i| top.code(i / 13, i % 13) == 7));
        assert!(requantize(&weights, &[f32::NAN; 6 * 13], &mut [], Rounding::Nearest, 0).is_err());
    }
}
