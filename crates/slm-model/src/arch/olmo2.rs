//! OLMo 2: Llama with the norms on the outputs of attention and MLP, and q/k norms over all heads together.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::llama;
use super::rope::Rope;
use super::tensors::{Op, TensorMap};
use crate::config::{ModelConfig, NormPlacement, Position, QkNorm};
use crate::error::Result;

pub(super) const OLMO2: Architecture = Architecture {
    name: "Olmo2ForCausalLM",
    headless: "Olmo2Model",
    model_type: "olmo2",
    config,
    tensors: TENSORS,
};

/// The defaults of `Olmo2Config`.
const SIZES: Sizes = Sizes {
    vocab_size: 50_304,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_layers: 32,
    num_heads: 32,
    max_positions: 2048,
    kv_heads: None,
    head_dim: None,
};

const TENSORS: TensorMap = TensorMap {
    names: &[
        ("attention_output_norm", "post_attention_layernorm", Op::Copy),
        ("mlp_output_norm", "post_feedforward_layernorm", Op::Copy),
    ],
    ..llama::TENSORS
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, &SIZES, 1e-5)?;
    model.norm_placement = NormPlacement::Post;
    model.qk_norm = QkNorm::Full;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, &model)?);
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    Ok(model)
}
