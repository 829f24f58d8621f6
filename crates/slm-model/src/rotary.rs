//! Rotary position embedding, the two halves of a head forming the pairs.

use burn::tensor::{Device, Tensor, TensorData};

use slm_autograd::RotaryTable;

use crate::config::RopeScaling;

/// Angle per position of each pair of a head: `theta^(-2i / head_dim)`, scaled for long contexts.
///
/// Angles are products of two f32, and sines and cosines those of that f32, as in Hugging Face's models.
/// Tables are computed for the positions of each pass: one sine and cosine per pair and position, shared by
/// all layers, is far below the cost of the pass, and nothing has to be kept for the longest possible context.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    frequencies: Vec<f32>,
}

/// Sines and cosines of a run of positions, each `[1, 1, len, head_dim / 2]`.
#[derive(Debug, Clone)]
pub(crate) struct RotaryTables {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

/// Sines and cosines of a run of positions, `[len, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub(crate) struct Angles {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// All of them, for the fused attention.
    pub(crate) fn into_table(self) -> RotaryTable {
        RotaryTable { cos: self.cos, sin: self.sin }
    }

    /// Cosines and sines of the position `row` after the first.
    pub(crate) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.pairs..(row + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

impl Rotary {
    pub(crate) fn new(head_dim: usize, theta: f64, scaling: Option<RopeScaling>) -> Self {
        let frequencies = (0..head_dim / 2)
            .map(|i| {
                let frequency = theta.powf(-((2 * i) as f64) / head_dim as f64);
                scaled_frequency(frequency, scaling) as f32
            })
            .collect();
        Self { frequencies }
    }

    /// Sines and cosines of positions `start .. start + len`.
    pub(crate) fn angles(&self, start: usize, len: usize) -> Angles {
        let angles = || {
            (start..start + len)
                .flat_map(|p| self.frequencies.iter().map(move |&frequency| p as f32 * frequency))
        };
        Angles {
            pairs: self.frequencies.len(),
            cos: angles().map(f32::cos).collect(),
            sin: angles().map(f32::sin).collect(),
        }
    }

    /// Tables for positions `start .. start + len`.
    pub(crate) fn tables(&self, start: usize, len: usize, device: &Device) -> RotaryTables {
        let Angles { pairs, cos, sin } = self.angles(start, len);
        let tensor = |values| Tensor::from_data(TensorData::new(values, [1, 1, len, pairs]), device);
        RotaryTables { cos: tensor(cos), sin: tensor(sin) }
    }
}

impl RotaryTables {
    /// Rotates every head of `x`, `[batch, heads, len, head_dim]`.
    pub(crate) fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let halves = x.chunk(2, 3);
        let [a, b] = [&halves[0], &halves[1]].map(Clone::clone);
        let first = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let second = b * self.cos.clone() + a * self.sin.clone();
        Tensor::cat(vec![first, second], 3)
    }
}

fn scaled_frequency(frequency: f64, scaling: Option<RopeScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / factor,
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => {
            // How many turns the pair makes within the original context: few turns mean a low frequency.
            let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            kept * frequency + (1.0 - kept) * frequency / factor
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn rotation_by_hand_at_an_offset() {
        let rotary = Rotary::new(4, 100.0, None);
        assert_eq!(rotary.frequencies, [1.0, 0.1]);
        let x = [[[[1.0f32, 2.0, 3.0, 4.0], [-1.0, 0.5, 2.0, 0.0]]]];
        for device in devices() {
            let y = rotary.tables(5, 2, &device).rotate(Tensor::from_data(x, &device));
            let y = y.into_data().try_into_vec::<f32>().unwrap();
            for (t, row) in x[0][0].iter().enumerate() {
                for pair in 0..2 {
                    let angle = (5 + t) as f64 * [1.0, 0.1][pair];
                    let (a, b) = (f64::from(row[pair]), f64::from(row[pair + 2]));
                    let expected = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()];
                    for (half, e) in expected.into_iter().enumerate() {
                        let found = f64::from(y[t * 4 + half * 2 + pair]);
                        assert!((found - e).abs() < 1e-5, "{found} {e}");
                    }
                }
            }
        }
    }

    #[test]
    fn scalings() {
        assert_eq!(scaled_frequency(0.5, Some(RopeScaling::Linear { factor: 4.0 })), 0.125);
        let llama3 = Some(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        });
        // Wavelengths 2 pi / f: under 8192 / 4 kept, over 8192 divided by 8, between them blended by the rule
        // of Llama 3.1's reference code.
        assert_eq!(scaled_frequency(1.0, llama3), 1.0);
        assert_eq!(scaled_frequency(1e-5, llama3), 1e-5 / 8.0);
        let frequency = std::f64::consts::TAU / 4096.0;
        let smooth = (8192.0 / 4096.0 - 1.0) / (4.0 - 1.0);
        let expected = (1.0 - smooth) * frequency / 8.0 + smooth * frequency;
        assert!((scaled_frequency(frequency, llama3) / expected - 1.0).abs() < 1e-12);
    }
}
