//! Mistral: Llama with a sliding window.

use super::Architecture;
use super::fields::{Fields, KvHeads};
use super::llama;
use super::rope::Rope;
use super::windows::{set_windows, sliding_layers, window};
use crate::config::{ModelConfig, Position};
use crate::error::Result;

pub(super) const MISTRAL: Architecture =
    Architecture { name: "MistralForCausalLM", model_type: "mistral", config, tensors: llama::TENSORS };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mut model = llama::common(fields, KvHeads::Required, None)?;
    model.position = Position::Rotary(Rope::whole(10_000.0).read(fields, model.head_dim)?);
    let window = window(fields, Some(4096))?;
    let sliding = sliding_layers(fields, model.num_layers, |_| window.is_some())?;
    set_windows(fields, &mut model, &sliding, window)?;
    Ok(model)
}
