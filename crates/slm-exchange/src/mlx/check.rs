//! Comparison of a model with the capabilities of mlx-lm.
//!
//! Its models equal those of transformers except for the differences listed here, as of mlx-lm 0.32 (`mlx_lm/models`).

use slm_model::{AttentionBias, MlpKind, ModelConfig, RopeScaling};

/// The families of mlx-lm, by the `model_type` of a config.
const FAMILIES: [&str; 12] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt2",
    "gpt_neox",
    "smollm3",
    "gemma3_text",
    "phi3",
    "olmo2",
    "granite",
    "stablelm",
];
/// Families whose MLP is always four times as wide as the model, regardless of the config.
const FOUR_TIMES: [&str; 2] = ["gpt2", "gpt_neox"];
/// Families that derive the width of a head from the other widths.
const EVEN_HEADS: [&str; 6] = ["qwen2", "granite", "phi3", "gpt2", "gpt_neox", "stablelm"];
/// Families that support windows in some layers and full attention in others.
const SOME_WINDOWS: [&str; 3] = ["llama", "mistral", "smollm3"];
/// Families without scaling of rotary frequencies.
const NO_SCALING: [&str; 3] = ["phi3", "gpt_neox", "stablelm"];

/// The first property of a model of the family `kind` that mlx-lm cannot compute.
pub(super) fn refusal(kind: &str, model: &ModelConfig) -> Option<String> {
    let layers = model.layers();
    if !FAMILIES.contains(&kind) {
        return Some(format!("has no {kind}"));
    }
    let windows = layers.iter().filter(|layer| layer.sliding_window.is_some()).count();
    let knows_windows = match kind {
        "gemma3_text" => gemma_pattern(model).is_some(),
        kind => windows == 0 || (windows < layers.len() && SOME_WINDOWS.contains(&kind)),
    };
    if !knows_windows {
        return Some("has no such sliding windows".to_owned());
    }
    let mlp = match kind {
        "gpt2" => MlpKind::GeluTanh,
        "gpt_neox" => MlpKind::Gelu,
        "gemma3_text" => MlpKind::GeGluTanh,
        _ => MlpKind::SwiGlu,
    };
    if model.mlp != mlp && !(kind == "gpt_neox" && model.mlp == MlpKind::GeluTanh) {
        return Some("has another activation in the MLP".to_owned());
    }
    if FOUR_TIMES.contains(&kind) && model.intermediate_size != 4 * model.hidden_size {
        return Some("has MLPs of four times the width only".to_owned());
    }
    if EVEN_HEADS.contains(&kind) && model.head_dim * model.num_heads != model.hidden_size {
        return Some("has heads that share out the width of the model only".to_owned());
    }
    let tied = match kind {
        "gpt2" => Some(true),
        "gpt_neox" | "stablelm" => Some(false),
        _ => None,
    };
    if tied.is_some_and(|tied| tied != model.tie_word_embeddings) {
        return Some(match model.tie_word_embeddings {
            true => format!("has no tied head in {kind}"),
            false => format!(
                "has no separate head in {kind}: quantize head and embedding as one table, or skip lm_head so that they \
                 stay one float table"
            ),
        });
    }
    let biases = match kind {
        "gpt_neox" => Some(AttentionBias::All),
        "qwen3" => Some(AttentionBias::None),
        _ => None,
    };
    if biases.is_some_and(|biases| biases != model.attention_bias) {
        return Some("has other biases of attention".to_owned());
    }
    if kind == "gpt2" && layers.iter().any(|layer| layer.attention_scale.is_some()) {
        return Some("has no scale of attention of its own".to_owned());
    }
    layers.iter().filter_map(|layer| layer.rotary.as_ref()?.scaling.as_ref()).find_map(
        |scaling| match scaling {
            RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } if !NO_SCALING.contains(&kind) => None,
            _ => Some("scales rotations in another way".to_owned()),
        },
    )
}

/// The parts of a model that mlx-lm computes differently.
pub(super) fn differences(kind: &str, model: &ModelConfig) -> Vec<String> {
    let mut found = Vec::new();
    if kind == "gpt_neox" && model.mlp == MlpKind::Gelu {
        found.push(
            "mlx-lm computes the GELU of GPT-NeoX by its tanh approximation, the model by the error function"
                .to_owned(),
        );
    }
    let root = (model.hidden_size as f32).sqrt();
    if kind == "gemma3_text" && half::bf16::from_f32(root).to_f32() != root {
        found.push(format!("mlx-lm rounds the factor of Gemma's embedding, {root}, to BF16"));
    }
    found
}

/// The step of Gemma's layers with full attention; `None` if these layers have no constant step.
pub(super) fn gemma_pattern(model: &ModelConfig) -> Option<usize> {
    let layers = model.layers();
    (1..=layers.len() + 1).find(|&step| {
        let of_step = |(index, layer): (usize, &slm_model::LayerSpec)| {
            layer.sliding_window.is_some() != (index + 1).is_multiple_of(step)
        };
        layers.iter().enumerate().all(of_step)
    })
}
