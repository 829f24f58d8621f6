//! StableLM: Llama with LayerNorm, biases on q, k and v, and a quarter of each head rotated.

use serde_json::json;

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::llama;
use super::rope::Rope;
use super::tensors::{Op, TensorMap};
use crate::config::{AttentionBias, MlpKind, ModelConfig, NormKind, Position};
use crate::error::Result;

pub(super) const STABLELM: Architecture = Architecture {
    name: "StableLmForCausalLM",
    headless: "StableLmModel",
    model_type: "stablelm",
    config,
    tensors: TENSORS,
};

/// The defaults of `StableLmConfig`.
const SIZES: Sizes = Sizes {
    vocab_size: 50_304,
    hidden_size: 2560,
    intermediate_size: 6912,
    num_layers: 32,
    num_heads: 32,
    max_positions: 4096,
    kv_heads: Some(32),
    head_dim: None,
};

/// In parallel residuals, attention and MLP read the same norm.
const TENSORS: TensorMap =
    TensorMap { parallel: &[("post_attention_norm", "input_layernorm", Op::Copy)], ..llama::TENSORS };

const ROPE: Rope = Rope { share: Some(("partial_rotary_factor", 0.25)), ..Rope::whole(10_000.0) };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    fields.expect_default("qk_layernorm", &json!(false), "false")?;
    let mut model = fields.sizes(&SIZES)?;
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.number("layer_norm_eps", 1e-5)?;
    model.position = Position::Rotary(ROPE.read(fields, &model)?);
    model.mlp = MlpKind::new(true, fields.activation("hidden_act", "silu")?);
    model.parallel_residual = fields.bool("use_parallel_residual")?.unwrap_or(false);
    model.attention_bias = match fields.attention_bias("use_qkv_bias", false)? {
        AttentionBias::None => AttentionBias::None,
        AttentionBias::Qkv | AttentionBias::All => AttentionBias::Qkv,
    };
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(model)
}
