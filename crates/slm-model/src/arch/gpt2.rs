//! GPT-2: learned positions, LayerNorm, a plain MLP, biases everywhere, weights stored transposed.

use super::Architecture;
use super::fields::Fields;
use super::tensors::{FusedPart, Op, TensorMap};
use crate::config::{AttentionBias, MlpKind, ModelConfig, NormKind, Position};
use crate::error::Result;

pub(super) const GPT2: Architecture = Architecture {
    name: "GPT2LMHeadModel",
    headless: "GPT2Model",
    model_type: "gpt2",
    config,
    tensors: TENSORS,
};

const TENSORS: TensorMap = TensorMap {
    prefix: "transformer.",
    layers: "h",
    names: &[
        ("embed_tokens", "wte", Op::Copy),
        ("embed_positions", "wpe", Op::Copy),
        ("input_norm", "ln_1", Op::Copy),
        ("self_attn.q_proj", "attn.c_attn", Op::TransposeRows(FusedPart::Q)),
        ("self_attn.k_proj", "attn.c_attn", Op::TransposeRows(FusedPart::K)),
        ("self_attn.v_proj", "attn.c_attn", Op::TransposeRows(FusedPart::V)),
        ("self_attn.o_proj", "attn.c_proj", Op::Transpose),
        ("post_attention_norm", "ln_2", Op::Copy),
        ("mlp.up_proj", "mlp.c_fc", Op::Transpose),
        ("mlp.down_proj", "mlp.c_proj", Op::Transpose),
        ("norm", "ln_f", Op::Copy),
    ],
    parallel: &[],
    // Causal masks.
    constants: &[".attn.bias"],
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let activation = fields.activation("activation_function", "gelu_new")?;
    let hidden_size = size(fields, "n_embd", "hidden_size", 768)?;
    let num_heads = size(fields, "n_head", "num_attention_heads", 12)?;
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        let expected = format!("a number that divides n_embd = {hidden_size}");
        return Err(fields.wrong("n_head", expected, num_heads));
    }
    let mut model = ModelConfig::new(
        fields.size("vocab_size", 50_257)?,
        hidden_size,
        // Absent and null mean four times the width.
        fields.usize("n_inner")?.unwrap_or(hidden_size.saturating_mul(4)),
        fields.layers("n_layer", size(fields, "n_layer", "num_hidden_layers", 12)?)?,
        num_heads,
        size(fields, "n_positions", "max_position_embeddings", 1024)?,
    );
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.number("layer_norm_epsilon", 1e-5)?;
    model.position = Position::Learned;
    model.mlp = MlpKind::new(false, activation);
    model.attention_bias = AttentionBias::All;
    model.mlp_bias = true;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(true);
    attention_scales(fields, &mut model)?;
    Ok(model)
}

/// A size by its own name or by its name in other classes (`attribute_map` of the class).
fn size(fields: &Fields<'_>, name: &str, alias: &str, default: usize) -> Result<usize> {
    match (fields.usize(name)?, fields.usize(alias)?) {
        (Some(size), Some(other)) if size != other => {
            Err(fields.wrong(name, format!("{other}, as {alias} says"), size))
        }
        (None, Some(other)) => Ok(other),
        _ => fields.size(name, default),
    }
}

/// Scores are divided by the root of a head's width unless `scale_attn_weights` is false, and by the number of the layer,
/// from 1, if `scale_attn_by_inverse_layer_idx` is true.
fn attention_scales(fields: &Fields<'_>, model: &mut ModelConfig) -> Result<()> {
    let by_width = fields.bool("scale_attn_weights")?.unwrap_or(true);
    let by_layer = fields.bool("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    if by_width && !by_layer {
        return Ok(());
    }
    let scale = if by_width { 1.0 / (model.head_dim as f64).sqrt() } else { 1.0 };
    let mut layers = model.layers();
    for (index, layer) in layers.iter_mut().enumerate() {
        layer.attention_scale = Some(if by_layer { scale / (index + 1) as f64 } else { scale });
    }
    model.set_layers(&layers);
    Ok(())
}
