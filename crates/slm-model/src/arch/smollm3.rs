//! SmolLM3: Llama in which some layers have no rotary embedding.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::llama;
use super::rope::Rope;
use super::windows::{set_windows, sliding_layers, window};
use crate::config::{ModelConfig, Position};
use crate::error::Result;

pub(super) const SMOLLM3: Architecture = Architecture {
    name: "SmolLM3ForCausalLM",
    headless: "SmolLM3Model",
    model_type: "smollm3",
    config,
    tensors: llama::TENSORS,
};

/// The defaults of `SmolLM3Config`.
const SIZES: Sizes = Sizes {
    vocab_size: 128_256,
    hidden_size: 2048,
    intermediate_size: 11_008,
    num_layers: 36,
    num_heads: 16,
    max_positions: 32_768,
    kv_heads: Some(4),
    head_dim: None,
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, &SIZES, 1e-6)?;
    let rotary = Rope::whole(2_000_000.0).read(fields, &model)?;
    model.position = Position::Rotary(rotary.clone());
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    model.mlp_bias = fields.bool("mlp_bias")?.unwrap_or(false);
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(true);
    let rotates = rotating_layers(fields, model.num_layers)?;
    // Layers in layer_types have a window whatever use_sliding_window says: transformers masks by the type.
    let on = fields.bool("use_sliding_window")?.unwrap_or(false);
    let window = window(fields, None)?;
    let default = |layer: usize| on && window.is_some() && !rotates[layer];
    let sliding = sliding_layers(fields, model.num_layers, default)?;
    set_windows(fields, &mut model, &sliding, window)?;
    let mut layers = model.layers();
    for (layer, rotates) in layers.iter_mut().zip(&rotates) {
        layer.rotary = rotates.then(|| rotary.clone());
    }
    model.set_layers(&layers);
    Ok(model)
}

/// Layers with a rotary embedding: those with a 1 in `no_rope_layers`, which may be longer than the model, or all but
/// every `no_rope_layer_interval`th.
fn rotating_layers(fields: &Fields<'_>, num_layers: usize) -> Result<Vec<bool>> {
    let interval = fields.usize("no_rope_layer_interval")?.unwrap_or(4);
    let Some(list) = fields.list("no_rope_layers")? else {
        if interval == 0 {
            return Err(fields.wrong("no_rope_layer_interval", "a number above 0", interval));
        }
        return Ok((0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    let rotates = list.iter().map(|value| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    });
    match rotates.collect::<Option<Vec<bool>>>() {
        Some(rotates) if rotates.len() >= num_layers => Ok(rotates),
        _ => {
            let expected = format!("0 or 1 for each of {num_layers} layers");
            Err(fields.wrong("no_rope_layers", expected, serde_json::Value::from(list.to_vec())))
        }
    }
}
