//! The metadata keys that describe a model's computation, derived from its configuration.

use slm_model::{ModelConfig, RopeScaling, RotaryConfig};

use super::arch::Arch;
use super::check::window;
use super::names;
use crate::gguf::Value;

/// Prefix of slm's own keys.
pub(crate) const OWN: &str = "slm";

/// An attention sink so small that it has no effect.
const NO_SINK: f32 = -1e30;

/// A tensor that llama.cpp needs and that slm computes from the configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extra {
    pub(crate) name: String,
    pub(crate) values: Vec<f32>,
}

/// The metadata of `model` as `arch`.
pub(crate) fn keys(arch: Arch, model: &ModelConfig) -> Vec<(String, Value)> {
    let mut keys = Keys { arch: arch.name(), list: Vec::new() };
    let layers = model.layers();
    keys.number("vocab_size", model.vocab_size);
    keys.number("context_length", model.max_position_embeddings);
    keys.number("embedding_length", model.hidden_size);
    keys.number("block_count", model.num_layers);
    keys.number("feed_forward_length", model.intermediate_size);
    keys.number("attention.head_count", model.num_heads);
    keys.number("attention.head_count_kv", model.num_kv_heads);
    keys.number("attention.key_length", model.head_dim);
    keys.number("attention.value_length", model.head_dim);
    let epsilon = if arch.has_layer_norm() {
        "attention.layer_norm_epsilon"
    } else {
        "attention.layer_norm_rms_epsilon"
    };
    keys.float(epsilon, model.norm_eps);
    let windows: Vec<Option<usize>> = layers.iter().map(|layer| window(model, layer)).collect();
    let sliding: Vec<bool> = windows.iter().map(Option::is_some).collect();
    if let Some(window) = windows.iter().flatten().next() {
        keys.number("attention.sliding_window", *window);
        keys.add("attention.sliding_window_pattern", Value::from(sliding.clone()));
    } else if arch == Arch::GraniteSwa {
        // llama.cpp needs a layer with a window. A window as wide as the context has no effect.
        let first: Vec<bool> = (0..layers.len()).map(|layer| layer == 0).collect();
        keys.number("attention.sliding_window", model.max_position_embeddings);
        keys.add("attention.sliding_window_pattern", Value::from(first));
    } else if arch == Arch::Phi3 {
        // llama.cpp sets a default if the key is absent.
        keys.number("attention.sliding_window", 0);
    }
    if arch == Arch::GraniteSwa {
        let rotates: Vec<bool> = layers.iter().map(|layer| layer.rotary.is_some()).collect();
        keys.add("attention.rope_pattern", Value::from(rotates));
    }
    if arch.has_multipliers() {
        // If absent, llama.cpp derives it from the width of a head.
        if let Some(scale) = layers.first().and_then(|layer| layer.attention_scale) {
            keys.float("attention.scale", scale);
        }
        keys.float("embedding_scale", model.embedding_multiplier);
        keys.float("residual_scale", model.residual_multiplier);
        keys.float("logit_scale", 1.0 / model.logit_multiplier);
    }
    if matches!(arch, Arch::GptNeox | Arch::StableLm) {
        keys.add("use_parallel_residual", Value::from(model.parallel_residual));
    }
    let local = layers.iter().zip(&sliding).find(|(_, sliding)| **sliding).map(|(layer, _)| layer);
    let global = layers.iter().zip(&sliding).find(|(layer, sliding)| !**sliding && layer.rotary.is_some());
    let global = global.map(|(layer, _)| layer).or(layers.iter().find(|layer| layer.rotary.is_some()));
    if let Some(rotary) = global.and_then(|layer| layer.rotary.as_ref()) {
        keys.rotary(model, rotary);
    }
    if let (Arch::Gemma3, Some(rotary)) = (arch, local.and_then(|layer| layer.rotary.as_ref())) {
        keys.float("rope.freq_base_swa", rotary.theta);
    }
    keys.list
}

/// The tensors that `arch` needs in addition to the weights of `model`.
pub(crate) fn extras(arch: Arch, model: &ModelConfig) -> Vec<Extra> {
    let mut extras = Vec::new();
    let layers = model.layers();
    let rotary = layers.iter().find_map(|layer| layer.rotary.as_ref());
    match rotary.map(|rotary| (rotary, rotary.scaling.as_ref())) {
        Some((rotary, Some(RopeScaling::Llama3 { .. }))) => {
            let values = llama3_divisors(rotary, model.head_dim).unwrap_or_default();
            extras.push(Extra { name: names::ROPE_FREQS.to_owned(), values });
        }
        Some((_, Some(RopeScaling::LongRope { short_factor, long_factor, .. }))) => {
            let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
            extras.push(Extra { name: names::ROPE_LONG.to_owned(), values: narrow(long_factor) });
            extras.push(Extra { name: names::ROPE_SHORT.to_owned(), values: narrow(short_factor) });
        }
        _ => {}
    }
    if arch == Arch::GraniteSwa {
        extras.extend((0..model.num_layers).map(|index| Extra {
            name: names::in_layer(index, "attn_sinks", "weight"),
            values: vec![NO_SINK; model.num_heads],
        }));
    }
    extras
}

/// The divisor of each rotary frequency in the scaling of Llama 3; `None` for other scalings.
pub(crate) fn llama3_divisors(rotary: &RotaryConfig, head_dim: usize) -> Option<Vec<f32>> {
    let Some(RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    }) = rotary.scaling
    else {
        return None;
    };
    let dims = rotary.dims.unwrap_or(head_dim);
    let divisor = |pair: usize| {
        let frequency = rotary.theta.powf(-((2 * pair) as f64) / dims as f64);
        let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
        let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
        (1.0 / (kept + (1.0 - kept) / factor)) as f32
    };
    Some((0..dims / 2).map(divisor).collect())
}

/// The factor of sines and cosines that llama.cpp computes for YaRN.
pub(crate) fn yarn_attention_factor(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

struct Keys {
    arch: &'static str,
    list: Vec<(String, Value)>,
}

impl Keys {
    fn add(&mut self, key: &str, value: Value) {
        self.list.push((format!("{}.{key}", self.arch), value));
    }

    fn number(&mut self, key: &str, value: usize) {
        // Sizes of models fit: a checkpoint is validated when it is opened.
        self.add(key, Value::U32(u32::try_from(value).unwrap_or(u32::MAX)));
    }

    fn float(&mut self, key: &str, value: f64) {
        self.add(key, Value::F32(value as f32));
    }

    fn rotary(&mut self, model: &ModelConfig, rotary: &RotaryConfig) {
        self.number("rope.dimension_count", rotary.dims.unwrap_or(model.head_dim));
        self.float("rope.freq_base", rotary.theta);
        match &rotary.scaling {
            // No key can represent dynamic scaling; such models were rejected before.
            None | Some(RopeScaling::Dynamic { .. }) => {}
            Some(RopeScaling::Linear { factor }) => {
                self.add("rope.scaling.type", Value::from("linear"));
                self.float("rope.scaling.factor", *factor);
            }
            // The divisors are stored as a tensor. These keys are for importing the file again.
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }) => {
                for (key, value) in [
                    ("factor", *factor),
                    ("low_freq_factor", *low_freq_factor),
                    ("high_freq_factor", *high_freq_factor),
                    ("original_context_length", *original_max_position_embeddings as f64),
                ] {
                    self.list.push((format!("{OWN}.rope.llama3.{key}"), Value::F64(value)));
                }
            }
            Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate: _,
            }) => {
                self.add("rope.scaling.type", Value::from("yarn"));
                self.float("rope.scaling.factor", *factor);
                self.number("rope.scaling.original_context_length", *original_max_position_embeddings);
                self.float("rope.scaling.yarn_beta_fast", *beta_fast);
                self.float("rope.scaling.yarn_beta_slow", *beta_slow);
                let own = attention_factor / yarn_attention_factor(*factor);
                if (own - 1.0).abs() > 1e-9 {
                    self.float("rope.scaling.attn_factor", own);
                }
            }
            Some(RopeScaling::LongRope { original_max_position_embeddings, attention_factor, .. }) => {
                if self.arch != Arch::Phi3.name() {
                    self.add("rope.scaling.type", Value::from("longrope"));
                }
                self.number("rope.scaling.original_context_length", *original_max_position_embeddings);
                self.float("rope.scaling.attn_factor", *attention_factor);
            }
        }
    }
}
