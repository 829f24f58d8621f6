use std::path::Path;

use serde_json::{Map, Value, json};
use slm_model::{AttentionBias, MlpKind, ModelConfig, NormKind, Position, RopeScaling};

use super::{Family, parse};
use crate::Error;

/// What every Llama-like config has.
fn base(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    })
}

fn gpt2() -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"], "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 32, "layer_norm_epsilon": 1e-5,
    })
}

/// `base` with the fields of `changes`.
fn with(mut base: Value, changes: Value) -> Map<String, Value> {
    for (name, value) in changes.as_object().unwrap() {
        base[name] = value.clone();
    }
    base.as_object().unwrap().clone()
}

fn model(base: Value, changes: Value) -> ModelConfig {
    let parsed = parse(Path::new("config.json"), &with(base, changes)).unwrap();
    assert_eq!(parsed.unrecognized, [""; 0]);
    parsed.model
}

#[track_caller]
fn refused(base: Value, changes: Value, field: &str) -> Error {
    let error = parse(Path::new("config.json"), &with(base, changes)).err().unwrap();
    let message = error.to_string();
    assert!(message.contains(field) && message.contains("config.json"), "{field:?} is not in: {message}");
    error
}

const LLAMA: &str = "LlamaForCausalLM";
const MISTRAL: &str = "MistralForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";
const QWEN3: &str = "Qwen3ForCausalLM";

#[test]
fn absent_fields_mean_what_they_mean_in_each_family() {
    let llama = model(base(LLAMA), json!({ "num_key_value_heads": null }));
    assert_eq!((llama.num_kv_heads, llama.head_dim), (4, 16));
    assert_eq!(llama.position, Position::Rotary { theta: 10_000.0, scaling: None });
    assert_eq!((llama.norm, llama.mlp), (NormKind::RmsNorm, MlpKind::SwiGlu));
    assert_eq!((llama.tie_word_embeddings, llama.sliding_window, llama.qk_norm), (false, None, false));
    assert_eq!((llama.attention_bias, llama.mlp_bias), (AttentionBias::None, false));

    let mistral = model(base(MISTRAL), json!({}));
    assert_eq!((mistral.sliding_window, mistral.tie_word_embeddings), (Some(4096), false));
    let qwen2 = model(base(QWEN2), json!({}));
    assert_eq!(qwen2.attention_bias, AttentionBias::Qkv);
    assert_eq!((qwen2.sliding_window, qwen2.tie_word_embeddings, qwen2.qk_norm), (None, false, false));
    let qwen3 = model(base(QWEN3), json!({}));
    assert_eq!((qwen3.head_dim, qwen3.qk_norm, qwen3.attention_bias), (128, true, AttentionBias::None));

    let gpt2 = model(gpt2(), json!({ "n_inner": null }));
    assert_eq!((gpt2.intermediate_size, gpt2.tie_word_embeddings), (256, true));
    assert_eq!(
        (gpt2.norm, gpt2.mlp, gpt2.position),
        (NormKind::LayerNorm, MlpKind::GeluTanh, Position::Learned)
    );
    assert_eq!((gpt2.attention_bias, gpt2.mlp_bias), (AttentionBias::All, true));
}

#[test]
fn given_fields_are_kept() {
    let llama = model(
        base(LLAMA),
        json!({ "attention_bias": true, "mlp_bias": true, "head_dim": 24,
        "tie_word_embeddings": true, "rope_theta": 500, "hidden_act": "swish" }),
    );
    assert_eq!((llama.attention_bias, llama.mlp_bias), (AttentionBias::All, true));
    assert_eq!((llama.head_dim, llama.tie_word_embeddings), (24, true));
    assert_eq!(llama.position, Position::Rotary { theta: 500.0, scaling: None });
    assert_eq!(model(base(MISTRAL), json!({ "sliding_window": null })).sliding_window, None);
    assert_eq!(model(base(MISTRAL), json!({ "sliding_window": 7 })).sliding_window, Some(7));
    assert_eq!(model(base(QWEN3), json!({ "attention_bias": true })).attention_bias, AttentionBias::All);
    let changes = json!({ "n_inner": 80, "activation_function": "gelu", "tie_word_embeddings": false });
    let gpt2 = model(gpt2(), changes);
    assert_eq!((gpt2.intermediate_size, gpt2.mlp, gpt2.tie_word_embeddings), (80, MlpKind::Gelu, false));
}

#[test]
fn rotary_positions_in_both_styles() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let expected = Position::Rotary { theta: 5e5, scaling: Some(scaling) };
    let old = json!({ "rope_theta": 5e5, "rope_scaling": llama3 });
    assert_eq!(model(base(LLAMA), old).position, expected);
    let mut new = llama3.clone();
    new["rope_theta"] = json!(5e5);
    assert_eq!(model(base(LLAMA), json!({ "rope_parameters": new })).position, expected);
    let both = json!({ "rope_theta": 5e5, "rope_scaling": llama3, "rope_parameters": new });
    assert_eq!(model(base(LLAMA), both).position, expected);

    let linear = json!({ "rope_scaling": { "type": "linear", "factor": 4 } });
    let expected = Position::Rotary { theta: 1e4, scaling: Some(RopeScaling::Linear { factor: 4.0 }) };
    assert_eq!(model(base(LLAMA), linear).position, expected);
    let default = json!({ "rope_scaling": { "rope_type": "default" }, "rope_theta": 3e4 });
    assert_eq!(model(base(LLAMA), default).position, Position::Rotary { theta: 3e4, scaling: None });
}

#[test]
fn rotary_positions_that_are_not_supported() {
    let refused = |changes: Value, field: &str| refused(base(LLAMA), changes, field);
    for kind in ["yarn", "dynamic", "longrope"] {
        let error = refused(json!({ "rope_scaling": { "rope_type": kind, "factor": 2 } }), kind);
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
    refused(json!({ "rope_scaling": { "type": "linear", "factor": 2, "beta": 1 } }), "rope_scaling.beta");
    refused(json!({ "rope_scaling": { "type": "linear" } }), "rope_scaling.factor");
    refused(json!({ "rope_scaling": { "type": "linear", "factor": 0.5 } }), "factor");
    refused(json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } }), "full_attention");
    refused(json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }), "partial_rotary_factor");
    refused(json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor");
    refused(json!({ "rope_interleaved": true }), "rope_interleaved");
    refused(json!({ "rope_theta": 1e4, "rope_parameters": { "rope_theta": 2e4 } }), "rope_theta");
    let both = json!({ "rope_scaling": { "type": "linear", "factor": 2 }, "rope_parameters": { "rope_theta": 1e4 } });
    refused(both, "rope_parameters");
    assert_eq!(
        model(base(LLAMA), json!({ "partial_rotary_factor": 1, "rope_interleaved": false })),
        model(base(LLAMA), json!({}))
    );
}

#[test]
fn a_window_is_that_of_all_layers_or_refused() {
    let window = |changes: Value| model(base(QWEN2), changes).sliding_window;
    let on = |max_window_layers: usize| json!({ "use_sliding_window": true, "sliding_window": 9, "max_window_layers": max_window_layers });
    assert_eq!(
        window(json!({ "use_sliding_window": false, "sliding_window": 9, "max_window_layers": 2 })),
        None
    );
    assert_eq!(window(on(3)), None);
    assert_eq!(window(on(0)), Some(9));
    let error = refused(base(QWEN2), on(2), "max_window_layers");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");

    let types = |types: [&str; 3]| json!({ "layer_types": types });
    let (full, sliding) = ("full_attention", "sliding_attention");
    assert_eq!(model(base(QWEN3), types([full; 3])).sliding_window, None);
    assert_eq!(model(base(MISTRAL), types([sliding; 3])).sliding_window, Some(4096));
    assert_eq!(model(base(MISTRAL), types([full; 3])).sliding_window, None);
    refused(base(QWEN3), types([full, sliding, full]), "layer_types");
    refused(base(QWEN3), types(["chunked_attention"; 3]), "layer_types");
    refused(base(QWEN3), types([sliding; 3]), "sliding_window");
    refused(base(QWEN3), json!({ "layer_types": [full] }), "layer_types");
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    for (changes, field) in [
        (json!({ "hidden_act": "gelu" }), "hidden_act"),
        (json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
        (json!({ "no_rope_layers": [1, 0, 1] }), "no_rope_layers"),
        (json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping"),
        (json!({ "final_logit_softcapping": 30.0 }), "final_logit_softcapping"),
        (json!({ "query_pre_attn_scalar": 20 }), "query_pre_attn_scalar"),
    ] {
        assert!(matches!(refused(base(LLAMA), changes, field), Error::Unsupported { .. }));
    }
    for (changes, field) in [
        (json!({ "activation_function": "relu" }), "activation_function"),
        (json!({ "scale_attn_weights": false }), "scale_attn_weights"),
        (json!({ "scale_attn_by_inverse_layer_idx": true }), "scale_attn_by_inverse_layer_idx"),
        (json!({ "add_cross_attention": true }), "add_cross_attention"),
    ] {
        assert!(matches!(refused(gpt2(), changes, field), Error::Unsupported { .. }));
    }
    for architectures in [json!([]), json!(["LlamaModel"]), json!([LLAMA, MISTRAL]), Value::Null] {
        let error = refused(base(LLAMA), json!({ "architectures": architectures }), "Qwen3ForCausalLM");
        assert!(matches!(error, Error::Architecture { .. }), "{error}");
    }
}

#[test]
fn impossible_values_are_refused_by_name() {
    for (changes, field) in [
        (json!({ "vocab_size": null }), "vocab_size"),
        (json!({ "hidden_size": "64" }), "hidden_size"),
        (json!({ "hidden_size": -1 }), "hidden_size"),
        (json!({ "num_attention_heads": 0 }), "num_attention_heads"),
        (json!({ "num_attention_heads": 5 }), "num_attention_heads"),
        (json!({ "num_key_value_heads": 3 }), "num_kv_heads"),
        (json!({ "rms_norm_eps": null }), "rms_norm_eps"),
        (json!({ "tie_word_embeddings": 1 }), "tie_word_embeddings"),
        (json!({ "rope_scaling": "linear" }), "rope_scaling"),
    ] {
        refused(base(LLAMA), changes, field);
    }
    refused(base(MISTRAL), json!({ "num_key_value_heads": null }), "num_key_value_heads");
    refused(gpt2(), json!({ "n_head": 5 }), "n_head");
    refused(gpt2(), json!({ "n_embd": u64::MAX }), "n_");
}

#[test]
fn fields_that_are_not_known_are_reported() {
    let config = with(base(LLAMA), json!({ "secret_gate": 2, "torch_dtype": "bfloat16", "use_cache": true }));
    let parsed = parse(Path::new("config.json"), &config).unwrap();
    assert_eq!(parsed.unrecognized, ["secret_gate"]);
    assert_eq!((parsed.family, parsed.architecture), (Family::Llama, LLAMA));
}
