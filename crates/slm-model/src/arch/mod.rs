//! The architectures of Hugging Face models, one file each.
//!
//! Each file defines three things: the names that Hugging Face gives the architecture, how its `config.json` becomes a
//! [`ModelConfig`], and how its tensors become those of the model. [`ARCHITECTURES`] lists them all.
//!
//! The default for an absent field is that of the architecture's class in transformers. An option that is known but not
//! supported is rejected; an unknown field is reported.

mod fields;
mod rope;
mod tensors;
mod windows;

mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;
mod stablelm;

use serde_json::{Map, Value, json};

use self::fields::Fields;
use self::tensors::TensorMap;
pub use self::tensors::TensorSource;
use crate::config::{ModelConfig, Position, RopeScaling};
use crate::error::{Error, Result};
use crate::names::ExpectedTensor;

/// All architectures that can be imported.
pub const ARCHITECTURES: &[&Architecture] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mistral::MINISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &smollm3::SMOLLM3,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &olmo2::OLMO2,
    &granite::GRANITE,
    &stablelm::STABLELM,
];

/// An architecture of Hugging Face models.
#[derive(Debug)]
pub struct Architecture {
    /// The name of the class, as in the list `architectures` of a `config.json`.
    pub name: &'static str,
    /// The name of the class without a head, as `AutoModel` saves it.
    pub headless: &'static str,
    /// The `model_type`, which is used if there is no such list.
    pub model_type: &'static str,
    config: fn(&Fields<'_>) -> Result<ModelConfig>,
    tensors: TensorMap,
}

impl Architecture {
    /// Returns `true` if `name` is the name of the class, or its original name. A class without a head must be that of
    /// the `model_type`, if there is one, because heads differ.
    fn is_called(&self, name: &str, model_type: Option<&str>) -> bool {
        let name = if name == "LLaMAForCausalLM" { "LlamaForCausalLM" } else { name };
        let is_type = model_type.is_none_or(|model_type| model_type == self.model_type);
        name == self.name || (name == self.headless && is_type)
    }

    /// Prefix of most tensor names in a file; some files leave it out.
    pub fn prefix(&self) -> &'static str {
        self.tensors.prefix
    }

    /// The source of `tensor` of a model of `config`. `prefixed` says whether the names in the file have the
    /// [`prefix`](Self::prefix).
    pub fn tensor_source(
        &self,
        config: &ModelConfig,
        tensor: &ExpectedTensor,
        prefixed: bool,
    ) -> TensorSource {
        self.tensors.tensor_source(config, tensor, prefixed)
    }

    /// Returns `true` if a tensor of a file is a constant that has no place in a model.
    pub fn is_constant(&self, name: &str) -> bool {
        if name.rsplit('.').next().is_some_and(|last| BUFFERS.contains(&last)) {
            return true;
        }
        // At the top level of a file without prefix, the name has neither a parent nor the leading dot.
        self.tensors.constants.iter().any(|end| name.ends_with(end) || name == &end[1..])
    }

    /// Name of the head in a file.
    pub fn head(&self) -> String {
        self.tensors.head()
    }
}

/// Names of buffers that no architecture reads from a file: frequencies, tables and masks that old versions saved.
const BUFFERS: &[&str] = &[
    "inv_freq",
    "original_inv_freq",
    "cos_cached",
    "sin_cached",
    "position_ids",
    "masked_bias",
    "causal_mask",
];

/// The parsed content of a `config.json`.
#[derive(Debug)]
pub struct HfConfig {
    /// The architecture.
    pub architecture: &'static Architecture,
    /// The specification of the model.
    pub model: ModelConfig,
    /// Name of the field for the number of layers.
    pub layers_field: String,
    /// Name of the field for the biases of the attention projections.
    pub attention_bias_field: String,
    /// Unknown fields.
    pub unrecognized: Vec<String>,
    /// Notes for the user about the reading of known fields: defaults for absent fields, the choice between two
    /// contradicting fields, ignored fields. Each is a sentence that names the field.
    pub notes: Vec<String>,
}

/// Fields of every config of old versions: options of generation and of training, and names of labels.
const OF_EVERY_CONFIG: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "use_bfloat16",
];

/// Fields that do not change what a trained model computes: training, bookkeeping, and special tokens (which are read
/// elsewhere).
const WITHOUT_EFFECT: &[&str] = &[
    "_name_or_path",
    "_sliding_window_pattern",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "initializer_range",
    "is_decoder",
    "max_window_layers",
    "model_type",
    "n_ctx",
    "original_max_position_embeddings",
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

/// Reads the content of a Hugging Face `config.json`.
///
/// If the fields are inside an object `text_config` (or `llm_config`, or `language_config`), the text part of a
/// multimodal model, they are read from there.
///
/// # Errors
/// [`Error::HfArchitecture`], [`Error::HfUnsupported`] and [`Error::HfField`], naming the field; [`Error::Config`]
/// for sizes that do not fit together.
pub fn read_config(config: &Map<String, Value>) -> Result<HfConfig> {
    let fields = Fields::new(config);
    let sizes = ["hidden_size", "n_embd", "num_hidden_layers", "n_layer"];
    let nested = NESTED.iter().find(|name| fields.get(name).is_some_and(Value::is_object));
    let name = nested.copied().unwrap_or(NESTED[0]);
    match fields.object(name)? {
        Some(text) if !sizes.iter().any(|size| fields.has(size)) => {
            let architecture = find_nested(&fields, &text, name)?;
            fields.note(name, "holds the fields of the model: they were read from there");
            let mut merged = text.map().clone();
            if let Some(tied) = config.get(TIED).filter(|_| !text.has(TIED)) {
                merged.insert(TIED.to_owned(), tied.clone());
            }
            let text = fields.nested(name, &merged);
            text.ignore(&["architectures"]);
            read_fields(&text, architecture)
        }
        _ => read_fields(&fields, find(&fields)?),
    }
}

/// Objects of multimodal configs with the fields of the text model, the usual one first.
pub const NESTED: [&str; 3] = ["text_config", "llm_config", "language_config"];
const TIED: &str = "tie_word_embeddings";

fn read_fields(fields: &Fields<'_>, architecture: &'static Architecture) -> Result<HfConfig> {
    let mut model = (architecture.config)(fields)?;
    extend_positions(&mut model);
    refuse_unread(fields)?;
    model.validate()?;
    fields.ignore(WITHOUT_EFFECT);
    fields.ignore(OF_EVERY_CONFIG);
    Ok(HfConfig {
        architecture,
        model,
        layers_field: fields.layers_field(),
        attention_bias_field: fields.attention_bias_field(),
        unrecognized: fields.unseen(),
        notes: fields.notes(),
    })
}

/// Raises the maximum length of sequences to what a dynamic rotary base allows.
fn extend_positions(model: &mut ModelConfig) {
    if let Position::Rotary(rotary) = &model.position
        && let Some(RopeScaling::Dynamic { factor, .. }) = rotary.scaling
        && factor > 1.0
    {
        model.max_position_embeddings = (model.max_position_embeddings as f64 * factor) as usize;
    }
}

/// The architecture by the class in `architectures`, with or without its head; if that is absent, null or empty, by
/// `model_type`.
fn find(fields: &Fields<'_>) -> Result<&'static Architecture> {
    let names = match fields.get("architectures") {
        Some(name @ Value::String(_)) => Some(std::slice::from_ref(name)),
        _ => fields.list("architectures")?,
    };
    let model_type = fields.str("model_type")?;
    let by_type = || ARCHITECTURES.iter().find(|known| Some(known.model_type) == model_type);
    let known = match names {
        Some([Value::String(name)]) => {
            let named = ARCHITECTURES.iter().find(|known| known.is_called(name, model_type));
            if let (Some(named), Some(model_type)) = (named, model_type)
                && named.model_type != model_type
            {
                let what = format!("is {model_type:?}: it was ignored for architectures, which say {name}");
                fields.note("model_type", what);
            }
            named
        }
        None | Some([]) => by_type(),
        Some(_) => None,
    };
    known.copied().ok_or_else(|| unknown(names.unwrap_or_default(), model_type))
}

/// The architecture of the model whose fields are in `text`: by the names in `text`, or else by those of the whole
/// config.
fn find_nested(fields: &Fields<'_>, text: &Fields<'_>, name: &str) -> Result<&'static Architecture> {
    find(text).or_else(|_| find(fields)).map_err(|_| {
        let found = text.get("model_type").or(fields.get("architectures")).or(fields.get("model_type"));
        let found = found.map_or_else(|| "(none given)".to_owned(), Value::to_string);
        Error::HfArchitecture {
            found: format!("{found}, of which {name} holds the text model,"),
            supported: supported(),
        }
    })
}

fn unknown(names: &[Value], model_type: Option<&str>) -> Error {
    let names: Vec<String> = names.iter().map(Value::to_string).collect();
    let found = match (&names[..], model_type) {
        ([], Some(model_type)) => format!("of model_type {model_type:?}"),
        ([], None) => "(none given in \"architectures\")".to_owned(),
        (names, _) => names.join(", "),
    };
    Error::HfArchitecture { found, supported: supported() }
}

fn supported() -> String {
    ARCHITECTURES.iter().map(|known| known.name).collect::<Vec<_>>().join(", ")
}

/// Rejects options that change what a model computes, unless the architecture has read them itself.
fn refuse_unread(fields: &Fields<'_>) -> Result<()> {
    let off = "absent or null";
    let float = "absent: float weights only, so import the model it was quantized from";
    for field in ["quantization_config", "compression_config", "quantization"] {
        fields.expect_default_if_unread(field, &Value::Null, float)?;
    }
    fields.expect_default_if_unread("attn_logit_softcapping", &Value::Null, off)?;
    fields.expect_default_if_unread("final_logit_softcapping", &Value::Null, off)?;
    fields.expect_default_if_unread("query_pre_attn_scalar", &Value::Null, off)?;
    fields.expect_default_if_unread("add_cross_attention", &json!(false), "false")?;
    fields.expect_default_if_unread("is_encoder_decoder", &json!(false), "false")?;
    if fields.get("pruned_heads").and_then(Value::as_object).is_some_and(|heads| !heads.is_empty()) {
        return Err(fields.unsupported("pruned_heads", "not empty", "all heads of every layer"));
    }
    if fields.was_read("no_rope_layers") {
        return Ok(());
    }
    match fields.list("no_rope_layers")? {
        Some(layers) if layers.iter().any(|layer| layer.as_u64() != Some(1)) => {
            let found = Value::from(layers.to_vec());
            Err(fields.unsupported("no_rope_layers", found, "rotary positions in every layer"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
