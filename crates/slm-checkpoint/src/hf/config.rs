//! Hugging Face `config.json` to [`ModelConfig`], family by family.
//!
//! A default that stands in for an absent field is the one of the family's class in transformers. What a
//! model is known not to support is refused; a field that is not known at all is reported.

use std::path::Path;

use serde_json::{Map, Value, json};
use slm_model::{AttentionBias, MlpKind, ModelConfig, NormKind, Position};

use super::fields::Fields;
use super::rope;
use crate::{Error, Result};

/// A model architecture that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gpt2,
}

const FAMILIES: [(&str, Family); 5] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("GPT2LMHeadModel", Family::Gpt2),
];

/// Fields that do not change what a trained model computes: training, bookkeeping, and special tokens, which
/// are read elsewhere.
const WITHOUT_EFFECT: &[&str] = &[
    "_name_or_path",
    "attention_dropout",
    "attn_pdrop",
    "bos_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "model_type",
    "n_ctx",
    "pad_token_id",
    "pretraining_tp",
    // Softmax in a wider type than the weights: everything is F32 here.
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "sliding_window",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
];

/// What a config says.
pub(super) struct Parsed {
    pub(super) family: Family,
    pub(super) architecture: &'static str,
    pub(super) model: ModelConfig,
    /// Fields that are not known.
    pub(super) unrecognized: Vec<String>,
}

pub(super) fn parse(path: &Path, config: &Map<String, Value>) -> Result<Parsed> {
    let fields = Fields::new(path, config);
    let (architecture, family) = family(&fields)?;
    refuse_everywhere(&fields)?;
    let model = match family {
        Family::Gpt2 => gpt2(&fields)?,
        _ => llama_like(&fields, family)?,
    };
    model.validate().map_err(|source| Error::Model { path: path.to_owned(), source })?;
    fields.ignore(WITHOUT_EFFECT);
    Ok(Parsed { family, architecture, model, unrecognized: fields.unseen() })
}

fn family(fields: &Fields<'_>) -> Result<(&'static str, Family)> {
    let found = fields.list("architectures")?.unwrap_or_default();
    if let [Value::String(name)] = found
        && let Some(known) = FAMILIES.into_iter().find(|(known, _)| known == name)
    {
        return Ok(known);
    }
    let found: Vec<String> = found.iter().map(Value::to_string).collect();
    Err(Error::Architecture {
        path: fields.path().to_owned(),
        found: if found.is_empty() {
            "(none given in \"architectures\")".to_owned()
        } else {
            found.join(", ")
        },
        supported: FAMILIES.map(|(name, _)| name).join(", "),
    })
}

/// Options of other models that some configs of the supported families carry too.
fn refuse_everywhere(fields: &Fields<'_>) -> Result<()> {
    let off = "absent or null";
    let float = "absent: float weights only, so import the model it was quantized from";
    fields.neutral("quantization_config", &Value::Null, float)?;
    fields.neutral("attn_logit_softcapping", &Value::Null, off)?;
    fields.neutral("final_logit_softcapping", &Value::Null, off)?;
    fields.neutral("query_pre_attn_scalar", &Value::Null, off)?;
    fields.neutral("add_cross_attention", &json!(false), "false")?;
    fields.neutral("is_encoder_decoder", &json!(false), "false")?;
    if let Some(layers) = fields.list("no_rope_layers")?
        && layers.iter().any(|layer| layer.as_u64() != Some(1))
    {
        let found = Value::from(layers.to_vec());
        return Err(fields.unsupported("no_rope_layers", found, "rotary positions in every layer"));
    }
    Ok(())
}

fn llama_like(fields: &Fields<'_>, family: Family) -> Result<ModelConfig> {
    let act = fields.str("hidden_act")?.unwrap_or("silu");
    if !["silu", "swish"].contains(&act) {
        return Err(fields.unsupported("hidden_act", format!("{act:?}"), "\"silu\""));
    }
    let num_layers = fields.required_usize("num_hidden_layers")?;
    let num_heads = fields.required_usize("num_attention_heads")?;
    let mut model = ModelConfig::new(
        fields.required_usize("vocab_size")?,
        fields.required_usize("hidden_size")?,
        fields.required_usize("intermediate_size")?,
        num_layers,
        num_heads,
        fields.required_usize("max_position_embeddings")?,
    );
    model.num_kv_heads = match (fields.usize("num_key_value_heads")?, family) {
        (Some(heads), _) => heads,
        // Models from before grouped queries.
        (None, Family::Llama) => num_heads,
        (None, _) => fields.required("num_key_value_heads", None)?,
    };
    model.head_dim = match (fields.usize("head_dim")?, family) {
        (Some(head_dim), _) => head_dim,
        (None, Family::Qwen3) => 128,
        (None, _) if num_heads == 0 || !model.hidden_size.is_multiple_of(num_heads) => {
            let expected = format!("a number that divides hidden_size = {}", model.hidden_size);
            return Err(fields.wrong("num_attention_heads", expected, num_heads));
        }
        (None, _) => model.hidden_size / num_heads,
    };
    model.norm = NormKind::RmsNorm;
    model.norm_eps = fields.required_f64("rms_norm_eps")?;
    model.position = rope::position(fields)?;
    model.mlp = MlpKind::SwiGlu;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(false);
    model.qk_norm = family == Family::Qwen3;
    let all_or_none = |bias: bool| if bias { AttentionBias::All } else { AttentionBias::None };
    match family {
        Family::Qwen2 => model.attention_bias = AttentionBias::Qkv,
        Family::Qwen3 => model.attention_bias = all_or_none(fields.bool("attention_bias")?.unwrap_or(false)),
        Family::Llama => {
            model.attention_bias = all_or_none(fields.bool("attention_bias")?.unwrap_or(false));
            model.mlp_bias = fields.bool("mlp_bias")?.unwrap_or(false);
        }
        Family::Mistral | Family::Gpt2 => model.attention_bias = AttentionBias::None,
    }
    model.sliding_window = sliding_window(fields, family, num_layers)?;
    Ok(model)
}

/// The window of all layers. A model in which some layers have one and some do not is refused.
fn sliding_window(fields: &Fields<'_>, family: Family, num_layers: usize) -> Result<Option<usize>> {
    /// Value in transformers where the field is absent, which is not the same as null.
    const DEFAULT_WINDOW: usize = 4096;
    /// The same of Qwen's `max_window_layers`.
    const DEFAULT_FULL_LAYERS: usize = 28;
    let window = match fields.usize("sliding_window")? {
        None if !fields.has("sliding_window") => Some(DEFAULT_WINDOW),
        window => window,
    };
    let (window, full_layers) = match family {
        Family::Llama | Family::Gpt2 => (None, 0),
        Family::Mistral => (window, 0),
        Family::Qwen2 | Family::Qwen3 => {
            let on = fields.bool("use_sliding_window")?.unwrap_or(false);
            let full_layers = fields.usize("max_window_layers")?.unwrap_or(DEFAULT_FULL_LAYERS);
            (window.filter(|_| on), full_layers)
        }
    };
    let uniform = "the same attention in every layer";
    let sliding = match fields.list("layer_types")? {
        Some(types) => {
            let count = |name: &str| types.iter().filter(|kind| kind.as_str() == Some(name)).count();
            match (count("full_attention"), count("sliding_attention")) {
                (full, 0) if full == num_layers && full == types.len() => false,
                (0, sliding) if sliding == num_layers && sliding == types.len() => true,
                _ => {
                    let found = Value::from(types.to_vec());
                    let supported = format!("{uniform}, full_attention or sliding_attention");
                    return Err(fields.unsupported("layer_types", found, supported));
                }
            }
        }
        None => window.is_some() && full_layers < num_layers,
    };
    match window {
        Some(_) if sliding && full_layers > 0 && !fields.has("layer_types") => {
            let supported = format!("{uniform}: 0, or at least num_hidden_layers = {num_layers}");
            Err(fields.unsupported("max_window_layers", full_layers, supported))
        }
        None if sliding => {
            Err(fields.wrong("sliding_window", "a width, for sliding_attention in layer_types", "nothing"))
        }
        window => Ok(window.filter(|_| sliding)),
    }
}

fn gpt2(fields: &Fields<'_>) -> Result<ModelConfig> {
    let mlp = match fields.str("activation_function")?.unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" => MlpKind::GeluTanh,
        "gelu" => MlpKind::Gelu,
        other => {
            let supported = "\"gelu_new\", \"gelu_pytorch_tanh\", \"gelu\"";
            return Err(fields.unsupported("activation_function", format!("{other:?}"), supported));
        }
    };
    fields.neutral("scale_attn_weights", &json!(true), "true")?;
    fields.neutral("scale_attn_by_inverse_layer_idx", &json!(false), "false")?;
    let hidden_size = fields.required_usize("n_embd")?;
    let num_heads = fields.required_usize("n_head")?;
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        return Err(fields.wrong(
            "n_head",
            format!("a number that divides n_embd = {hidden_size}"),
            num_heads,
        ));
    }
    let mut model = ModelConfig::new(
        fields.required_usize("vocab_size")?,
        hidden_size,
        fields.usize("n_inner")?.unwrap_or(hidden_size.saturating_mul(4)),
        fields.required_usize("n_layer")?,
        num_heads,
        fields.required_usize("n_positions")?,
    );
    model.norm = NormKind::LayerNorm;
    model.norm_eps = fields.required_f64("layer_norm_epsilon")?;
    model.position = Position::Learned;
    model.mlp = mlp;
    model.attention_bias = AttentionBias::All;
    model.mlp_bias = true;
    model.tie_word_embeddings = fields.bool("tie_word_embeddings")?.unwrap_or(true);
    Ok(model)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
