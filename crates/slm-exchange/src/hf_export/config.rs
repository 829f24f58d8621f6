//! Conversion of a model's configuration to the `config.json` of its family.
//!
//! The written configuration is read back by the code that imports models. A family is chosen only if the result is the
//! same model.

use serde_json::{Map, Value, json};
use slm_checkpoint::Checkpoint;
use slm_model::arch::{ARCHITECTURES, Architecture, read_config};
use slm_model::{AttentionBias, LayerSpec, MlpKind, ModelConfig, RopeScaling, RotaryConfig};

use crate::float::FloatType;
use crate::source::Source;
use crate::{Error, Result};

/// A Hugging Face family that has the model, and the model's configuration in it.
#[derive(Debug)]
pub(crate) struct HfModel {
    pub(crate) architecture: &'static Architecture,
    config: Map<String, Value>,
}

impl HfModel {
    /// The family that the model was imported from, or the first one that has the model.
    pub(crate) fn of(source: &Source<'_>) -> Result<Self> {
        let name = source.hugging_face_architecture();
        let preferred = ARCHITECTURES.iter().filter(|known| Some(known.name) == name);
        for &architecture in preferred.chain(ARCHITECTURES) {
            let config = write(architecture, source.model());
            let read = read_config(&config);
            if read.is_ok_and(|read| {
                read.model == *source.model() && read.architecture.name == architecture.name
            }) {
                return Ok(Self { architecture, config });
            }
        }
        let names: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let what =
            format!("none of the Hugging Face architectures computes the model ({})", names.join(", "));
        let remedy = "only models of such an architecture are exported";
        Err(Error::unsupported(source.checkpoint.dir(), what, remedy))
    }

    /// The complete `config.json`.
    pub(crate) fn config(&self, checkpoint: &Checkpoint, float: FloatType) -> Map<String, Value> {
        let mut config = self.config.clone();
        let info = &checkpoint.config().tokenizer;
        config.insert("torch_dtype".to_owned(), float.torch_name().into());
        config.insert("bos_token_id".to_owned(), info.bos_token_id.into());
        let eos = match info.eos_token_ids[..] {
            [] => Value::Null,
            [eos] => eos.into(),
            _ => info.eos_token_ids.clone().into(),
        };
        config.insert("eos_token_id".to_owned(), eos);
        // The classes of transformers have default ids that may be outside the vocabulary.
        config.insert("pad_token_id".to_owned(), Value::Null);
        config.insert("use_cache".to_owned(), true.into());
        config
    }
}

/// Returns the configuration of `model` in the vocabulary of `architecture`, as far as it has keys for it.
fn write(architecture: &Architecture, model: &ModelConfig) -> Map<String, Value> {
    let layers = model.layers();
    let mut fields = Fields { map: Map::new(), model, layers };
    fields.put("architectures", json!([architecture.name]));
    fields.put("model_type", architecture.model_type);
    fields.put("vocab_size", model.vocab_size);
    fields.put("tie_word_embeddings", model.tie_word_embeddings);
    if architecture.model_type == "gpt2" {
        fields.gpt2();
        return fields.map;
    }
    fields.sizes();
    match architecture.model_type {
        "gpt_neox" => {
            fields.put("layer_norm_eps", model.norm_eps);
            fields.put("use_parallel_residual", model.parallel_residual);
            fields.put("attention_bias", model.attention_bias == AttentionBias::All);
            fields.rotary("rotary_emb_base", Some("rotary_pct"));
        }
        "stablelm" => {
            fields.put("layer_norm_eps", model.norm_eps);
            fields.put("use_parallel_residual", model.parallel_residual);
            fields.put("use_qkv_bias", model.attention_bias == AttentionBias::Qkv);
            fields.put("qk_layernorm", false);
            fields.rotary("rope_theta", Some("partial_rotary_factor"));
        }
        "gemma3_text" => fields.gemma3(),
        kind => {
            fields.put("rms_norm_eps", model.norm_eps);
            fields.rotary("rope_theta", (kind == "phi3").then_some("partial_rotary_factor"));
            if matches!(kind, "llama" | "granite" | "smollm3" | "qwen3" | "olmo2") {
                fields.put("attention_bias", model.attention_bias == AttentionBias::All);
            }
            if matches!(kind, "llama" | "granite" | "smollm3") {
                fields.put("mlp_bias", model.mlp_bias);
            }
            match kind {
                "mistral" | "ministral" | "phi3" | "qwen2" | "qwen3" | "smollm3" => fields.windows(kind),
                "granite" => fields.granite(),
                _ => {}
            }
            if kind == "smollm3" {
                let rotates: Vec<u8> =
                    fields.layers.iter().map(|layer| u8::from(layer.rotary.is_some())).collect();
                fields.put("no_rope_layers", rotates);
            }
        }
    }
    fields.map
}

struct Fields<'a> {
    map: Map<String, Value>,
    model: &'a ModelConfig,
    layers: Vec<LayerSpec>,
}

impl Fields<'_> {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.map.insert(name.to_owned(), value.into());
    }

    fn sizes(&mut self) {
        let model = self.model;
        self.put("hidden_size", model.hidden_size);
        self.put("intermediate_size", model.intermediate_size);
        self.put("num_hidden_layers", model.num_layers);
        self.put("num_attention_heads", model.num_heads);
        self.put("num_key_value_heads", model.num_kv_heads);
        self.put("head_dim", model.head_dim);
        self.put("max_position_embeddings", original_positions(model));
        self.put("hidden_act", activation(model.mlp));
    }

    fn gpt2(&mut self) {
        let model = self.model;
        self.put("n_embd", model.hidden_size);
        self.put("n_inner", model.intermediate_size);
        self.put("n_layer", model.num_layers);
        self.put("n_head", model.num_heads);
        self.put("n_positions", model.max_position_embeddings);
        self.put("n_ctx", model.max_position_embeddings);
        self.put("layer_norm_epsilon", model.norm_eps);
        self.put("activation_function", activation(model.mlp));
        let scales: Vec<Option<f64>> = self.layers.iter().map(|layer| layer.attention_scale).collect();
        if let Some(Some(first)) = scales.first() {
            self.put("scale_attn_weights", *first != 1.0);
            self.put(
                "scale_attn_by_inverse_layer_idx",
                scales.get(1).is_some_and(|next| *next != Some(*first)),
            );
        }
    }

    fn gemma3(&mut self) {
        let model = self.model;
        self.put("rms_norm_eps", model.norm_eps);
        self.put("hidden_activation", activation(model.mlp));
        self.map.remove("hidden_act");
        self.put("attention_bias", model.attention_bias == AttentionBias::All);
        let scale = model.attention_scale.unwrap_or(1.0 / (model.head_dim as f64).sqrt());
        let exact = 1.0 / (scale * scale);
        // transformers rejects a float, even an integral one.
        let is_whole = (exact - exact.round()).abs() < 1e-6 * exact && exact.round() < f64::from(u32::MAX);
        let scalar: Value = if is_whole { (exact.round() as u32).into() } else { exact.into() };
        self.put("query_pre_attn_scalar", scalar);
        let find = |sliding: bool| {
            self.layers.iter().find(|layer| layer.sliding_window.is_some() == sliding).cloned()
        };
        let (local, full) = (find(true), find(false));
        let full = full.and_then(|layer| layer.rotary);
        if let Some(rotary) = &full {
            self.put("rope_theta", rotary.theta);
            self.put("rope_scaling", scaling(rotary));
        }
        if let Some(layer) = local {
            self.put("sliding_window", layer.sliding_window);
            self.put("rope_local_base_freq", layer.rotary.map(|rotary| rotary.theta));
        }
        self.layer_types();
    }

    fn granite(&mut self) {
        let model = self.model;
        self.put("embedding_multiplier", model.embedding_multiplier);
        self.put("residual_multiplier", model.residual_multiplier);
        self.put("attention_multiplier", model.attention_scale.unwrap_or(1.0));
        self.put("logits_scaling", inverse(model.logit_multiplier));
    }

    /// Writes base, scaling and share of the rotary embedding, which all layers share.
    fn rotary(&mut self, theta: &str, share: Option<&str>) {
        let Some(rotary) = self.layers.iter().find_map(|layer| layer.rotary.clone()) else { return };
        self.put(theta, rotary.theta);
        self.put("rope_scaling", scaling(&rotary));
        if let Some(share) = share {
            let (dims, head_dim) = (rotary.dims.unwrap_or(self.model.head_dim), self.model.head_dim);
            let exact = dims as f64 / head_dim as f64;
            // The product is rounded down when it is read.
            let holds = (head_dim as f64 * exact) as usize == dims;
            self.put(share, if holds { exact } else { (dims as f64 + 0.5) / head_dim as f64 });
        }
        if let (Some(RopeScaling::LongRope { original_max_position_embeddings, .. }), Some(_)) =
            (&rotary.scaling, share)
        {
            self.put("original_max_position_embeddings", *original_max_position_embeddings);
        }
    }

    fn windows(&mut self, kind: &str) {
        let widths: Vec<Option<usize>> = self.layers.iter().map(|layer| layer.sliding_window).collect();
        let width = widths.iter().flatten().next().copied();
        self.put("sliding_window", width);
        if matches!(kind, "qwen2" | "qwen3" | "smollm3") {
            self.put("use_sliding_window", width.is_some());
        }
        let some = widths.iter().any(Option::is_some);
        let all = widths.iter().all(Option::is_some);
        if kind != "phi3" && some && (!all || matches!(kind, "qwen2" | "qwen3" | "smollm3")) {
            self.layer_types();
        }
    }

    fn layer_types(&mut self) {
        let types: Vec<&str> = self
            .layers
            .iter()
            .map(|layer| if layer.sliding_window.is_some() { "sliding_attention" } else { "full_attention" })
            .collect();
        self.put("layer_types", json!(types));
    }
}

fn activation(mlp: MlpKind) -> &'static str {
    match mlp {
        MlpKind::SwiGlu | MlpKind::Silu => "silu",
        MlpKind::GeGlu | MlpKind::Gelu => "gelu",
        MlpKind::GeGluTanh => "gelu_pytorch_tanh",
        MlpKind::GeluTanh => "gelu_new",
    }
}

/// Computes `1 / value`. If there is a short decimal number whose inverse is `value`, returns that number.
fn inverse(value: f64) -> f64 {
    let exact = 1.0 / value;
    let short = (exact * 1e6).round() / 1e6;
    if 1.0 / short == value { short } else { exact }
}

/// The model's positions before dynamic scaling of the base extends them.
fn original_positions(model: &ModelConfig) -> usize {
    let own = |layer: &LayerSpec| match layer.rotary.as_ref()?.scaling {
        Some(RopeScaling::Dynamic { max_position_embeddings, .. }) => Some(max_position_embeddings),
        _ => None,
    };
    model.layers().iter().find_map(own).unwrap_or(model.max_position_embeddings)
}

fn scaling(rotary: &RotaryConfig) -> Value {
    match &rotary.scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({ "rope_type": "linear", "factor": factor }),
        Some(RopeScaling::Dynamic { factor, .. }) => json!({ "rope_type": "dynamic", "factor": factor }),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        Some(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        }) => json!({
            "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
            "truncate": truncate, "attention_factor": attention_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        Some(RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings,
            attention_factor,
        }) => json!({
            "rope_type": "longrope", "short_factor": short_factor, "long_factor": long_factor,
            "attention_factor": attention_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    }
}
