//! Granite 3: Llama with multipliers of the embedding, the attention scores, the residual and the logits.

use super::Architecture;
use super::fields::Fields;
use super::llama;
use super::rope::Rope;
use crate::config::{ModelConfig, Position};
use crate::error::Result;

pub(super) const GRANITE: Architecture = Architecture {
    name: "GraniteForCausalLM",
    headless: "GraniteModel",
    model_type: "granite",
    config,
    tensors: llama::TENSORS,
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    // The sizes of GraniteConfig are those of LlamaConfig.
    let mut model = llama::common(fields, &llama::SIZES, 1e-6)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, &model)?);
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    model.mlp_bias = fields.bool("mlp_bias")?.unwrap_or(false);
    let multiplier = |name| -> Result<f64> { Ok(fields.f64(name)?.unwrap_or(1.0)) };
    model.embedding_multiplier = multiplier("embedding_multiplier")?;
    model.attention_scale = Some(multiplier("attention_multiplier")?);
    model.residual_multiplier = multiplier("residual_multiplier")?;
    model.logit_multiplier = match multiplier("logits_scaling")? {
        0.0 => return Err(fields.wrong("logits_scaling", "a number other than 0", 0)),
        scaling => 1.0 / scaling,
    };
    Ok(model)
}
