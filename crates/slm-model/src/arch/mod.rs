//! The architectures of Hugging Face models, one file each.
//!
//! A file says three things: the names that Hugging Face gives the architecture, how its `config.json` becomes a
//! [`ModelConfig`], and how its tensors become those of the model. [`ARCHITECTURES`] lists them all.
//!
//! A default that stands in for an absent field is the one of the architecture's class in transformers. An option
//! that is known not to be supported is refused; a field that is not known at all is reported.

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
pub use self::tensors::Origin;
use self::tensors::TensorMap;
use crate::config::ModelConfig;
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
    /// Its name, as in the list `architectures` of a `config.json`.
    pub name: &'static str,
    /// The name of the same without a head, as `AutoModel` saves it.
    pub headless: &'static str,
    /// Its `model_type`, which is looked at where there is no such list.
    pub model_type: &'static str,
    config: fn(&Fields<'_>) -> Result<ModelConfig>,
    tensors: TensorMap,
}

impl Architecture {
    /// Whether `name` is the class of it, or what the class was called when it was new. A class without a head must be
    /// that of the `model_type`, where there is one: heads differ.
    fn is_called(&self, name: &str, model_type: Option<&str>) -> bool {
        let name = if name == "LLaMAForCausalLM" { "LlamaForCausalLM" } else { name };
        let is_type = model_type.is_none_or(|model_type| model_type == self.model_type);
        name == self.name || (name == self.headless && is_type)
    }

    /// Prefix of most tensor names in a file; some files leave it out.
    pub fn prefix(&self) -> &'static str {
        self.tensors.prefix
    }

    /// Where `tensor` of a model of `config` comes from. `prefixed` says whether the file has the
    /// [`prefix`](Self::prefix).
    pub fn origin(&self, config: &ModelConfig, tensor: &ExpectedTensor, prefixed: bool) -> Origin {
        self.tensors.origin(config, tensor, prefixed)
    }

    /// Whether a tensor of a file is a constant that has no place in a model.
    pub fn is_constant(&self, name: &str) -> bool {
        // At the top of a file without prefix nothing stands before the name, nor its dot.
        self.tensors.constants.iter().any(|end| name.ends_with(end) || name == &end[1..])
    }

    /// The field of a config that says how many layers there are.
    pub fn layers_field(&self) -> &'static str {
        if self.tensors.layers == "h" { "n_layer" } else { "num_hidden_layers" }
    }

    /// The field of a config that says which attention projections have a bias.
    pub fn attention_bias_field(&self) -> &'static str {
        if self.model_type == "stablelm" { "use_qkv_bias" } else { "attention_bias" }
    }

    /// Name of the head in a file.
    pub fn head(&self) -> String {
        self.tensors.head()
    }
}

/// A `config.json` that was understood.
#[derive(Debug)]
pub struct HfConfig {
    /// The architecture.
    pub architecture: &'static Architecture,
    /// The specification of the model.
    pub model: ModelConfig,
    /// Fields that are not known.
    pub unrecognized: Vec<String>,
    /// What the user should know of how known fields were read: defaults taken for absent ones, one of two that say
    /// different things, some that were passed over. Each is a sentence about a field, which it names.
    pub notes: Vec<String>,
}

/// Fields that do not change what a trained model computes: training, bookkeeping, and special tokens, which
/// are read elsewhere.
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
/// Where the fields are inside an object `text_config`, as those of the text part of a multimodal model are, they are
/// read from there.
///
/// # Errors
/// [`Error::HfArchitecture`], [`Error::HfUnsupported`] and [`Error::HfField`], naming the field; [`Error::Config`]
/// for sizes that do not fit together.
pub fn read_config(config: &Map<String, Value>) -> Result<HfConfig> {
    let fields = Fields::new(config);
    let sizes = ["hidden_size", "n_embd", "num_hidden_layers", "n_layer"];
    match fields.object(TEXT_CONFIG)? {
        Some(text) if !sizes.iter().any(|size| fields.has(size)) => {
            let architecture = find_nested(&fields, &text)?;
            fields.note(TEXT_CONFIG, "holds the fields of the model: they were read from there");
            let mut merged = text.map().clone();
            if let Some(tied) = config.get(TIED).filter(|_| !text.has(TIED)) {
                merged.insert(TIED.to_owned(), tied.clone());
            }
            let text = fields.nested(TEXT_CONFIG, &merged);
            text.ignore(&["architectures"]);
            read_fields(&text, architecture)
        }
        _ => read_fields(&fields, find(&fields)?),
    }
}

const TEXT_CONFIG: &str = "text_config";
const TIED: &str = "tie_word_embeddings";

fn read_fields(fields: &Fields<'_>, architecture: &'static Architecture) -> Result<HfConfig> {
    let model = (architecture.config)(fields)?;
    refuse_unread(fields)?;
    model.validate()?;
    fields.ignore(WITHOUT_EFFECT);
    Ok(HfConfig { architecture, model, unrecognized: fields.unseen(), notes: fields.notes() })
}

/// The architecture by the class in `architectures`, with its head or without; where that is absent, null or empty, by
/// `model_type`.
fn find(fields: &Fields<'_>) -> Result<&'static Architecture> {
    let names = fields.list("architectures")?;
    let model_type = fields.str("model_type")?;
    let by_type = || ARCHITECTURES.iter().find(|known| Some(known.model_type) == model_type);
    let known = match names {
        Some([Value::String(name)]) => {
            let named = ARCHITECTURES.iter().find(|known| known.is_called(name, model_type));
            if let (Some(named), Some(model_type)) = (named, model_type)
                && named.model_type != model_type
            {
                let what =
                    format!("is {model_type:?}: it was passed over for architectures, which say {name}");
                fields.note("model_type", what);
            }
            named
        }
        None | Some([]) => by_type(),
        Some(_) => None,
    };
    known.copied().ok_or_else(|| unknown(names.unwrap_or_default(), model_type))
}

/// The architecture of the model whose fields are in `text`: by its own names, else by those of the whole.
fn find_nested(fields: &Fields<'_>, text: &Fields<'_>) -> Result<&'static Architecture> {
    find(text).or_else(|_| find(fields)).map_err(|_| {
        let found = text.get("model_type").or(fields.get("architectures")).or(fields.get("model_type"));
        let found = found.map_or_else(|| "(none given)".to_owned(), Value::to_string);
        Error::HfArchitecture {
            found: format!("{found}, of which text_config holds the text model,"),
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

/// Refuses options that change what a model computes, where the architecture has not read them itself.
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
