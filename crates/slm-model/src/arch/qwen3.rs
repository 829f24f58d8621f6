//! Qwen3: Llama with norms of q and k heads, and heads 128 wide whatever the model's width.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::rope::Rope;
use super::{llama, qwen2};
use crate::config::{ModelConfig, Position, QkNorm};
use crate::error::Result;

pub(super) const QWEN3: Architecture = Architecture {
    name: "Qwen3ForCausalLM",
    headless: "Qwen3Model",
    model_type: "qwen3",
    config,
    tensors: llama::TENSORS,
};

/// The defaults of `Qwen3Config`.
const SIZES: Sizes = Sizes { head_dim: Some(128), ..qwen2::SIZES };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, &SIZES, 1e-6)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, &model)?);
    model.qk_norm = QkNorm::PerHead;
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    qwen2::upper_windows(fields, &mut model)?;
    Ok(model)
}
