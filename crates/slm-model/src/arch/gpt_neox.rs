//! GPT-NeoX and Pythia: parallel residual, part of each head rotated, q, k and v interleaved head by head.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::rope::Rope;
use super::tensors::{FusedPart, Op, TensorMap};
use crate::config::{MlpKind, ModelConfig, NormKind, Position};
use crate::error::Result;

pub(super) const GPT_NEOX: Architecture = Architecture {
    name: "GPTNeoXForCausalLM",
    headless: "GPTNeoXModel",
    model_type: "gpt_neox",
    config,
    tensors: TENSORS,
};

/// The defaults of `GPTNeoXConfig`.
const SIZES: Sizes = Sizes {
    vocab_size: 50_432,
    hidden_size: 6144,
    intermediate_size: 24_576,
    num_layers: 44,
    num_heads: 64,
    max_positions: 2048,
    kv_heads: None,
    head_dim: None,
};

const TENSORS: TensorMap = TensorMap {
    prefix: "gpt_neox.",
    layers: "layers",
    names: &[
        ("embed_tokens", "embed_in", Op::Copy),
        ("input_norm", "input_layernorm", Op::Copy),
        ("self_attn.q_proj", "attention.query_key_value", Op::HeadRows(FusedPart::Q)),
        ("self_attn.k_proj", "attention.query_key_value", Op::HeadRows(FusedPart::K)),
        ("self_attn.v_proj", "attention.query_key_value", Op::HeadRows(FusedPart::V)),
        ("self_attn.o_proj", "attention.dense", Op::Copy),
        ("post_attention_norm", "post_attention_layernorm", Op::Copy),
        ("mlp.up_proj", "mlp.dense_h_to_4h", Op::Copy),
        ("mlp.down_proj", "mlp.dense_4h_to_h", Op::Copy),
        ("norm", "final_layer_norm", Op::Copy),
        ("lm_head", "embed_out", Op::Copy),
    ],
    parallel: &[],
    // Causal masks.
    constants: &[".attention.bias"],
};

/// Next to the object, base and share have other names; `rope_theta` and `partial_rotary_factor` have no effect there.
const ROPE: Rope =
    Rope { theta_name: "rotary_emb_base", share: Some(("rotary_pct", 0.25)), ..Rope::whole(10_000.0) };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = fields.sizes(&SIZES)?;
    if model.num_kv_heads != model.num_heads {
        return Err(fields.unsupported("num_key_value_heads", model.num_kv_heads, "as many as heads"));
    }
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.number("layer_norm_eps", 1e-5)?;
    model.position = Position::Rotary(ROPE.read(fields, &model)?);
    model.parallel_residual = fields.bool("use_parallel_residual")?.unwrap_or(true);
    model.mlp = MlpKind::new(false, fields.activation("hidden_act", "gelu")?);
    model.attention_bias = fields.attention_bias("attention_bias", true)?;
    model.mlp_bias = true;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(model)
}
