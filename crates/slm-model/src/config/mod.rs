//! Specification of a model, as written in `config.json` and in training configs.

mod kinds;
mod layers;
mod position;
mod raw;
mod validate;

use serde::{Deserialize, Serialize};

pub use self::kinds::{Activation, AttentionBias, MlpKind, NormKind, NormPlacement, QkNorm};
pub use self::layers::{Choice, LayerOverride, LayerSpec};
pub use self::position::{Position, RopeScaling, RotaryConfig};
use self::raw::RawModelConfig;
pub(crate) use self::validate::MAX_LAYERS;
use crate::names::expected_tensors;

/// Specification of a decoder-only transformer.
///
/// By default every layer is `x + attention(norm(x))` followed by `x + mlp(norm(x))`, with a last norm before the
/// head, as in Llama. Fields change that for all layers, and [`layer_overrides`](Self::layer_overrides) for some.
/// [`arch`](crate::arch) has the specifications of known architectures.
///
/// In a file only `vocab_size`, `hidden_size`, `intermediate_size`, `num_layers`, `num_heads` and
/// `max_position_embeddings` are required; the documentation of each other field gives its default. Unknown keys are
/// rejected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawModelConfig")]
pub struct ModelConfig {
    /// Rows of the embedding, and logits per position.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads, each shared by `num_heads / num_kv_heads` query heads. Default: `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head. Default: `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Maximum number of positions; running past it is an error.
    pub max_position_embeddings: usize,
    /// Kind of every norm but the q/k norms. Default: [`NormKind::RmsNorm`].
    pub norm: NormKind,
    /// Added to the mean square or variance inside every norm. Default: 1e-5.
    pub norm_eps: f64,
    /// Encoding of positions. Default: rotary with base 10000.
    pub position: Position,
    /// Kind of MLP. Default: [`MlpKind::SwiGlu`].
    pub mlp: MlpKind,
    /// Attention projections that have a bias. Default: none.
    pub attention_bias: AttentionBias,
    /// Adds biases to the MLP's linear layers. Default: false.
    pub mlp_bias: bool,
    /// RMSNorm of queries and keys before the rotary embedding. Default: [`QkNorm::None`].
    pub qk_norm: QkNorm,
    /// Uses the transposed embedding as the head instead of a separate linear layer. Default: true.
    pub tie_word_embeddings: bool,
    /// Number of positions that a position attends to, itself included: the window of sliding attention (Mistral).
    /// Default: all positions before it.
    pub sliding_window: Option<usize>,
    /// Placement of the norms around attention and MLP. Default: [`NormPlacement::Pre`].
    #[serde(skip_serializing_if = "is_default")]
    pub norm_placement: NormPlacement,
    /// Computes a layer as `x + attention(norm(x)) + mlp(norm(x))` rather than one after the other (GPT-NeoX).
    /// Default: false.
    #[serde(skip_serializing_if = "is_default")]
    pub parallel_residual: bool,
    /// Factor of the token embedding before the first layer (Gemma, Granite). Default: 1.
    #[serde(skip_serializing_if = "is_one")]
    pub embedding_multiplier: f64,
    /// Factor of the outputs of attention and MLP before they are added (Granite). Default: 1.
    #[serde(skip_serializing_if = "is_one")]
    pub residual_multiplier: f64,
    /// Factor of the attention scores before softmax. Default: `1 / sqrt(head_dim)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_scale: Option<f64>,
    /// Factor of the logits (Granite). Default: 1.
    #[serde(skip_serializing_if = "is_one")]
    pub logit_multiplier: f64,
    /// Layers that differ from the rest. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layer_overrides: Vec<LayerOverride>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl ModelConfig {
    /// A Llama-like model: RMSNorm, rotary positions with base 10000, SwiGLU, no biases, a tied head, as many
    /// KV heads as heads, heads of `hidden_size / num_heads`. Change fields as needed, then [`validate`](Self::validate).
    pub fn new(
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_layers: usize,
        num_heads: usize,
        max_position_embeddings: usize,
    ) -> Self {
        Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads: num_heads,
            head_dim: hidden_size.checked_div(num_heads).unwrap_or(0),
            max_position_embeddings,
            norm: NormKind::default(),
            norm_eps: 1e-5,
            position: Position::default(),
            mlp: MlpKind::default(),
            attention_bias: AttentionBias::default(),
            mlp_bias: false,
            qk_norm: QkNorm::None,
            tie_word_embeddings: true,
            sliding_window: None,
            norm_placement: NormPlacement::default(),
            parallel_residual: false,
            embedding_multiplier: 1.0,
            residual_multiplier: 1.0,
            attention_scale: None,
            logit_multiplier: 1.0,
            layer_overrides: Vec::new(),
        }
    }

    /// Number of trained values: the sizes of all tensors, a tied head counted once.
    pub fn parameter_count(&self) -> u64 {
        expected_tensors(self).iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Query heads for each KV head.
    pub fn heads_per_kv_head(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

#[cfg(test)]
mod tests;
