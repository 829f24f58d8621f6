//! Qwen2: Llama with biases on q, k and v, and a window in the upper layers where it is switched on.

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::llama;
use super::rope::Rope;
use super::windows::{set_windows, sliding_layers, window};
use crate::config::{AttentionBias, ModelConfig, Position};
use crate::error::Result;

pub(super) const QWEN2: Architecture =
    Architecture { name: "Qwen2ForCausalLM", model_type: "qwen2", config, tensors: llama::TENSORS };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, KvHeads::Required, None)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, model.head_dim)?);
    model.attention_bias = AttentionBias::Qkv;
    upper_windows(fields, &mut model)?;
    Ok(model)
}

/// Windows where `use_sliding_window` says so: by `layer_types`, else from layer `max_window_layers` on.
pub(super) fn upper_windows(fields: &Fields<'_>, model: &mut ModelConfig) -> Result<()> {
    let on = fields.bool("use_sliding_window")?.unwrap_or(false);
    let full_layers = fields.usize("max_window_layers")?.unwrap_or(28);
    let window = window(fields, Some(4096))?.filter(|_| on);
    let default = |layer| window.is_some() && layer >= full_layers;
    let sliding = sliding_layers(fields, model.num_layers, default)?;
    set_windows(fields, model, &sliding, window)
}
