use serde_json::{Map, Value, json};

use super::read_config;
use crate::config::{
    AttentionBias, MlpKind, ModelConfig, NormKind, NormPlacement, Position, QkNorm, RopeScaling, RotaryConfig,
};
use crate::error::Error;
use crate::names::expected_tensors;

/// Fields that every Llama-like config has.
fn base(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    })
}

/// [`base`] without some of its fields, for which the architecture has other names.
fn base_without(architecture: &str, fields: &[&str]) -> Value {
    let mut base = base(architecture);
    fields.iter().for_each(|field| drop(base.as_object_mut().unwrap().remove(*field)));
    base
}

fn gpt2() -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"], "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 32, "layer_norm_epsilon": 1e-5,
    })
}

fn rotary(theta: f64, scaling: RopeScaling) -> Position {
    Position::Rotary(RotaryConfig { scaling: Some(scaling), ..RotaryConfig::new(theta) })
}

/// `base` with the fields of `changes`.
fn with(mut base: Value, changes: Value) -> Map<String, Value> {
    for (name, value) in changes.as_object().unwrap() {
        base[name] = value.clone();
    }
    base.as_object().unwrap().clone()
}

fn model(base: Value, changes: Value) -> ModelConfig {
    let parsed = read_config(&with(base, changes)).unwrap();
    assert_eq!(parsed.unrecognized, [""; 0]);
    parsed.model
}

#[track_caller]
fn refused(base: Value, changes: Value, field: &str) -> Error {
    let error = read_config(&with(base, changes)).err().unwrap();
    let message = error.to_string();
    assert!(message.contains(field), "{field:?} is not in: {message}");
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
    assert_eq!(llama.position, Position::Rotary(RotaryConfig::new(10_000.0)));
    assert_eq!((llama.norm, llama.mlp), (NormKind::RmsNorm, MlpKind::SwiGlu));
    assert_eq!((llama.tie_word_embeddings, llama.sliding_window, llama.qk_norm), (false, None, QkNorm::None));
    assert_eq!((llama.attention_bias, llama.mlp_bias), (AttentionBias::None, false));

    let mistral = model(base(MISTRAL), json!({}));
    assert_eq!((mistral.sliding_window, mistral.tie_word_embeddings), (Some(4096), false));
    let qwen2 = model(base(QWEN2), json!({}));
    assert_eq!(qwen2.attention_bias, AttentionBias::Qkv);
    assert_eq!((qwen2.sliding_window, qwen2.tie_word_embeddings, qwen2.qk_norm), (None, false, QkNorm::None));
    let qwen3 = model(base(QWEN3), json!({}));
    assert_eq!(
        (qwen3.head_dim, qwen3.qk_norm, qwen3.attention_bias),
        (128, QkNorm::PerHead, AttentionBias::None)
    );

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
    assert_eq!(llama.position, Position::Rotary(RotaryConfig::new(500.0)));
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
    let expected = rotary(5e5, scaling);
    let old = json!({ "rope_theta": 5e5, "rope_scaling": llama3 });
    assert_eq!(model(base(LLAMA), old).position, expected);
    let mut new = llama3.clone();
    new["rope_theta"] = json!(5e5);
    assert_eq!(model(base(LLAMA), json!({ "rope_parameters": new })).position, expected);
    let both = json!({ "rope_theta": 5e5, "rope_scaling": llama3, "rope_parameters": new });
    assert_eq!(model(base(LLAMA), both).position, expected);

    let linear = json!({ "rope_scaling": { "type": "linear", "factor": 4 } });
    let expected = rotary(1e4, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(model(base(LLAMA), linear).position, expected);
    let default = json!({ "rope_scaling": { "rope_type": "default" }, "rope_theta": 3e4 });
    assert_eq!(model(base(LLAMA), default).position, Position::Rotary(RotaryConfig::new(3e4)));
}

#[test]
fn rotary_positions_that_are_not_supported() {
    let refused = |changes: Value, field: &str| refused(base(LLAMA), changes, field);
    for kind in ["proportional", "axial", "ntk"] {
        let error = refused(json!({ "rope_scaling": { "rope_type": kind, "factor": 2 } }), kind);
        assert!(matches!(error, Error::HfUnsupported { .. }), "{error}");
    }
    refused(json!({ "rope_scaling": { "type": "dynamic" } }), "rope_scaling.factor");
    refused(
        json!({ "rope_scaling": { "type": "longrope", "long_factor": [1] } }),
        "rope_scaling.short_factor",
    );
    refused(json!({ "rope_scaling": { "type": "longrope", "short_factor": ["a"] } }), "a list of numbers");
    let few = json!({ "type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2] });
    refused(json!({ "rope_scaling": few }), "8 pairs");
    let none = json!({ "type": "yarn", "factor": 2, "original_max_position_embeddings": 0 });
    refused(json!({ "rope_scaling": none }), "rope_scaling.original_max_position_embeddings");
    refused(json!({ "rope_scaling": { "type": "linear" } }), "rope_scaling.factor");
    refused(json!({ "rope_scaling": { "type": "linear", "factor": 0.5 } }), "factor");
    let linear = json!({ "type": "linear", "factor": 2, "partial_rotary_factor": 0.5 });
    refused(json!({ "rope_scaling": linear }), "rope_scaling.partial_rotary_factor");
    let beside = json!({ "rope_scaling": { "type": "linear", "factor": 2 }, "partial_rotary_factor": 0.5 });
    refused(beside, "partial_rotary_factor");
    assert_eq!(
        model(base(LLAMA), json!({ "partial_rotary_factor": 1, "rope_interleaved": false })),
        model(base(LLAMA), json!({}))
    );
}

#[test]
fn windows_of_all_layers_and_of_some() {
    let window = |changes: Value| model(base(QWEN2), changes).sliding_window;
    let on = |max_window_layers: usize| json!({ "use_sliding_window": true, "sliding_window": 9, "max_window_layers": max_window_layers });
    assert_eq!(
        window(json!({ "use_sliding_window": false, "sliding_window": 9, "max_window_layers": 2 })),
        None
    );
    assert_eq!(window(on(3)), None);
    assert_eq!(window(on(0)), Some(9));
    assert_eq!(windows(&model(base(QWEN2), on(2))), [None, None, Some(9)]);

    let types = |types: [&str; 3]| json!({ "layer_types": types });
    let (full, sliding) = ("full_attention", "sliding_attention");
    assert_eq!(model(base(QWEN3), types([full; 3])).sliding_window, None);
    assert_eq!(model(base(MISTRAL), types([sliding; 3])).sliding_window, Some(4096));
    assert_eq!(model(base(MISTRAL), types([full; 3])).sliding_window, None);
    assert_eq!(windows(&model(base(MISTRAL), types([full, sliding, full]))), [None, Some(4096), None]);
    let some = model(
        base(QWEN3),
        json!({ "layer_types": [sliding, full, sliding], "use_sliding_window": true, "sliding_window": 5 }),
    );
    assert_eq!(windows(&some), [Some(5), None, Some(5)]);
    // The config describes most layers, and one override describes the others.
    assert_eq!((some.sliding_window, some.layer_overrides.len()), (Some(5), 1));
    refused(base(QWEN3), types([full, sliding, full]), "layer_types");
    refused(base(QWEN3), types(["chunked_attention"; 3]), "layer_types");
    refused(base(QWEN3), types([sliding; 3]), "sliding_window");
    refused(base(QWEN3), json!({ "layer_types": [full] }), "layer_types");
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    for (changes, field) in [
        (json!({ "hidden_act": "relu" }), "hidden_act"),
        (json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
        (json!({ "no_rope_layers": [1, 0, 1] }), "no_rope_layers"),
        (json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping"),
        (json!({ "final_logit_softcapping": 30.0 }), "final_logit_softcapping"),
        (json!({ "query_pre_attn_scalar": 20 }), "query_pre_attn_scalar"),
    ] {
        assert!(matches!(refused(base(LLAMA), changes, field), Error::HfUnsupported { .. }));
    }
    for (changes, field) in [
        (json!({ "activation_function": "relu" }), "activation_function"),
        (json!({ "add_cross_attention": true }), "add_cross_attention"),
    ] {
        assert!(matches!(refused(gpt2(), changes, field), Error::HfUnsupported { .. }));
    }
    for architectures in
        [json!([]), json!(["LlamaForTokenClassification"]), json!([LLAMA, MISTRAL]), Value::Null]
    {
        let error = refused(base(LLAMA), json!({ "architectures": architectures }), "Qwen3ForCausalLM");
        assert!(matches!(error, Error::HfArchitecture { .. }), "{error}");
    }
}

#[test]
fn impossible_values_are_refused_by_name() {
    for (changes, field) in [
        (json!({ "vocab_size": null }), "vocab_size"),
        (json!({ "hidden_size": "64" }), "hidden_size"),
        (json!({ "hidden_size": -1 }), "hidden_size"),
        (json!({ "num_hidden_layers": u64::MAX }), "num_hidden_layers"),
        (json!({ "num_attention_heads": 0 }), "num_attention_heads"),
        (json!({ "num_attention_heads": 5 }), "num_attention_heads"),
        (json!({ "num_key_value_heads": 3 }), "num_kv_heads"),
        (json!({ "rms_norm_eps": null }), "rms_norm_eps"),
        (json!({ "tie_word_embeddings": 1 }), "tie_word_embeddings"),
        (json!({ "rope_scaling": "linear" }), "rope_scaling"),
    ] {
        refused(base(LLAMA), changes, field);
    }
    refused(base(MISTRAL), json!({ "num_key_value_heads": "2" }), "num_key_value_heads");
    refused(gpt2(), json!({ "hidden_size": 32 }), "hidden_size");
    refused(gpt2(), json!({ "n_head": 5 }), "n_head");
    refused(gpt2(), json!({ "n_layer": u64::MAX }), "n_layer");
    for known in super::ARCHITECTURES.iter().filter(|known| !known.name.starts_with("GPT2")) {
        let changes =
            json!({ "num_hidden_layers": u64::MAX, "use_sliding_window": true, "sliding_window": 4 });
        refused(base(known.name), changes, "num_hidden_layers");
    }
    refused(gpt2(), json!({ "n_embd": u64::MAX }), "n_");
}

#[test]
fn numbers_may_be_written_with_a_point_and_fields_may_be_null() {
    let plain = model(base(LLAMA), json!({}));
    let changes =
        json!({ "hidden_size": 64.0, "secret_gate": null, "id2label": { "0": "a" }, "pruned_heads": {} });
    let parsed = read_config(&with(base(LLAMA), changes)).unwrap();
    assert_eq!((parsed.model, parsed.unrecognized), (plain, vec![]));
    refused(base(LLAMA), json!({ "hidden_size": 64.5 }), "hidden_size");
    refused(base(LLAMA), json!({ "pruned_heads": { "1": [0] } }), "pruned_heads");
    let granite = base("GraniteForCausalLM");
    refused(granite, json!({ "logits_scaling": 0 }), "logits_scaling");
    // A long list is cut.
    let message = refused(base("Qwen2ForCausalLM"), json!({ "layer_types": vec!["x"; 999] }), "layer_types");
    assert!(message.to_string().len() < 600, "{message}");
}

#[test]
fn fields_that_are_not_known_are_reported() {
    let config = with(base(LLAMA), json!({ "secret_gate": 2, "torch_dtype": "bfloat16", "use_cache": true }));
    let parsed = read_config(&config).unwrap();
    assert_eq!(parsed.unrecognized, ["secret_gate"]);
    assert_eq!(parsed.architecture.name, LLAMA);
}

fn windows(model: &ModelConfig) -> Vec<Option<usize>> {
    model.layers().iter().map(|layer| layer.sliding_window).collect()
}

#[test]
fn model_type_stands_in_for_absent_architectures() {
    let mut config = with(base(LLAMA), json!({ "model_type": "qwen3" }));
    assert_eq!(read_config(&config).unwrap().architecture.name, LLAMA);
    config.insert("architectures".into(), json!([]));
    assert_eq!(read_config(&config).unwrap().architecture.name, QWEN3);
    config.remove("architectures");
    assert_eq!(read_config(&config).unwrap().architecture.name, QWEN3);
    config.insert("model_type".into(), json!("mamba"));
    let message = read_config(&config).unwrap_err().to_string();
    assert!(message.contains("mamba") && message.contains(QWEN3), "{message}");
}

#[test]
fn original_positions_beside_the_scaling_win_over_those_inside() {
    let mut scaling =
        json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4 });
    let original = |scaling: &Value, beside: Option<u64>| {
        let changes = json!({ "rope_scaling": scaling, "original_max_position_embeddings": beside });
        match model(base(LLAMA), changes).position {
            Position::Rotary(RotaryConfig {
                scaling: Some(RopeScaling::Llama3 { original_max_position_embeddings, .. }),
                ..
            }) => original_max_position_embeddings,
            position => panic!("{position:?}"),
        }
    };
    assert_eq!(original(&scaling, Some(32)), 32);
    scaling["original_max_position_embeddings"] = 64.into();
    assert_eq!(original(&scaling, None), 64);
    assert_eq!(original(&scaling, Some(128)), 128);
}

#[test]
fn smollm3_leaves_out_rotary_positions() {
    let rotates = |changes: Value| -> Vec<bool> {
        let model = model(base("SmolLM3ForCausalLM"), changes);
        assert!(model.tie_word_embeddings);
        model.layers().iter().map(|layer| layer.rotary.is_some()).collect()
    };
    assert_eq!(rotates(json!({ "no_rope_layers": [1, 0, 1] })), [true, false, true]);
    assert_eq!(rotates(json!({ "no_rope_layers": [0, 0, 1] })), [false, false, true]);
    assert_eq!(rotates(json!({ "no_rope_layer_interval": 2 })), [true, false, true]);
    assert_eq!(rotates(json!({})), [true; 3]);
    let refused = |changes, field| refused(base("SmolLM3ForCausalLM"), changes, field);
    refused(json!({ "no_rope_layers": [1, 2, 1] }), "no_rope_layers");
    refused(json!({ "no_rope_layers": [1] }), "no_rope_layers");
    refused(json!({ "no_rope_layer_interval": 0 }), "no_rope_layer_interval");
}

#[test]
fn gemma3_has_two_types_of_layers() {
    let base = || base_without("Gemma3ForCausalLM", &["hidden_act"]);
    let old = model(
        base(),
        json!({ "query_pre_attn_scalar": 16, "sliding_window": 7, "sliding_window_pattern": 3,
        "rope_scaling": { "rope_type": "linear", "factor": 8 } }),
    );
    assert_eq!(windows(&old), [Some(7), Some(7), None]);
    assert_eq!((old.head_dim, old.attention_scale, old.embedding_multiplier), (256, Some(0.25), 8.0));
    assert_eq!((old.norm_placement, old.mlp), (NormPlacement::Both, MlpKind::GeGluTanh));
    let layers = old.layers();
    assert_eq!(layers[0].rotary, Some(RotaryConfig::new(1e4)));
    let scaling = Some(RopeScaling::Linear { factor: 8.0 });
    assert_eq!(layers[2].rotary, Some(RotaryConfig { scaling, ..RotaryConfig::new(1e6) }));
    let linear = json!({ "rope_type": "linear", "rope_theta": 1e6, "factor": 8 });
    let parameters = json!({ "full_attention": linear, "sliding_attention": { "rope_theta": 1e4 } });
    let new = model(
        base(),
        json!({ "query_pre_attn_scalar": 16, "sliding_window": 7, "rope_parameters": parameters,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] }),
    );
    assert_eq!(new, old);
    let flat = json!({ "query_pre_attn_scalar": 16, "sliding_window": 7, "sliding_window_pattern": 3,
        "rope_parameters": { "rope_type": "linear", "factor": 8 } });
    let parsed = read_config(&with(base(), flat)).unwrap();
    assert_eq!(parsed.model.layers()[0].rotary, Some(RotaryConfig::new(1e4)));
    assert_eq!(parsed.model.layers()[2].rotary, Some(RotaryConfig::new(1e6)));
    assert!(
        parsed.notes.iter().any(|note| note.contains("rope_parameters.full_attention")),
        "{:?}",
        parsed.notes
    );
    refused(base(), json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention");
    refused(base(), json!({ "final_logit_softcapping": 30.0 }), "final_logit_softcapping");
}

#[test]
fn shares_of_heads_in_both_styles() {
    let dims_of = |base: Value, changes: Value| match model(base, changes).position {
        Position::Rotary(rotary) => rotary.dims,
        other => panic!("{other:?}"),
    };
    let dims = |class: &str, changes: Value| dims_of(base(class), changes);
    let stablelm = base_without("StableLmForCausalLM", &["rms_norm_eps"]);
    assert_eq!(dims_of(stablelm, json!({ "layer_norm_eps": 1e-5 })), Some(4));
    assert_eq!(dims("Phi3ForCausalLM", json!({})), None);
    assert_eq!(dims("Phi3ForCausalLM", json!({ "partial_rotary_factor": 0.5 })), Some(8));
    let parameters = json!({ "rope_parameters": { "rope_theta": 1e4, "partial_rotary_factor": 0.75 } });
    assert_eq!(dims("Phi3ForCausalLM", parameters), Some(12));
    refused(base("Phi3ForCausalLM"), json!({ "partial_rotary_factor": 0.0 }), "partial_rotary_factor");
    refused(base("Phi3ForCausalLM"), json!({ "partial_rotary_factor": 0.2 }), "dims");
    refused(base("StableLmForCausalLM"), json!({ "qk_layernorm": true }), "qk_layernorm");
}

/// The model of a config whose reading produces a note that contains `part`.
fn noted(base: Value, changes: Value, part: &str) -> ModelConfig {
    let parsed = read_config(&with(base, changes)).unwrap();
    assert!(parsed.notes.iter().any(|note| note.contains(part)), "{part:?} is not in {:?}", parsed.notes);
    parsed.model
}

#[test]
fn absent_sizes_are_those_of_the_class() {
    for (class, absent, expected) in [
        (LLAMA, "max_position_embeddings", 2048),
        (MISTRAL, "max_position_embeddings", 131_072),
        (QWEN2, "max_position_embeddings", 32_768),
        (QWEN3, "max_position_embeddings", 32_768),
        ("GPTNeoXForCausalLM", "max_position_embeddings", 2048),
        ("SmolLM3ForCausalLM", "max_position_embeddings", 32_768),
        ("Gemma3ForCausalLM", "max_position_embeddings", 131_072),
        ("Phi3ForCausalLM", "max_position_embeddings", 4096),
        ("Olmo2ForCausalLM", "max_position_embeddings", 2048),
        ("GraniteForCausalLM", "max_position_embeddings", 2048),
        ("StableLmForCausalLM", "max_position_embeddings", 4096),
        ("GPT2LMHeadModel", "n_positions", 1024),
    ] {
        let mut base = if class.starts_with("GPT2") { gpt2() } else { base(class) };
        // Fields that these classes name differently or do not have are ignored.
        base["num_key_value_heads"] = if class == "GPTNeoXForCausalLM" { 4.into() } else { 2.into() };
        base.as_object_mut().unwrap().remove(absent);
        assert_eq!(noted(base, json!({}), absent).max_position_embeddings, expected, "{class}");
    }
    for (class, field, eps) in [
        (LLAMA, "rms_norm_eps", 1e-6),
        (MISTRAL, "rms_norm_eps", 1e-6),
        (QWEN2, "rms_norm_eps", 1e-6),
        (QWEN3, "rms_norm_eps", 1e-6),
        ("GPTNeoXForCausalLM", "layer_norm_eps", 1e-5),
        ("SmolLM3ForCausalLM", "rms_norm_eps", 1e-6),
        ("Gemma3ForCausalLM", "rms_norm_eps", 1e-6),
        ("Phi3ForCausalLM", "rms_norm_eps", 1e-5),
        ("Olmo2ForCausalLM", "rms_norm_eps", 1e-5),
        ("GraniteForCausalLM", "rms_norm_eps", 1e-6),
        ("StableLmForCausalLM", "layer_norm_eps", 1e-5),
    ] {
        let mut base = base_without(class, &["rms_norm_eps"]);
        base["num_key_value_heads"] = 4.into();
        assert_eq!(noted(base, json!({}), field).norm_eps, eps, "{class}");
    }
    for (class, kv_heads) in
        [(MISTRAL, 8), (QWEN2, 32), (QWEN3, 32), ("Gemma3ForCausalLM", 4), ("SmolLM3ForCausalLM", 4)]
    {
        let base = base_without(class, &["num_key_value_heads"]);
        let model = noted(base, json!({ "num_attention_heads": 32 }), "num_key_value_heads");
        assert_eq!(model.num_kv_heads, kv_heads, "{class}");
    }
    for class in [MISTRAL, QWEN2, "SmolLM3ForCausalLM", "StableLmForCausalLM"] {
        let base = base_without(class, &["rms_norm_eps"]);
        let parsed = read_config(&with(base, json!({ "num_key_value_heads": null }))).unwrap();
        assert_eq!(parsed.model.num_kv_heads, 4, "null means as many as heads: {class}");
    }
}

#[test]
fn what_is_said_twice_is_read_as_transformers_reads_it() {
    let position = |changes: Value, part: &str| noted(base(LLAMA), changes, part).position;
    let linear = json!({ "type": "linear", "factor": 2 });
    let both = json!({ "rope_scaling": linear, "rope_parameters": { "rope_theta": 2e4 } });
    assert_eq!(position(both, "rope_parameters"), rotary(1e4, RopeScaling::Linear { factor: 2.0 }));
    let bases = json!({ "rope_theta": 1e4, "rope_parameters": { "rope_theta": 2e4 } });
    assert_eq!(position(bases, "rope_theta"), Position::Rotary(RotaryConfig::new(2e4)));
    let plain = Position::Rotary(RotaryConfig::new(1e4));
    assert_eq!(
        position(json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }), "partial_rotary_factor"),
        plain
    );
    assert_eq!(position(json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"), plain);
    assert_eq!(position(json!({ "rope_interleaved": true }), "rope_interleaved"), plain);
    let unused = json!({ "rope_scaling": { "type": "linear", "factor": 2, "beta": 1 } });
    assert_eq!(position(unused, "rope_scaling.beta"), rotary(1e4, RopeScaling::Linear { factor: 2.0 }));
    let nested = json!({ "rope_parameters": { "full_attention": { "rope_type": "linear" } } });
    assert_eq!(position(nested, "full_attention"), plain);
    let dynamic =
        json!({ "rope_scaling": { "type": "dynamic", "factor": 2 }, "max_position_embeddings": 96 });
    let scaling = RopeScaling::Dynamic { factor: 2.0, max_position_embeddings: 96 };
    assert_eq!(position(dynamic.clone(), "dynamic"), rotary(1e4, scaling));
    // The factor multiplies the number of positions.
    assert_eq!(model(base(LLAMA), dynamic).max_position_embeddings, 192);
    // Text has the same positions along all axes.
    let mrope = json!({ "rope_scaling": { "type": "mrope", "mrope_section": [2, 3, 3] } });
    assert_eq!(model(base(QWEN2), mrope).position, plain);
    let mrope = json!({ "rope_parameters": { "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4 } });
    assert_eq!(model(base(QWEN2), mrope).position, plain);
    // The original positions of Phi-3 are 4096 unless a field next to the object says otherwise.
    let factors = vec![1.0; 8];
    let long = json!({ "type": "su", "short_factor": factors, "long_factor": factors,
        "original_max_position_embeddings": 64 });
    match noted(base("Phi3ForCausalLM"), json!({ "rope_scaling": long }), "4096").position {
        Position::Rotary(RotaryConfig {
            scaling: Some(RopeScaling::LongRope { original_max_position_embeddings, .. }),
            ..
        }) => {
            assert_eq!(original_max_position_embeddings, 4096);
        }
        position => panic!("{position:?}"),
    }
    // GPT-NeoX has other names for the fields next to the object.
    let neox = base_without("GPTNeoXForCausalLM", &["rms_norm_eps", "num_key_value_heads"]);
    let parsed = read_config(&with(
        neox,
        json!({ "layer_norm_eps": 1e-5, "rope_theta": 5e5, "rotary_emb_base": 3e4 }),
    ));
    let parsed = parsed.unwrap();
    assert_eq!(parsed.unrecognized, ["rope_theta"]);
    assert!(matches!(&parsed.model.position, Position::Rotary(rotary) if rotary.theta == 3e4));
}

#[test]
fn layer_types_mean_what_they_mean_to_the_class() {
    let (full, sliding) = ("full_attention", "sliding_attention");
    let some = json!({ "layer_types": [sliding, full, sliding], "sliding_window": 5 });
    assert_eq!(windows(&noted(base(LLAMA), some.clone(), "layer_types")), [None; 3]);
    assert_eq!(windows(&model(base(MISTRAL), some.clone())), [Some(5), None, Some(5)]);
    assert_eq!(windows(&model(base("MinistralForCausalLM"), some.clone())), [Some(5), None, Some(5)]);
    // SmolLM3 masks by the type, whatever use_sliding_window says.
    let smollm3 = base("SmolLM3ForCausalLM");
    assert_eq!(windows(&model(smollm3.clone(), some.clone())), [Some(5), None, Some(5)]);
    let unlisted = json!({ "use_sliding_window": true, "sliding_window": 5, "no_rope_layers": [1, 0, 1, 0] });
    assert_eq!(windows(&model(smollm3, unlisted)), [None, Some(5), None]);
    // In Phi-3 the window applies to all layers.
    let phi3 = read_config(&with(base("Phi3ForCausalLM"), some)).unwrap();
    assert_eq!(
        (windows(&phi3.model), &phi3.unrecognized[..]),
        (vec![Some(5); 3], &["layer_types".to_owned()][..])
    );
}

#[test]
fn classes_without_a_head_are_read_as_those_with_one() {
    for known in super::ARCHITECTURES {
        let base = match known.name.starts_with("GPT2") {
            true => gpt2(),
            false => with(
                base_without(known.name, &["num_key_value_heads"]),
                json!({ "num_attention_heads": 32, "hidden_size": 512 }),
            )
            .into(),
        };
        let parsed = read_config(&with(base.clone(), json!({ "architectures": [known.headless] })));
        assert_eq!(parsed.unwrap().architecture.name, known.name);
        let without = json!({ "architectures": null, "model_type": known.model_type });
        assert_eq!(read_config(&with(base, without)).unwrap().architecture.name, known.name);
    }
    refused(base("LlamaModel"), json!({ "model_type": "gemma3_text" }), "LlamaModel");
    assert_eq!(read_config(&with(base("LLaMAForCausalLM"), json!({}))).unwrap().architecture.name, LLAMA);
}

#[test]
fn fields_inside_text_config_are_read() {
    let mut text = base_without(MISTRAL, &["architectures"]);
    text["model_type"] = "mistral".into();
    let whole = json!({ "architectures": ["SomeForConditionalGeneration"], "model_type": "some", "text_config": text,
        "tie_word_embeddings": true, "vision_config": { "hidden_size": 3 } });
    let parsed = read_config(whole.as_object().unwrap()).unwrap();
    assert_eq!((parsed.architecture.name, parsed.model.tie_word_embeddings), (MISTRAL, true));
    assert!(parsed.notes.iter().any(|note| note.contains("text_config")), "{:?}", parsed.notes);
    let mut bad = whole.clone();
    bad["text_config"]["num_hidden_layers"] = "3".into();
    let message = read_config(bad.as_object().unwrap()).unwrap_err().to_string();
    assert!(message.contains("text_config.num_hidden_layers"), "{message}");
    bad["text_config"] = json!({ "model_type": "some_text", "hidden_size": 3 });
    let message = read_config(bad.as_object().unwrap()).unwrap_err().to_string();
    assert!(message.contains("some_text") && message.contains("text_config"), "{message}");
}

#[test]
fn scores_of_gpt2_are_scaled_as_it_says() {
    let scales = |changes: Value| -> Vec<Option<f64>> {
        model(gpt2(), changes).layers().iter().map(|layer| layer.attention_scale).collect()
    };
    assert_eq!(scales(json!({})), [None, None]);
    assert_eq!(scales(json!({ "scale_attn_weights": false })), [Some(1.0), Some(1.0)]);
    assert_eq!(scales(json!({ "scale_attn_by_inverse_layer_idx": true })), [Some(0.25), Some(0.125)]);
    let alias = base_without(
        "GPT2LMHeadModel",
        &[
            "max_position_embeddings",
            "num_key_value_heads",
            "rms_norm_eps",
            "hidden_act",
            "intermediate_size",
        ],
    );
    let aliased = model(alias, json!({ "n_positions": 32, "layer_norm_epsilon": 1e-5 }));
    assert_eq!((aliased.hidden_size, aliased.num_heads, aliased.num_layers), (64, 4, 3));
}

#[test]
fn side_by_side_stablelm_reads_one_norm_twice() {
    let base = base_without("StableLmForCausalLM", &["rms_norm_eps"]);
    let parsed =
        read_config(&with(base, json!({ "use_parallel_residual": true, "layer_norm_eps": 1e-5 }))).unwrap();
    assert!(parsed.model.parallel_residual);
    let source = |name: &str| {
        let tensor = expected_tensors(&parsed.model).into_iter().find(|tensor| tensor.name == name).unwrap();
        parsed.architecture.tensor_source(&parsed.model, &tensor, true).tensor
    };
    for norm in ["input_norm", "post_attention_norm"] {
        assert_eq!(source(&format!("layers.1.{norm}.bias")), "model.layers.1.input_layernorm.bias");
    }
}

#[test]
fn every_part_of_gpt2_has_an_origin() {
    let config = with(gpt2(), json!({ "n_embd": 8, "n_inner": 12, "n_layer": 11, "n_positions": 5 }));
    let parsed = read_config(&config).unwrap();
    let tensors = expected_tensors(&parsed.model);
    for (name, tensor, shape) in [
        ("embed_positions.weight", "wpe.weight", vec![5, 8]),
        ("norm.bias", "ln_f.bias", vec![8]),
        ("layers.10.input_norm.weight", "h.10.ln_1.weight", vec![8]),
        ("layers.10.post_attention_norm.bias", "h.10.ln_2.bias", vec![8]),
        ("layers.1.self_attn.v_proj.weight", "h.1.attn.c_attn.weight", vec![8, 24]),
        ("layers.1.self_attn.k_proj.bias", "h.1.attn.c_attn.bias", vec![24]),
        ("layers.1.self_attn.o_proj.weight", "h.1.attn.c_proj.weight", vec![8, 8]),
        ("layers.1.mlp.up_proj.weight", "h.1.mlp.c_fc.weight", vec![8, 12]),
        ("layers.1.mlp.down_proj.weight", "h.1.mlp.c_proj.weight", vec![12, 8]),
        ("layers.1.mlp.down_proj.bias", "h.1.mlp.c_proj.bias", vec![8]),
    ] {
        let expected = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let source = parsed.architecture.tensor_source(&parsed.model, expected, true);
        assert_eq!((source.tensor, source.shape), (format!("transformer.{tensor}"), shape), "{name}");
    }
    let bias = tensors.iter().find(|tensor| tensor.name == "layers.1.self_attn.k_proj.bias").unwrap();
    let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
    assert_eq!(
        parsed.architecture.tensor_source(&parsed.model, bias, true).apply(values.clone()),
        values[8..16]
    );
}

#[test]
fn the_page_on_architectures_shows_the_real_file() {
    let page = include_str!("../../../../docs/add-an-architecture.md");
    assert!(page.contains(include_str!("olmo2.rs")), "copy arch/olmo2.rs to the page");
    // The other items that it names exist too.
    let (fields, tensors) = (include_str!("fields.rs"), include_str!("tensors.rs"));
    let words = |before: &str| {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        page.split(before).skip(1).map(|rest| rest.split(ends).next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for method in words("fields.") {
        assert!(method == "rs" || fields.contains(&format!("fn {method}")), "fields.{method} is not there");
    }
    for op in words("Op::") {
        assert!(tensors.contains(&format!("    {op}")), "Op::{op} is not there");
    }
    assert!(words("fields.").len() > 5 && words("Op::").len() > 5);
}
