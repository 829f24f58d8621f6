//! Phi-3 and Phi-4-mini: Llama with fused tensors, in which only a part of each head may be rotated.

use super::Architecture;
use super::fields::{Fields, Sizes};
use super::llama;
use super::rope::Rope;
use super::tensors::{FusedPart, Op, TensorMap};
use super::windows::{set_windows, window};
use crate::config::{ModelConfig, Position};
use crate::error::Result;

pub(super) const PHI3: Architecture = Architecture {
    name: "Phi3ForCausalLM",
    headless: "Phi3Model",
    model_type: "phi3",
    config,
    tensors: TENSORS,
};

/// The defaults of `Phi3Config`.
const SIZES: Sizes = Sizes {
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: 8192,
    num_layers: 32,
    num_heads: 32,
    max_positions: 4096,
    kv_heads: None,
    head_dim: None,
};

const TENSORS: TensorMap = TensorMap {
    names: &[
        ("input_norm", "input_layernorm", Op::Copy),
        ("self_attn.q_proj", "self_attn.qkv_proj", Op::Rows(FusedPart::Q)),
        ("self_attn.k_proj", "self_attn.qkv_proj", Op::Rows(FusedPart::K)),
        ("self_attn.v_proj", "self_attn.qkv_proj", Op::Rows(FusedPart::V)),
        ("post_attention_norm", "post_attention_layernorm", Op::Copy),
        ("mlp.gate_proj", "mlp.gate_up_proj", Op::Rows(FusedPart::Gate)),
        ("mlp.up_proj", "mlp.gate_up_proj", Op::Rows(FusedPart::Up)),
    ],
    ..llama::TENSORS
};

/// The class defaults to an `original_max_position_embeddings` of 4096, and early configs use other names for LongRoPE.
const ROPE: Rope = Rope {
    share: Some(("partial_rotary_factor", 1.0)),
    original_positions: Some(4096),
    long_names: &["su", "yarn"],
    ..Rope::whole(10_000.0)
};

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, &SIZES, 1e-5)?;
    model.position = Position::Rotary(ROPE.read(fields, &model)?);
    // A window applies to every layer; absent and null mean no window.
    let window = window(fields, None)?;
    let sliding = vec![window.is_some(); model.num_layers];
    set_windows(fields, &mut model, &sliding, window)?;
    Ok(model)
}
