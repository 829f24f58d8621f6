//! Phi-3 and Phi-4-mini: Llama with fused tensors, of which part of each head may be rotated.

use serde_json::json;

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::llama;
use super::rope::Rope;
use super::tensors::{Op, Part, TensorMap};
use super::windows::{set_windows, window};
use crate::config::{ModelConfig, Position};
use crate::error::Result;

pub(super) const PHI3: Architecture =
    Architecture { name: "Phi3ForCausalLM", model_type: "phi3", config, tensors: TENSORS };

const TENSORS: TensorMap = TensorMap {
    names: &[
        ("input_norm", "input_layernorm", Op::Copy),
        ("self_attn.q_proj", "self_attn.qkv_proj", Op::Rows(Part::Q)),
        ("self_attn.k_proj", "self_attn.qkv_proj", Op::Rows(Part::K)),
        ("self_attn.v_proj", "self_attn.qkv_proj", Op::Rows(Part::V)),
        ("post_attention_norm", "post_attention_layernorm", Op::Copy),
        ("mlp.gate_proj", "mlp.gate_up_proj", Op::Rows(Part::Gate)),
        ("mlp.up_proj", "mlp.gate_up_proj", Op::Rows(Part::Up)),
    ],
    ..llama::TENSORS
};

const ROPE: Rope = Rope { share: Some(("partial_rotary_factor", 1.0)), ..Rope::whole(10_000.0) };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    fields.neutral("attention_bias", &json!(false), "false")?;
    let mut model = llama::common(fields, KvHeads::AsHeads, None)?;
    model.position = Position::Rotary(ROPE.read(fields, model.head_dim)?);
    let window = window(fields, None)?;
    let sliding = vec![window.is_some(); model.num_layers];
    set_windows(fields, &mut model, &sliding, window)?;
    Ok(model)
}
