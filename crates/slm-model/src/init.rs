//! Random initial weights.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::ModelConfig;
use crate::error::SourceError;
use crate::names::expected_tensors;
use crate::source::TensorSource;

/// Standard deviation of every weight that does not write into the residual stream (GPT-2, and Hugging Face's
/// `initializer_range` for the families here).
const STD: f64 = 0.02;

/// Weights drawn on the host, so that a seed gives the same model on every device.
///
/// Norm gains are 1, biases are 0, and the rest is normal. Layers that write into the residual stream (`o_proj`,
/// `down_proj`) have a standard deviation smaller by a factor of `sqrt(2 * num_layers)`, so that the stream does not
/// grow with the depth (Radford and others, 2019, section 2.3).
pub(crate) struct RandomSource {
    rng: ChaCha8Rng,
    residual_std: f64,
    shapes: std::collections::HashMap<String, Vec<usize>>,
}

impl RandomSource {
    pub(crate) fn new(config: &ModelConfig, seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            residual_std: STD / ((2 * config.num_layers) as f64).sqrt(),
            shapes: expected_tensors(config).into_iter().map(|t| (t.name, t.shape)).collect(),
        }
    }

    /// `len` normal values of standard deviation `std` (Box and Muller, 1958).
    fn normal(&mut self, len: usize, std: f64) -> Vec<f32> {
        let mut values = Vec::with_capacity(len + 1);
        while values.len() < len {
            // 1 - u is in (0, 1], so the logarithm is finite.
            let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt() * std;
            let (sin, cos) = (std::f64::consts::TAU * self.rng.random::<f64>()).sin_cos();
            values.push((radius * cos) as f32);
            values.push((radius * sin) as f32);
        }
        values.truncate(len);
        values
    }
}

impl TensorSource for RandomSource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        let len = expected_shape.iter().product();
        Ok(if name.ends_with(".bias") {
            vec![0.0; len]
        } else if name.ends_with("norm.weight") {
            vec![1.0; len]
        } else if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
            self.normal(len, self.residual_std)
        } else {
            self.normal(len, STD)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_and_seed() {
        let config = ModelConfig::new(100, 64, 128, 8, 4, 32);
        let mut source = RandomSource::new(&config, 7);
        for (name, std) in [("embed_tokens.weight", 0.02), ("layers.0.self_attn.o_proj.weight", 0.005)] {
            let values = source.take_f32(name, &[100, 101]).unwrap();
            assert_eq!(values.len(), 10_100);
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 10_100.0;
            let found = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 10_100.0).sqrt();
            assert!(mean.abs() < 4.0 * std / 100.0, "{name}: mean {mean}");
            assert!((found / std - 1.0).abs() < 0.03, "{name}: deviation {found}");
        }
        assert_eq!(source.take_f32("layers.0.input_norm.weight", &[3]).unwrap(), [1.0; 3]);
        assert_eq!(source.take_f32("layers.0.self_attn.q_norm.weight", &[2]).unwrap(), [1.0; 2]);
        assert_eq!(source.take_f32("norm.bias", &[2]).unwrap(), [0.0; 2]);
        let draw = |seed| RandomSource::new(&config, seed).take_f32("embed_tokens.weight", &[9]).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
