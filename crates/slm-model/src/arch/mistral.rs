//! Mistral: Llama with a sliding window.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::llama;
use super::rope::Rope;
use super::windows::{set_windows, sliding_layers, window};
use crate::config::{ModelConfig, Position};
use crate::error::Result;

pub(super) const MISTRAL: Architecture = Architecture {
    name: "MistralForCausalLM",
    headless: "MistralModel",
    model_type: "mistral",
    config,
    tensors: llama::TENSORS,
};

/// Ministral, which is Mistral with windows in some layers.
pub(super) const MINISTRAL: Architecture = Architecture {
    name: "MinistralForCausalLM",
    headless: "MinistralModel",
    model_type: "ministral",
    ..MISTRAL
};

/// The defaults of `MistralConfig`.
const SIZES: Sizes = Sizes {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_layers: 32,
    num_heads: 32,
    max_positions: 131_072,
    kv_heads: Some(8),
    head_dim: None,
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, &SIZES, 1e-6)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, &model)?);
    // 4096 if it is absent, none if it is null. With layer_types, AutoModelForCausalLM uses Ministral's class, whose
    // layers follow them.
    let window = window(fields, Some(4096))?;
    let sliding = sliding_layers(fields, model.num_layers, |_| window.is_some())?;
    set_windows(fields, &mut model, &sliding, window)?;
    Ok(model)
}
