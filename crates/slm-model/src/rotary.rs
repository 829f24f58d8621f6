//! Rotary position embedding, with pairs formed by the two halves of a head.

use std::borrow::Cow;
use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};

use slm_autograd::RotaryTable;

use crate::config::{LayerSpec, RopeScaling, RotaryConfig};
use crate::error::{Error, Result};

/// The different rotary embeddings of a model's layers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rotaries(Vec<(RotaryConfig, Rotary)>);

impl Rotaries {
    /// Creates the embeddings of `layers`, whose heads are `head_dim` wide.
    pub(crate) fn new<'a>(layers: impl IntoIterator<Item = &'a LayerSpec>, head_dim: usize) -> Self {
        let mut rotaries = Self::default();
        for config in layers.into_iter().filter_map(|layer| layer.rotary.as_ref()) {
            if rotaries.index(Some(config)).is_none() {
                rotaries.0.push((config.clone(), Rotary::new(head_dim, config)));
            }
        }
        rotaries
    }

    /// Index of the embedding that a layer uses.
    pub(crate) fn index(&self, config: Option<&RotaryConfig>) -> Option<usize> {
        let config = config?;
        self.0.iter().position(|(known, _)| known == config)
    }

    /// Checks that positions held as part of a sequence of `rotated_for` positions (0 for none) are rotated in the same
    /// way in a sequence of `total` positions.
    ///
    /// # Errors
    /// [`Error::RotaryChange`].
    pub(crate) fn check_growth(&self, rotated_for: usize, total: usize) -> Result<()> {
        let mut limits = self.0.iter().filter_map(|(_, rotary)| Some(rotary.long.as_ref()?.0));
        match limits.find(|&limit| rotated_for > 0 && (rotated_for > limit) != (total > limit)) {
            Some(limit) => Err(Error::RotaryChange { limit }),
            None => Ok(()),
        }
    }

    /// Sines and cosines of positions `start .. start + len` of a sequence of `total` positions, for each embedding.
    pub(crate) fn angles(&self, start: usize, len: usize, total: usize) -> Vec<Angles> {
        self.0.iter().map(|(_, rotary)| rotary.angles(start, len, total)).collect()
    }

    /// Tables for positions `start .. start + len`, the last of a sequence, for each embedding.
    pub(crate) fn tables(&self, start: usize, len: usize, device: &Device) -> Vec<RotaryTables> {
        self.0.iter().map(|(_, rotary)| rotary.tables(start, len, device)).collect()
    }
}

/// The angle per position of each pair of a head: `theta^(-2i / dims)`, scaled for long contexts.
///
/// Angles are products of two f32, and sines and cosines are those of that f32, as in Hugging Face's models. Tables are
/// computed for the positions of each pass. One sine and cosine per pair and position, shared by all layers, costs far
/// less than the pass, and no table for the longest possible context is needed.
#[derive(Debug, Clone, PartialEq)]
struct Rotary {
    frequencies: Vec<f32>,
    /// A number of positions, and the frequencies of longer sequences if these differ.
    long: Option<(usize, Vec<f32>)>,
    /// Change of the frequencies with the length of a sequence, if there is any.
    dynamic: Option<DynamicBase>,
    /// Factor of sines and cosines.
    scale: f32,
}

/// Frequencies of a rotary embedding, for export to other programs.
///
/// The angle of pair `i` at position `p` is `p * frequencies[i]`, a product of two f32; pair `i` of a head is its
/// values `i` and `i + frequencies.len()`.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryFrequencies {
    /// One for each pair.
    pub frequencies: Vec<f32>,
    /// A number of positions, and the frequencies of longer sequences if these differ.
    pub long: Option<(usize, Vec<f32>)>,
    /// Factor of sines and cosines.
    pub scale: f32,
}

impl RotaryConfig {
    /// The frequencies in heads of `head_dim` values; `None` if they change with the length of a sequence
    /// ([`RopeScaling::Dynamic`]).
    pub fn frequencies(&self, head_dim: usize) -> Option<RotaryFrequencies> {
        let Rotary { frequencies, long, dynamic, scale } = Rotary::new(head_dim, self);
        dynamic.is_none().then_some(RotaryFrequencies { frequencies, long, scale })
    }
}

/// A base that grows with the length of a sequence beyond `limit` positions.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DynamicBase {
    theta: f64,
    dims: usize,
    factor: f64,
    limit: usize,
}

impl DynamicBase {
    fn frequencies(self, total: usize) -> Vec<f32> {
        let Self { theta, dims, factor, limit } = self;
        let dims = dims as f64;
        let grown = factor * total as f64 / limit as f64 - (factor - 1.0);
        let theta = theta * grown.powf(dims / (dims - 2.0));
        (0..dims as usize / 2).map(|pair| theta.powf(-((2 * pair) as f64) / dims) as f32).collect()
    }
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
    /// The whole table, for the fused attention.
    pub(crate) fn into_table(self) -> RotaryTable {
        RotaryTable { pairs: self.pairs, cos: self.cos, sin: self.sin }
    }

    /// Appends the angles of other positions.
    pub(crate) fn append(&mut self, mut more: Self) {
        self.cos.append(&mut more.cos);
        self.sin.append(&mut more.sin);
    }

    /// Cosines and sines of row `row`.
    pub(crate) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.pairs..(row + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

impl Rotary {
    fn new(head_dim: usize, config: &RotaryConfig) -> Self {
        let dims = config.dims.unwrap_or(head_dim);
        let frequency = |pair: usize| config.theta.powf(-((2 * pair) as f64) / dims as f64);
        let all = |scaled: &dyn Fn(usize, f64) -> f64| -> Vec<f32> {
            (0..dims / 2).map(|pair| scaled(pair, frequency(pair)) as f32).collect()
        };
        let plain = |frequencies| Self { frequencies, long: None, dynamic: None, scale: 1.0 };
        match &config.scaling {
            None => plain(all(&|_, frequency| frequency)),
            &Some(RopeScaling::Dynamic { factor, max_position_embeddings: limit }) => {
                let dynamic = Some(DynamicBase { theta: config.theta, dims, factor, limit });
                Self { dynamic, ..plain(all(&|_, frequency| frequency)) }
            }
            Some(RopeScaling::Linear { factor }) => plain(all(&|_, frequency| frequency / factor)),
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }) => plain(all(&|_, frequency| {
                // Number of turns that the pair makes within the original context: few turns mean a low frequency.
                let turns = *original_max_position_embeddings as f64 * frequency / TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            })),
            &Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
            }) => {
                // The pair, as a real number, that makes this number of turns within the original context.
                let pair = |turns: f64| {
                    let original = original_max_position_embeddings as f64;
                    dims as f64 * (original / (turns * TAU)).ln() / (2.0 * config.theta.ln())
                };
                let (low, high) = (pair(beta_fast), pair(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let frequencies = all(&|pair, frequency| {
                    let divided = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    frequency / factor * divided + frequency * (1.0 - divided)
                });
                Self { scale: attention_factor as f32, ..plain(frequencies) }
            }
            Some(RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            }) => {
                let divided =
                    |by: &[f64]| all(&|pair, frequency| frequency / by.get(pair).copied().unwrap_or(1.0));
                Self {
                    long: Some((*original_max_position_embeddings, divided(long_factor))),
                    scale: *attention_factor as f32,
                    ..plain(divided(short_factor))
                }
            }
        }
    }

    /// Sines and cosines of positions `start .. start + len` of a sequence of `total` positions.
    fn angles(&self, start: usize, len: usize, total: usize) -> Angles {
        let frequencies: Cow<'_, [f32]> = match (&self.long, self.dynamic) {
            (Some((limit, frequencies)), _) if total > *limit => Cow::Borrowed(frequencies),
            (_, Some(dynamic)) if total > dynamic.limit => Cow::Owned(dynamic.frequencies(total)),
            _ => Cow::Borrowed(&self.frequencies),
        };
        let angles = || {
            (start..start + len).flat_map(|p| frequencies.iter().map(move |&frequency| p as f32 * frequency))
        };
        let values = |function: fn(f32) -> f32| -> Vec<f32> {
            match self.scale {
                1.0 => angles().map(function).collect(),
                scale => angles().map(|angle| function(angle) * scale).collect(),
            }
        };
        Angles { pairs: frequencies.len(), cos: values(f32::cos), sin: values(f32::sin) }
    }

    /// Tables for positions `start .. start + len`, the last of a sequence.
    fn tables(&self, start: usize, len: usize, device: &Device) -> RotaryTables {
        let Angles { pairs, cos, sin } = self.angles(start, len, start + len);
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

#[cfg(test)]
#[path = "rotary_tests.rs"]
mod tests;
