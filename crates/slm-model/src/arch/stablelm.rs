//! StableLM: Llama with LayerNorm, biases on q, k and v, and a quarter of each head rotated.

use serde_json::json;

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::llama;
use super::rope::Rope;
use crate::config::{AttentionBias, MlpKind, ModelConfig, NormKind, Position};
use crate::error::Result;

pub(super) const STABLELM: Architecture =
    Architecture { name: "StableLmForCausalLM", model_type: "stablelm", config, tensors: llama::TENSORS };

const ROPE: Rope = Rope { share: Some(("partial_rotary_factor", 0.25)), ..Rope::whole(10_000.0) };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    fields.neutral("use_parallel_residual", &json!(false), "false")?;
    fields.neutral("qk_layernorm", &json!(false), "false")?;
    let mut model = fields.sizes(KvHeads::Required, None)?;
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.f64("layer_norm_eps")?.unwrap_or(1e-5);
    model.position = Position::Rotary(ROPE.read(fields, model.head_dim)?);
    model.mlp = MlpKind::new(true, fields.activation("hidden_act", "silu")?);
    model.attention_bias = match fields.bool("use_qkv_bias")?.unwrap_or(false) {
        true => AttentionBias::Qkv,
        false => AttentionBias::None,
    };
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(model)
}
