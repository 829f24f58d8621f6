//! GPT-NeoX and Pythia: parallel residual, part of each head rotated, q, k and v interleaved head by head.

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::rope::Rope;
use super::tensors::{Op, Part, TensorMap};
use crate::config::{MlpKind, ModelConfig, NormKind, Position};
use crate::error::Result;

pub(super) const GPT_NEOX: Architecture =
    Architecture { name: "GPTNeoXForCausalLM", model_type: "gpt_neox", config, tensors: TENSORS };

const TENSORS: TensorMap = TensorMap {
    prefix: "gpt_neox.",
    layers: "layers",
    names: &[
        ("embed_tokens", "embed_in", Op::Copy),
        ("input_norm", "input_layernorm", Op::Copy),
        ("self_attn.q_proj", "attention.query_key_value", Op::HeadRows(Part::Q)),
        ("self_attn.k_proj", "attention.query_key_value", Op::HeadRows(Part::K)),
        ("self_attn.v_proj", "attention.query_key_value", Op::HeadRows(Part::V)),
        ("self_attn.o_proj", "attention.dense", Op::Copy),
        ("post_attention_norm", "post_attention_layernorm", Op::Copy),
        ("mlp.up_proj", "mlp.dense_h_to_4h", Op::Copy),
        ("mlp.down_proj", "mlp.dense_4h_to_h", Op::Copy),
        ("norm", "final_layer_norm", Op::Copy),
        ("lm_head", "embed_out", Op::Copy),
    ],
    // Causal masks and frequencies.
    constants: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
};

const ROPE: Rope = Rope { theta_name: "rotary_emb_base", theta: 10_000.0, share: Some(("rotary_pct", 0.25)) };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = fields.sizes(KvHeads::AsHeads, None)?;
    if model.num_kv_heads != model.num_heads {
        return Err(fields.unsupported("num_key_value_heads", model.num_kv_heads, "as many as heads"));
    }
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.f64("layer_norm_eps")?.unwrap_or(1e-5);
    model.position = Position::Rotary(ROPE.read(fields, model.head_dim)?);
    model.parallel_residual = fields.bool("use_parallel_residual")?.unwrap_or(true);
    model.mlp = MlpKind::new(false, fields.activation("hidden_act", "gelu")?);
    model.attention_bias = fields.attention_bias("attention_bias", true)?;
    model.mlp_bias = true;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(model)
}
