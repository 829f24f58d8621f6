//! Canonical names and shapes of a model's tensors: the names in safetensors files, reports and skip patterns.

use crate::config::{AttentionBias, MlpKind, ModelConfig, NormKind, Position};

/// Path of the head where it is a linear layer of its own.
pub const LM_HEAD: &str = "lm_head";
/// Name of the token embedding, which is also the head's weight while the head is tied.
pub const EMBED_TOKENS: &str = "embed_tokens.weight";
/// Name of the learned position embedding.
pub const EMBED_POSITIONS: &str = "embed_positions.weight";
/// Path of the norm before the head.
pub const FINAL_NORM: &str = "norm";

/// A tensor that a config calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Canonical name, such as `layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape; a linear weight is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// Whether it is the weight of a linear layer, which may also be stored quantized.
    pub linear_weight: bool,
}

/// The shape of one linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinearShape {
    pub(crate) name: &'static str,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
}

/// Linear layers of the attention, in forward order: q, k, v, o.
pub(crate) fn attention_linears(config: &ModelConfig) -> [LinearShape; 4] {
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let qkv_bias = config.attention_bias != AttentionBias::None;
    let hidden = config.hidden_size;
    [
        LinearShape { name: "q_proj", inputs: hidden, outputs: q, bias: qkv_bias },
        LinearShape { name: "k_proj", inputs: hidden, outputs: kv, bias: qkv_bias },
        LinearShape { name: "v_proj", inputs: hidden, outputs: kv, bias: qkv_bias },
        LinearShape {
            name: "o_proj",
            inputs: q,
            outputs: hidden,
            bias: config.attention_bias == AttentionBias::All,
        },
    ]
}

/// Linear layers of the MLP: gate (SwiGLU only), up, down.
pub(crate) fn mlp_linears(config: &ModelConfig) -> (Option<LinearShape>, LinearShape, LinearShape) {
    let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
    let gate = LinearShape { name: "gate_proj", inputs: hidden, outputs: inner, bias };
    (
        (config.mlp == MlpKind::SwiGlu).then_some(gate),
        LinearShape { name: "up_proj", inputs: hidden, outputs: inner, bias },
        LinearShape { name: "down_proj", inputs: inner, outputs: hidden, bias },
    )
}

/// Every tensor of a float model with this config, in canonical order. A tied head has none of its own.
pub fn expected_tensors(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let mut list = Vec::new();
    let hidden = config.hidden_size;
    let mut push = |name: String, shape: Vec<usize>, linear_weight| {
        list.push(ExpectedTensor { name, shape, linear_weight });
    };
    let norm = |push: &mut dyn FnMut(String, Vec<usize>, bool), path: &str| {
        push(format!("{path}.weight"), vec![hidden], false);
        if config.norm == NormKind::LayerNorm {
            push(format!("{path}.bias"), vec![hidden], false);
        }
    };
    let linear = |push: &mut dyn FnMut(String, Vec<usize>, bool), path: &str, shape: LinearShape| {
        push(format!("{path}.{}.weight", shape.name), vec![shape.outputs, shape.inputs], true);
        if shape.bias {
            push(format!("{path}.{}.bias", shape.name), vec![shape.outputs], false);
        }
    };
    push(EMBED_TOKENS.into(), vec![config.vocab_size, hidden], false);
    if config.position == Position::Learned {
        push(EMBED_POSITIONS.into(), vec![config.max_position_embeddings, hidden], false);
    }
    for layer in 0..config.num_layers {
        let attention = format!("layers.{layer}.self_attn");
        norm(&mut push, &format!("layers.{layer}.input_norm"));
        for shape in attention_linears(config) {
            linear(&mut push, &attention, shape);
        }
        if config.qk_norm {
            push(format!("{attention}.q_norm.weight"), vec![config.head_dim], false);
            push(format!("{attention}.k_norm.weight"), vec![config.head_dim], false);
        }
        norm(&mut push, &format!("layers.{layer}.post_attention_norm"));
        let (gate, up, down) = mlp_linears(config);
        for shape in gate.into_iter().chain([up, down]) {
            linear(&mut push, &format!("layers.{layer}.mlp"), shape);
        }
    }
    norm(&mut push, FINAL_NORM);
    if !config.tie_word_embeddings {
        push(format!("{LM_HEAD}.weight"), vec![config.vocab_size, hidden], true);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_small_model() {
        let mut config = ModelConfig::new(10, 8, 16, 1, 2, 32);
        config.qk_norm = true;
        config.num_kv_heads = 1;
        config.attention_bias = AttentionBias::Qkv;
        config.tie_word_embeddings = false;
        let found: Vec<_> = expected_tensors(&config).into_iter().map(|t| (t.name, t.shape)).collect();
        let expected: Vec<(String, Vec<usize>)> = [
            ("embed_tokens.weight", vec![10, 8]),
            ("layers.0.input_norm.weight", vec![8]),
            ("layers.0.self_attn.q_proj.weight", vec![8, 8]),
            ("layers.0.self_attn.q_proj.bias", vec![8]),
            ("layers.0.self_attn.k_proj.weight", vec![4, 8]),
            ("layers.0.self_attn.k_proj.bias", vec![4]),
            ("layers.0.self_attn.v_proj.weight", vec![4, 8]),
            ("layers.0.self_attn.v_proj.bias", vec![4]),
            ("layers.0.self_attn.o_proj.weight", vec![8, 8]),
            ("layers.0.self_attn.q_norm.weight", vec![4]),
            ("layers.0.self_attn.k_norm.weight", vec![4]),
            ("layers.0.post_attention_norm.weight", vec![8]),
            ("layers.0.mlp.gate_proj.weight", vec![16, 8]),
            ("layers.0.mlp.up_proj.weight", vec![16, 8]),
            ("layers.0.mlp.down_proj.weight", vec![8, 16]),
            ("norm.weight", vec![8]),
            ("lm_head.weight", vec![10, 8]),
        ]
        .map(|(name, shape)| (name.to_string(), shape))
        .into();
        assert_eq!(found, expected);
    }
}
