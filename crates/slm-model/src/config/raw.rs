//! The config as read from a file, before defaults that depend on other fields are filled in.

use serde::Deserialize;

use super::validate::bad;
use super::{AttentionBias, LayerOverride, MlpKind, ModelConfig, NormKind, NormPlacement, Position, QkNorm};
use crate::error::Error;

/// The form of [`ModelConfig`] in a file. An optional field has a default or is an `Option`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModelConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_layers: usize,
    num_heads: usize,
    num_kv_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    #[serde(default)]
    norm: NormKind,
    #[serde(default = "default_norm_eps")]
    norm_eps: f64,
    #[serde(default)]
    position: Position,
    #[serde(default)]
    mlp: MlpKind,
    #[serde(default)]
    attention_bias: AttentionBias,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    qk_norm: QkNorm,
    #[serde(default = "default_tie_word_embeddings")]
    tie_word_embeddings: bool,
    sliding_window: Option<usize>,
    #[serde(default)]
    norm_placement: NormPlacement,
    #[serde(default)]
    parallel_residual: bool,
    #[serde(default = "one")]
    embedding_multiplier: f64,
    #[serde(default = "one")]
    residual_multiplier: f64,
    attention_scale: Option<f64>,
    #[serde(default = "one")]
    logit_multiplier: f64,
    #[serde(default)]
    layer_overrides: Vec<LayerOverride>,
}

fn one() -> f64 {
    1.0
}

fn default_norm_eps() -> f64 {
    1e-5
}

fn default_tie_word_embeddings() -> bool {
    true
}

impl TryFrom<RawModelConfig> for ModelConfig {
    type Error = Error;

    fn try_from(raw: RawModelConfig) -> Result<Self, Error> {
        let head_dim = match raw.head_dim {
            Some(head_dim) => head_dim,
            None if raw.num_heads > 0 && raw.hidden_size.is_multiple_of(raw.num_heads) => {
                raw.hidden_size / raw.num_heads
            }
            None => {
                let remedy = format!(
                    "give it, or let num_heads = {} divide hidden_size = {}",
                    raw.num_heads, raw.hidden_size
                );
                return Err(bad("head_dim", "not given", remedy));
            }
        };
        Ok(Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_layers: raw.num_layers,
            num_heads: raw.num_heads,
            num_kv_heads: raw.num_kv_heads.unwrap_or(raw.num_heads),
            head_dim,
            max_position_embeddings: raw.max_position_embeddings,
            norm: raw.norm,
            norm_eps: raw.norm_eps,
            position: raw.position,
            mlp: raw.mlp,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            qk_norm: raw.qk_norm,
            tie_word_embeddings: raw.tie_word_embeddings,
            sliding_window: raw.sliding_window,
            norm_placement: raw.norm_placement,
            parallel_residual: raw.parallel_residual,
            embedding_multiplier: raw.embedding_multiplier,
            residual_multiplier: raw.residual_multiplier,
            attention_scale: raw.attention_scale,
            logit_multiplier: raw.logit_multiplier,
            layer_overrides: raw.layer_overrides,
        })
    }
}
