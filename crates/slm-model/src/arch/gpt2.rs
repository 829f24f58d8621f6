//! GPT-2: learned positions, LayerNorm, a plain MLP, biases everywhere, weights stored transposed.

use serde_json::json;

use super::Architecture;
use super::fields::Fields;
use super::tensors::{Op, Part, TensorMap};
use crate::config::{AttentionBias, MlpKind, ModelConfig, NormKind, Position};
use crate::error::Result;

pub(super) const GPT2: Architecture =
    Architecture { name: "GPT2LMHeadModel", model_type: "gpt2", config, tensors: TENSORS };

const TENSORS: TensorMap = TensorMap {
    prefix: "transformer.",
    layers: "h",
    names: &[
        ("embed_tokens", "wte", Op::Copy),
        ("embed_positions", "wpe", Op::Copy),
        ("input_norm", "ln_1", Op::Copy),
        ("self_attn.q_proj", "attn.c_attn", Op::TransposeRows(Part::Q)),
        ("self_attn.k_proj", "attn.c_attn", Op::TransposeRows(Part::K)),
        ("self_attn.v_proj", "attn.c_attn", Op::TransposeRows(Part::V)),
        ("self_attn.o_proj", "attn.c_proj", Op::Transpose),
        ("post_attention_norm", "ln_2", Op::Copy),
        ("mlp.up_proj", "mlp.c_fc", Op::Transpose),
        ("mlp.down_proj", "mlp.c_proj", Op::Transpose),
        ("norm", "ln_f", Op::Copy),
    ],
    // Causal masks.
    constants: &[".attn.bias", ".attn.masked_bias"],
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let activation = fields.activation("activation_function", "gelu_new")?;
    fields.neutral("scale_attn_weights", &json!(true), "true")?;
    fields.neutral("scale_attn_by_inverse_layer_idx", &json!(false), "false")?;
    let hidden_size = fields.required_usize("n_embd")?;
    let num_heads = fields.required_usize("n_head")?;
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        let expected = format!("a number that divides n_embd = {hidden_size}");
        return Err(fields.wrong("n_head", expected, num_heads));
    }
    let mut model = ModelConfig::new(
        fields.required_usize("vocab_size")?,
        hidden_size,
        fields.usize("n_inner")?.unwrap_or(hidden_size.saturating_mul(4)),
        fields.required_usize("n_layer")?,
        num_heads,
        fields.required_usize("n_positions")?,
    );
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.required_f64("layer_norm_epsilon")?;
    model.position = Position::Learned;
    model.mlp = MlpKind::new(false, activation);
    model.attention_bias = AttentionBias::All;
    model.mlp_bias = true;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(true);
    Ok(model)
}
