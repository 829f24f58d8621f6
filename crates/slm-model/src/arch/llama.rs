//! Llama and models of the same form: SmolLM2, TinyLlama.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::rope::Rope;
use super::tensors::{Op, TensorMap};
use super::windows::ignore_layer_types;
use crate::config::{MlpKind, ModelConfig, Position};
use crate::error::Result;

pub(super) const LLAMA: Architecture = Architecture {
    name: "LlamaForCausalLM",
    headless: "LlamaModel",
    model_type: "llama",
    config,
    tensors: TENSORS,
};

/// The defaults of `LlamaConfig`.
pub(super) const SIZES: Sizes = Sizes {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_layers: 32,
    num_heads: 32,
    max_positions: 2048,
    kv_heads: None,
    head_dim: None,
};

/// The names of tensors that most architectures share.
pub(super) const TENSORS: TensorMap = TensorMap {
    prefix: "model.",
    layers: "layers",
    names: &[
        ("input_norm", "input_layernorm", Op::Copy),
        ("post_attention_norm", "post_attention_layernorm", Op::Copy),
    ],
    parallel: &[],
    constants: &[],
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = common(fields, &SIZES, 1e-6)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, &model)?);
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    model.mlp_bias = fields.bool("mlp_bias")?.unwrap_or(false);
    ignore_layer_types(fields)?;
    Ok(model)
}

/// The fields that most architectures share: sizes, gated MLP, RMSNorm, an untied head by default. `defaults` and
/// `norm_eps` replace sizes and a `rms_norm_eps` that a config does not give.
pub(super) fn common(fields: &Fields<'_>, defaults: &Sizes, norm_eps: f64) -> Result<ModelConfig> {
    let mut model = fields.sizes(defaults)?;
    model.mlp = MlpKind::new(true, fields.activation("hidden_act", "silu")?);
    model.norm_eps = fields.number("rms_norm_eps", norm_eps)?;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(model)
}
