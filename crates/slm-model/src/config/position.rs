//! Positions: learned, rotary or none.

use serde::{Deserialize, Serialize};

/// Encoding of the position of a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Queries and keys are rotated.
    Rotary(RotaryConfig),
    /// A learned vector per position is added to the embedding (GPT-2).
    Learned,
    /// No encoding, except in layers whose override has a rotary embedding.
    None,
}

impl Default for Position {
    fn default() -> Self {
        Self::Rotary(RotaryConfig::default())
    }
}

/// Rotation of queries and keys by an angle that grows with the position (Su and others, 2021), the two halves of
/// the rotated part of a head forming the pairs, as in Hugging Face's Llama.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotaryConfig {
    /// Base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// Change of the frequencies for contexts longer than those of pretraining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
    /// Number of values at the start of each head that are rotated. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dims: Option<usize>,
}

impl RotaryConfig {
    /// Rotation of whole heads with base `theta`, not scaled.
    pub fn new(theta: f64) -> Self {
        Self { theta, scaling: None, dims: None }
    }

    /// This rotation of the first `share` of a head of `head_dim` values, rounded down as in Hugging Face's models.
    pub fn with_share(self, share: f64, head_dim: usize) -> Self {
        let dims = (head_dim as f64 * share) as usize;
        Self { dims: (dims != head_dim).then_some(dims), ..self }
    }
}

impl Default for RotaryConfig {
    fn default() -> Self {
        Self::new(10_000.0)
    }
}

/// Change of the rotary frequencies for long contexts. The formulas are those of transformers
/// (`modeling_rope_utils.py`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Every frequency is divided by `factor` (position interpolation; Chen and others, 2023).
    Linear {
        /// Divisor, at least 1.
        factor: f64,
    },
    /// The base grows with the length of sequences longer than `max_position_embeddings` (NTK-aware scaling, dynamic).
    ///
    /// Positions in a cache keep the base of the length at which they were computed, as in transformers.
    Dynamic {
        /// Multiple of `max_position_embeddings` that sequences may have, at least 1.
        factor: f64,
        /// Number of positions up to which the base does not change.
        max_position_embeddings: usize,
    },
    /// Low frequencies are divided by `factor`, high ones are kept, and those between are blended (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies, at least 1.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are scaled in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Number of positions of the context of the pretraining.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng and others, 2023): frequencies of pairs that turn more than `beta_fast` times within the original
    /// context are kept, those of pairs that turn less than `beta_slow` times are divided by `factor`, and those
    /// between are blended.
    Yarn {
        /// Divisor of the low frequencies, at least 1.
        factor: f64,
        /// Number of positions of the context of the pretraining.
        original_max_position_embeddings: usize,
        /// Turns above which a pair is kept. Default: 32.
        #[serde(default = "beta_fast")]
        beta_fast: f64,
        /// Turns below which a pair is divided in full. Default: 1.
        #[serde(default = "beta_slow")]
        beta_slow: f64,
        /// Rounds the bounds of the blended pairs outwards to whole pairs. Default: true.
        #[serde(default = "truncate", skip_serializing_if = "is_true")]
        truncate: bool,
        /// Factor of sines and cosines.
        attention_factor: f64,
    },
    /// LongRoPE (Ding and others, 2024; Phi-3, Phi-4-mini): each pair has its own divisors, one for sequences within the
    /// original context and one for longer sequences. A sequence that grows beyond it is recomputed.
    LongRope {
        /// Divisors for sequences of up to `original_max_position_embeddings` positions, one for each pair.
        short_factor: Vec<f64>,
        /// Divisors for longer sequences.
        long_factor: Vec<f64>,
        /// Number of positions of the context of the pretraining.
        original_max_position_embeddings: usize,
        /// Factor of sines and cosines.
        attention_factor: f64,
    },
}

fn beta_fast() -> f64 {
    32.0
}

fn beta_slow() -> f64 {
    1.0
}

fn truncate() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}
