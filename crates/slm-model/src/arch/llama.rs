//! Llama, and what has its form: SmolLM2, TinyLlama.

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::rope::Rope;
use super::tensors::{Op, TensorMap};
use super::windows::{set_windows, sliding_layers};
use crate::config::{MlpKind, ModelConfig, Position};
use crate::error::Result;

pub(super) const LLAMA: Architecture =
    Architecture { name: "LlamaForCausalLM", model_type: "llama", config, tensors: TENSORS };

/// The names of tensors that most architectures took over.
pub(super) const TENSORS: TensorMap = TensorMap {
    prefix: "model.",
    layers: "layers",
    names: &[
        ("input_norm", "input_layernorm", Op::Copy),
        ("post_attention_norm", "post_attention_layernorm", Op::Copy),
    ],
    constants: &[".rotary_emb.inv_freq"],
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    // Models from before grouped queries do not give their KV heads.
    let mut model = common(fields, KvHeads::AsHeads, None)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, model.head_dim)?);
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    model.mlp_bias = fields.bool("mlp_bias")?.unwrap_or(false);
    let sliding = sliding_layers(fields, model.num_layers, |_| false)?;
    set_windows(fields, &mut model, &sliding, None)?;
    Ok(model)
}

/// The fields that most architectures took over: sizes, gated MLP, RMSNorm, an untied head by default.
pub(super) fn common(fields: &Fields<'_>, kv_heads: KvHeads, head_dim: Option<usize>) -> Result<ModelConfig> {
    let mut model = fields.sizes(kv_heads, head_dim)?;
    model.mlp = MlpKind::new(true, fields.activation("hidden_act", "silu")?);
    model.norm_eps = fields.required_f64("rms_norm_eps")?;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(model)
}
