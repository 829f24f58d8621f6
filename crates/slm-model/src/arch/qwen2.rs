//! Qwen2: Llama with biases on q, k and v, and an optional window in the upper layers.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::llama;
use super::rope::Rope;
use super::windows::{set_windows, sliding_layers, window};
use crate::config::{AttentionBias, ModelConfig, Position};
use crate::error::Result;

pub(super) const QWEN2: Architecture = Architecture {
    name: "Qwen2ForCausalLM",
    headless: "Qwen2Model",
    model_type: "qwen2",
    config,
    tensors: llama::TENSORS,
};

/// The defaults of `Qwen2Config`.
pub(super) const SIZES: Sizes = Sizes {
    vocab_size: 151_936,
    hidden_size: 4096,
    intermediate_size: 22_016,
    num_layers: 32,
    num_heads: 32,
    max_positions: 32_768,
    kv_heads: Some(32),
    head_dim: None,
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, &SIZES, 1e-6)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, &model)?);
    model.attention_bias = AttentionBias::Qkv;
    upper_windows(fields, &mut model)?;
    Ok(model)
}

/// Sets windows if `use_sliding_window` is true: by `layer_types`, or else from layer `max_window_layers` on (28 if
/// absent). An absent `sliding_window` means 4096; null means no window.
pub(super) fn upper_windows(fields: &Fields<'_>, model: &mut ModelConfig) -> Result<()> {
    let on = fields.bool("use_sliding_window")?.unwrap_or(false);
    let full_layers = fields.usize("max_window_layers")?.unwrap_or(28);
    let window = window(fields, Some(4096))?.filter(|_| on);
    let default = |layer| window.is_some() && layer >= full_layers;
    let sliding = sliding_layers(fields, model.num_layers, default)?;
    set_windows(fields, model, &sliding, window)
}
