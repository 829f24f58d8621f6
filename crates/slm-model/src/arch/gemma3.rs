//! Gemma 3, text only: four norms per layer that compute with `1 + weight`, a scaled embedding, q/k norm, a gate with
//! the tanh GELU, and two types of layers that differ in window and rotary base.

use serde_json::json;

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::rope::Rope;
use super::tensors::{Op, TensorMap};
use super::windows::{FULL, SLIDING, set_windows, sliding_layers, window};
use crate::config::{MlpKind, ModelConfig, NormPlacement, Position, QkNorm};
use crate::error::Result;

pub(super) const GEMMA3: Architecture = Architecture {
    name: "Gemma3ForCausalLM",
    headless: "Gemma3TextModel",
    model_type: "gemma3_text",
    config,
    tensors: TENSORS,
};

/// The defaults of `Gemma3TextConfig`.
const SIZES: Sizes = Sizes {
    vocab_size: 262_208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_layers: 26,
    num_heads: 8,
    max_positions: 131_072,
    kv_heads: Some(4),
    head_dim: Some(256),
};

const TENSORS: TensorMap = TensorMap {
    prefix: "model.",
    layers: "layers",
    names: &[
        ("input_norm", "input_layernorm", Op::PlusOne),
        ("self_attn.q_norm", "self_attn.q_norm", Op::PlusOne),
        ("self_attn.k_norm", "self_attn.k_norm", Op::PlusOne),
        ("attention_output_norm", "post_attention_layernorm", Op::PlusOne),
        ("post_attention_norm", "pre_feedforward_layernorm", Op::PlusOne),
        ("mlp_output_norm", "post_feedforward_layernorm", Op::PlusOne),
        ("norm", "norm", Op::PlusOne),
    ],
    parallel: &[],
    constants: &[],
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    fields.expect_default("use_bidirectional_attention", &json!(false), "false")?;
    let mut model = fields.sizes(&SIZES)?;
    model.norm_placement = NormPlacement::Both;
    model.norm_eps = fields.number("rms_norm_eps", 1e-6)?;
    model.qk_norm = QkNorm::PerHead;
    model.mlp = MlpKind::new(true, fields.activation("hidden_activation", "gelu_pytorch_tanh")?);
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(true);
    model.embedding_multiplier = (model.hidden_size as f64).sqrt();
    let scalar = fields.f64("query_pre_attn_scalar")?.unwrap_or(256.0);
    model.attention_scale = Some(1.0 / scalar.sqrt());

    // rope_scaling is for the layers without a window; layers with a window have their own base.
    let full = Rope::whole(1_000_000.0).read_of_type(fields, FULL, true, &model)?;
    let local = Rope { theta_name: "rope_local_base_freq", ..Rope::whole(10_000.0) };
    let sliding_rotary = local.read_of_type(fields, SLIDING, false, &model)?;
    model.position = Position::Rotary(full.clone());
    // Without layer_types. `_sliding_window_pattern` is written and never read.
    let pattern = fields.usize("sliding_window_pattern")?.unwrap_or(6);
    if pattern == 0 {
        return Err(fields.wrong("sliding_window_pattern", "a number above 0", pattern));
    }
    let default = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let sliding = sliding_layers(fields, model.num_layers, default)?;
    let window = window(fields, Some(4096))?;
    set_windows(fields, &mut model, &sliding, window)?;
    let mut layers = model.layers();
    for (layer, sliding) in layers.iter_mut().zip(&sliding) {
        layer.rotary = Some(if *sliding { sliding_rotary.clone() } else { full.clone() });
    }
    model.set_layers(&layers);
    Ok(model)
}
