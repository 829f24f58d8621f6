//! Canonical names and shapes of a model's tensors, as used in safetensors files, reports and skip patterns.

use crate::config::{AttentionBias, LayerSpec, ModelConfig, NormKind, QkNorm};

/// Path of the head if it is a separate linear layer.
pub const LM_HEAD: &str = "lm_head";
/// Name of the token embedding, which is also the head's weight while the head is tied.
pub const EMBED_TOKENS: &str = "embed_tokens.weight";
/// Path of the token embedding as a separate quantized table.
pub const TOKEN_TABLE: &str = "embed_tokens";
/// Name of the learned position embedding.
pub const EMBED_POSITIONS: &str = "embed_positions.weight";
/// Path of the norm before the head.
pub const FINAL_NORM: &str = "norm";

/// Norm of the input of attention.
pub(crate) const INPUT_NORM: &str = "input_norm";
/// Norm of the output of attention.
pub(crate) const ATTENTION_OUTPUT_NORM: &str = "attention_output_norm";
/// Norm of the input of the MLP. Its name is older than the one above.
pub(crate) const POST_ATTENTION_NORM: &str = "post_attention_norm";
/// Norm of the output of the MLP.
pub(crate) const MLP_OUTPUT_NORM: &str = "mlp_output_norm";

/// A tensor that a config calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Canonical name, such as `layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Shape; a linear weight is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// `true` for the weight of a linear layer, which may also be stored quantized.
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
pub(crate) fn attention_linears(config: &ModelConfig, layer: &LayerSpec) -> [LinearShape; 4] {
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let (qkv_bias, bias) =
        (layer.attention_bias != AttentionBias::None, layer.attention_bias == AttentionBias::All);
    let hidden = config.hidden_size;
    [
        LinearShape { name: "q_proj", inputs: hidden, outputs: q, bias: qkv_bias },
        LinearShape { name: "k_proj", inputs: hidden, outputs: kv, bias: qkv_bias },
        LinearShape { name: "v_proj", inputs: hidden, outputs: kv, bias: qkv_bias },
        LinearShape { name: "o_proj", inputs: q, outputs: hidden, bias },
    ]
}

/// Names and widths of the norms of queries and keys.
pub(crate) fn qk_norms(config: &ModelConfig, layer: &LayerSpec) -> Option<[(&'static str, usize); 2]> {
    let [q, k] = match layer.qk_norm {
        QkNorm::None => return None,
        QkNorm::PerHead => [config.head_dim; 2],
        QkNorm::Full => [config.num_heads, config.num_kv_heads].map(|heads| heads * config.head_dim),
    };
    Some([("q_norm", q), ("k_norm", k)])
}

/// Linear layers of the MLP: gate (if there is one), up, down.
pub(crate) fn mlp_linears(
    config: &ModelConfig,
    layer: &LayerSpec,
) -> (Option<LinearShape>, LinearShape, LinearShape) {
    let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, layer.mlp_bias);
    let gate = LinearShape { name: "gate_proj", inputs: hidden, outputs: inner, bias };
    (
        layer.mlp.is_gated().then_some(gate),
        LinearShape { name: "up_proj", inputs: hidden, outputs: inner, bias },
        LinearShape { name: "down_proj", inputs: inner, outputs: hidden, bias },
    )
}

/// Every tensor of a float model with this config, in canonical order. A tied head has no tensor.
pub fn expected_tensors(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let mut list = Tensors { config, list: Vec::new() };
    let hidden = config.hidden_size;
    list.push(EMBED_TOKENS.into(), vec![config.vocab_size, hidden], false);
    if config.has_learned_positions() {
        list.push(EMBED_POSITIONS.into(), vec![config.max_position_embeddings, hidden], false);
    }
    for (index, layer) in config.layers().iter().enumerate() {
        let path = |part: &str| format!("layers.{index}.{part}");
        let (attention, placement) = (path("self_attn"), layer.norm_placement);
        list.norm(placement.on_input(), path(INPUT_NORM));
        for shape in attention_linears(config, layer) {
            list.linear(&attention, shape);
        }
        for (name, width) in qk_norms(config, layer).into_iter().flatten() {
            list.push(format!("{attention}.{name}.weight"), vec![width], false);
        }
        list.norm(placement.on_output(), path(ATTENTION_OUTPUT_NORM));
        list.norm(placement.on_input(), path(POST_ATTENTION_NORM));
        let (gate, up, down) = mlp_linears(config, layer);
        for shape in gate.into_iter().chain([up, down]) {
            list.linear(&path("mlp"), shape);
        }
        list.norm(placement.on_output(), path(MLP_OUTPUT_NORM));
    }
    list.norm(true, FINAL_NORM.to_owned());
    if !config.tie_word_embeddings {
        list.push(format!("{LM_HEAD}.weight"), vec![config.vocab_size, hidden], true);
    }
    list.list
}

struct Tensors<'a> {
    config: &'a ModelConfig,
    list: Vec<ExpectedTensor>,
}

impl Tensors<'_> {
    fn push(&mut self, name: String, shape: Vec<usize>, linear_weight: bool) {
        self.list.push(ExpectedTensor { name, shape, linear_weight });
    }

    fn norm(&mut self, present: bool, path: String) {
        if !present {
            return;
        }
        let width = vec![self.config.hidden_size];
        self.push(format!("{path}.weight"), width.clone(), false);
        if self.config.norm == NormKind::LayerNorm {
            self.push(format!("{path}.bias"), width, false);
        }
    }

    fn linear(&mut self, path: &str, shape: LinearShape) {
        self.push(format!("{path}.{}.weight", shape.name), vec![shape.outputs, shape.inputs], true);
        if shape.bias {
            self.push(format!("{path}.{}.bias", shape.name), vec![shape.outputs], false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MlpKind, NormPlacement};

    #[test]
    fn names_of_a_small_model() {
        let mut config = ModelConfig::new(10, 8, 16, 1, 2, 32);
        config.qk_norm = QkNorm::PerHead;
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

    #[test]
    fn names_of_other_placements() {
        let mut config = ModelConfig::new(10, 8, 16, 1, 2, 32);
        config.qk_norm = QkNorm::Full;
        config.mlp = MlpKind::Gelu;
        let names = |config: &ModelConfig| -> Vec<String> {
            let tensors = expected_tensors(config).into_iter();
            tensors.filter(|t| t.name.contains("norm") && t.name.contains("layers")).map(|t| t.name).collect()
        };
        let layer = |parts: &[&str]| -> Vec<String> {
            parts.iter().map(|part| format!("layers.0.{part}.weight")).collect()
        };
        let (q, k) = ("self_attn.q_norm", "self_attn.k_norm");
        config.norm_placement = NormPlacement::Post;
        assert_eq!(names(&config), layer(&[q, k, ATTENTION_OUTPUT_NORM, MLP_OUTPUT_NORM]));
        config.norm_placement = NormPlacement::Both;
        let all = [INPUT_NORM, q, k, ATTENTION_OUTPUT_NORM, POST_ATTENTION_NORM, MLP_OUTPUT_NORM];
        assert_eq!(names(&config), layer(&all));
    }
}
