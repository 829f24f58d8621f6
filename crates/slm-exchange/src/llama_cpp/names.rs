//! The names of tensors.

use slm_model::{EMBED_POSITIONS, EMBED_TOKENS};

/// The names of tensors in a layer: slm's and llama.cpp's.
const IN_LAYER: [(&str, &str); 13] = [
    ("input_norm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("attention_output_norm", "post_attention_norm"),
    ("post_attention_norm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp_output_norm", "post_ffw_norm"),
];

/// q, k and v as one tensor.
pub(crate) const QKV: &str = "attn_qkv";
/// The embedding, and a head that is tied to it.
pub(crate) const EMBEDDING: &str = "token_embd.weight";
/// The head.
pub(crate) const OUTPUT: &str = "output.weight";
/// Divisors of the rotary frequencies.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
/// Divisors of the rotary frequencies for long contexts. [`ROPE_SHORT`] is for short ones.
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";
/// See [`ROPE_LONG`].
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// Splits one of slm's names into the layer, the part and the kind (`weight` or `bias`).
pub(crate) fn split(name: &str) -> Option<(usize, &str, &str)> {
    let (index, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    Some((index.parse().ok()?, part, kind))
}

/// Returns llama.cpp's name of the tensor that slm calls `name`.
pub(crate) fn to_gguf(name: &str) -> Option<String> {
    if let Some((index, part, kind)) = split(name) {
        let (_, theirs) = IN_LAYER.iter().find(|(ours, _)| *ours == part)?;
        return Some(in_layer(index, theirs, kind));
    }
    match name {
        EMBED_TOKENS => Some(EMBEDDING.to_owned()),
        EMBED_POSITIONS => Some("position_embd.weight".to_owned()),
        "norm.weight" => Some("output_norm.weight".to_owned()),
        "norm.bias" => Some("output_norm.bias".to_owned()),
        "lm_head.weight" => Some(OUTPUT.to_owned()),
        _ => None,
    }
}

/// The name of a tensor in layer `index`.
pub(crate) fn in_layer(index: usize, part: &str, kind: &str) -> String {
    format!("blk.{index}.{part}.{kind}")
}
