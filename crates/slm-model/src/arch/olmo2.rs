//! OLMo 2: Llama with the norms on the outputs of attention and MLP, and q/k norms over all heads together.

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::llama;
use super::rope::Rope;
use super::tensors::{Op, TensorMap};
use crate::config::{ModelConfig, NormPlacement, Position, QkNorm};
use crate::error::Result;

pub(super) const OLMO2: Architecture =
    Architecture { name: "Olmo2ForCausalLM", model_type: "olmo2", config, tensors: TENSORS };

const TENSORS: TensorMap = TensorMap {
    names: &[
        ("attention_output_norm", "post_attention_layernorm", Op::Copy),
        ("mlp_output_norm", "post_feedforward_layernorm", Op::Copy),
    ],
    ..llama::TENSORS
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, KvHeads::AsHeads, None)?;
    model.norm_placement = NormPlacement::Post;
    model.qk_norm = QkNorm::Full;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, model.head_dim)?);
    model.attention_bias = fields.attention_bias("attention_bias", false)?;
    Ok(model)
}
