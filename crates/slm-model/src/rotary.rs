//! Rotary position embedding, the two halves of a head forming the pairs.

use burn::tensor::{Device, Tensor, TensorData};

use slm_autograd::RotaryTable;

use crate::config::{LayerSpec, RopeScaling, RotaryConfig};

/// The different rotary embeddings of a model's layers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rotaries(Vec<(RotaryConfig, Rotary)>);

impl Rotaries {
    /// Those of `layers`, whose heads are `head_dim` wide.
    pub(crate) fn new<'a>(layers: impl IntoIterator<Item = &'a LayerSpec>, head_dim: usize) -> Self {
        let mut rotaries = Self::default();
        for config in layers.into_iter().filter_map(|layer| layer.rotary) {
            if rotaries.index(Some(config)).is_none() {
                rotaries.0.push((config, Rotary::new(head_dim, config)));
            }
        }
        rotaries
    }

    /// Which of them a layer uses.
    pub(crate) fn index(&self, config: Option<RotaryConfig>) -> Option<usize> {
        let config = config?;
        self.0.iter().position(|(known, _)| *known == config)
    }

    /// Sines and cosines of positions `start .. start + len`, of each.
    pub(crate) fn angles(&self, start: usize, len: usize) -> Vec<Angles> {
        self.0.iter().map(|(_, rotary)| rotary.angles(start, len)).collect()
    }

    /// Tables for positions `start .. start + len`, of each.
    pub(crate) fn tables(&self, start: usize, len: usize, device: &Device) -> Vec<RotaryTables> {
        self.0.iter().map(|(_, rotary)| rotary.tables(start, len, device)).collect()
    }
}

/// Angle per position of each pair of a head: `theta^(-2i / dims)`, scaled for long contexts.
///
/// Angles are products of two f32, and sines and cosines those of that f32, as in Hugging Face's models.
/// Tables are computed for the positions of each pass: one sine and cosine per pair and position, shared by
/// all layers, is far below the cost of the pass, and nothing has to be kept for the longest possible context.
#[derive(Debug, Clone, PartialEq)]
struct Rotary {
    frequencies: Vec<f32>,
}

/// Sines and cosines of a run of positions, each `[1, 1, len, pairs]`.
#[derive(Debug, Clone)]
pub(crate) struct RotaryTables {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

/// Sines and cosines of a run of positions, `[len, pairs]` each.
#[derive(Debug, Clone)]
pub(crate) struct Angles {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// All of them, for the fused attention.
    pub(crate) fn into_table(self) -> RotaryTable {
        RotaryTable { pairs: self.pairs, cos: self.cos, sin: self.sin }
    }

    /// Cosines and sines of the position `row` after the first.
    pub(crate) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.pairs..(row + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

impl Rotary {
    fn new(head_dim: usize, config: RotaryConfig) -> Self {
        let dims = config.dims.unwrap_or(head_dim);
        let frequencies = (0..dims / 2)
            .map(|i| {
                let frequency = config.theta.powf(-((2 * i) as f64) / dims as f64);
                scaled_frequency(frequency, config.scaling) as f32
            })
            .collect();
        Self { frequencies }
    }

    /// Sines and cosines of positions `start .. start + len`.
    fn angles(&self, start: usize, len: usize) -> Angles {
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
    fn tables(&self, start: usize, len: usize, device: &Device) -> RotaryTables {
        let Angles { pairs, cos, sin } = self.angles(start, len);
        let tensor = |values| Tensor::from_data(TensorData::new(values, [1, 1, len, pairs]), device);
        RotaryTables { cos: tensor(cos), sin: tensor(sin) }
    }
}

impl RotaryTables {
    /// Rotates every head of `x`, `[batch, heads, len, head_dim]`: the first `2 * pairs` values.
    pub(crate) fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let (pairs, head_dim) = (self.cos.dims()[3], x.dims()[3]);
        let part = |start: usize, width: usize| x.clone().narrow(3, start, width);
        let (a, b) = (part(0, pairs), part(pairs, pairs));
        let first = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let second = b * self.cos.clone() + a * self.sin.clone();
        let mut parts = vec![first, second];
        if head_dim > 2 * pairs {
            parts.push(part(2 * pairs, head_dim - 2 * pairs));
        }
        Tensor::cat(parts, 3)
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
        rotate_by_hand(4, [[1.0f32, 2.0, 3.0, 4.0], [-1.0, 0.5, 2.0, 0.0]], RotaryConfig::new(100.0));
    }

    #[test]
    fn the_rest_of_a_head_stays() {
        let config = RotaryConfig { dims: Some(4), ..RotaryConfig::new(100.0) };
        rotate_by_hand(6, [[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [-1.0, 0.5, 2.0, 0.0, 7.0, -8.0]], config);
    }

    fn rotate_by_hand<const DIM: usize>(head_dim: usize, rows: [[f32; DIM]; 2], config: RotaryConfig) {
        let rotary = Rotary::new(head_dim, config);
        assert_eq!(rotary.frequencies, [1.0, 0.1]);
        let x = [[rows]];
        for device in devices() {
            let y = rotary.tables(5, 2, &device).rotate(Tensor::from_data(x, &device));
            let y = y.into_data().try_into_vec::<f32>().unwrap();
            assert!((0..2).all(|t| y[t * DIM + 4..(t + 1) * DIM] == rows[t][4..]));
            for (t, row) in x[0][0].iter().enumerate() {
                for pair in 0..2 {
                    let angle = (5 + t) as f64 * [1.0, 0.1][pair];
                    let (a, b) = (f64::from(row[pair]), f64::from(row[pair + 2]));
                    let expected = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()];
                    for (half, e) in expected.into_iter().enumerate() {
                        let found = f64::from(y[t * DIM + half * 2 + pair]);
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
