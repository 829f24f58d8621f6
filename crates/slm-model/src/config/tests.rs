use super::*;

fn rotary(theta: f64, scaling: RopeScaling) -> Position {
    Position::Rotary(RotaryConfig { scaling: Some(scaling), ..RotaryConfig::new(theta) })
}

fn yarn() -> RopeScaling {
    RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 8,
        beta_fast: 16.0,
        beta_slow: 2.0,
        truncate: false,
        attention_factor: 1.2,
    }
}

fn small() -> ModelConfig {
    ModelConfig::new(10, 8, 16, 2, 2, 32)
}

#[test]
fn defaults_follow_from_the_required_fields() {
    let json = r#"{"vocab_size":10,"hidden_size":8,"intermediate_size":16,"num_layers":2,"num_heads":2,
                   "max_position_embeddings":32}"#;
    let config: ModelConfig = serde_json::from_str(json).unwrap();
    assert_eq!(config, small());
    assert_eq!((config.num_kv_heads, config.head_dim), (2, 4));
}

#[test]
fn json_and_toml_round_trip() {
    let mut config = small();
    config.sliding_window = Some(4);
    config.mlp = MlpKind::GeluTanh;
    config.attention_bias = AttentionBias::Qkv;
    for position in [
        Position::Learned,
        Position::Rotary(RotaryConfig::new(5e5)),
        rotary(1e4, RopeScaling::Linear { factor: 2.0 }),
        rotary(
            5e5,
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 64,
            },
        ),
        rotary(1e4, yarn()),
        rotary(1e4, crate::testing::longrope(64)),
        Position::Rotary(RotaryConfig { dims: Some(2), ..RotaryConfig::default() }),
        Position::None,
    ] {
        config.position = position;
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config, "{json}");
        let toml = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ModelConfig>(&toml).unwrap(), config, "{toml}");
    }
}

#[test]
fn unknown_keys_are_refused_at_every_depth() {
    let mut value = serde_json::to_value(small()).unwrap();
    value["hiden_size"] = 3.into();
    let message = serde_json::from_value::<ModelConfig>(value).unwrap_err().to_string();
    assert!(message.contains("hiden_size"), "{message}");
    let mut value = serde_json::to_value(small()).unwrap();
    value["position"]["rotary"]["thetta"] = 3.into();
    let message = serde_json::from_value::<ModelConfig>(value).unwrap_err().to_string();
    assert!(message.contains("thetta"), "{message}");
}

#[test]
fn a_width_that_heads_do_not_divide_needs_an_explicit_head_dim() {
    let json = r#"{"vocab_size":10,"hidden_size":9,"intermediate_size":16,"num_layers":2,"num_heads":2,
                   "max_position_embeddings":32}"#;
    let message = serde_json::from_str::<ModelConfig>(json).unwrap_err().to_string();
    assert!(message.contains("head_dim"), "{message}");
    let with_dim = json.replace("\"num_heads\":2", "\"num_heads\":2,\"head_dim\":6");
    serde_json::from_str::<ModelConfig>(&with_dim).unwrap().validate().unwrap();
}

#[test]
fn validate_names_the_field() {
    type Break = fn(&mut ModelConfig);
    let cases: [(&str, Break); 16] = [
        ("short_factor", |c| c.position = rotary(1e4, crate::testing::longrope(8))),
        ("long_rope.attention_factor", |c| {
            let mut scaling = crate::testing::longrope(8);
            if let RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } = &mut scaling {
                short_factor.truncate(2);
                long_factor.truncate(2);
                *attention_factor = -1.0;
            }
            c.position = rotary(1e4, scaling);
        }),
        ("yarn.original_max_position_embeddings", |c| {
            let mut scaling = yarn();
            if let RopeScaling::Yarn { original_max_position_embeddings, .. } = &mut scaling {
                *original_max_position_embeddings = 0;
            }
            c.position = rotary(1e4, scaling);
        }),
        ("yarn.factor", |c| {
            let mut scaling = yarn();
            if let RopeScaling::Yarn { factor, .. } = &mut scaling {
                *factor = 0.5;
            }
            c.position = rotary(1e4, scaling);
        }),
        ("yarn.beta_slow", |c| {
            let mut scaling = yarn();
            if let RopeScaling::Yarn { beta_slow, .. } = &mut scaling {
                *beta_slow = f64::NAN;
            }
            c.position = rotary(1e4, scaling);
        }),
        ("vocab_size", |c| c.vocab_size = 0),
        ("hidden_size", |c| c.hidden_size = usize::MAX),
        ("num_layers", |c| c.num_layers = 0),
        ("num_kv_heads", |c| c.num_kv_heads = 3),
        ("head_dim", |c| c.head_dim = 3),
        ("norm_eps", |c| c.norm_eps = f64::NAN),
        ("sliding_window", |c| c.sliding_window = Some(0)),
        ("max_position_embeddings", |c| c.max_position_embeddings = 0),
        ("theta", |c| c.position = Position::Rotary(RotaryConfig::new(0.0))),
        ("factor", |c| {
            c.position = rotary(1e4, RopeScaling::Linear { factor: 0.5 });
        }),
        ("high_freq_factor", |c| {
            let scaling = RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 1.0,
                original_max_position_embeddings: 64,
            };
            c.position = rotary(1e4, scaling);
        }),
    ];
    small().validate().unwrap();
    for (field, break_it) in cases {
        let mut config = small();
        break_it(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(field), "{field}: {message}");
    }
}

#[test]
fn parameter_count_of_known_models() {
    // stories260k of llama2.c, and GPT-2 as published (124,439,808 with the head tied).
    let mut stories = ModelConfig::new(512, 64, 172, 5, 8, 512);
    stories.num_kv_heads = 4;
    assert_eq!(stories.parameter_count(), 260_032);
    let mut gpt2 = ModelConfig::new(50257, 768, 3072, 12, 12, 1024);
    gpt2.norm = NormKind::LayerNorm;
    gpt2.position = Position::Learned;
    gpt2.mlp = MlpKind::GeluTanh;
    gpt2.attention_bias = AttentionBias::All;
    gpt2.mlp_bias = true;
    assert_eq!(gpt2.parameter_count(), 124_439_808);
}

#[test]
fn uniform_models_are_written_without_what_they_do_not_use() {
    let json = serde_json::to_value(small()).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    for key in ["layer_overrides", "norm_placement", "attention_scale", "logit_multiplier"] {
        assert!(!keys.contains(&&key.to_owned()), "{keys:?}");
    }
    assert_eq!(json["qk_norm"], false);
    let mut config = small();
    config.qk_norm = QkNorm::PerHead;
    assert_eq!(serde_json::to_value(&config).unwrap()["qk_norm"], true);
}

/// A model of every kind of layer, and its layers.
fn mixed() -> (ModelConfig, Vec<LayerSpec>) {
    let mut config = ModelConfig::new(10, 8, 16, 5, 2, 32);
    let mut layers = config.layers();
    for layer in [1, 3] {
        layers[layer].sliding_window = Some(7);
        layers[layer].rotary = Some(RotaryConfig::new(500.0));
        layers[layer].qk_norm = QkNorm::Full;
    }
    layers[4].rotary = None;
    layers[4].attention_scale = Some(0.3);
    layers[4].norm_placement = NormPlacement::Both;
    (layers[4].mlp, layers[4].mlp_bias) = (MlpKind::Silu, true);
    layers[4].attention_bias = AttentionBias::All;
    (layers[4].parallel_residual, layers[4].residual_multiplier) = (true, 0.5);
    config.set_layers(&layers);
    (config, layers)
}

#[test]
fn layers_that_differ_are_kept_apart_and_come_back() {
    let (config, layers) = mixed();
    config.validate().unwrap();
    assert_eq!(config.layers(), layers);
    for (index, layer) in layers.iter().enumerate() {
        assert_eq!(config.layer(index), *layer);
    }
    let overridden: Vec<&[usize]> = config.layer_overrides.iter().map(|o| &o.layers[..]).collect();
    assert_eq!(overridden, [&[1, 3][..], &[4]]);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config, "{json}");
    let toml = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<ModelConfig>(&toml).unwrap(), config, "{toml}");
    // The config itself describes the most frequent kind of layer.
    let mut sliding = config.clone();
    let mut layers = layers;
    (layers[0], layers[2]) = (layers[1].clone(), layers[1].clone());
    sliding.set_layers(&layers);
    assert_eq!((sliding.sliding_window, sliding.qk_norm), (Some(7), QkNorm::Full));
    assert_eq!(sliding.layers(), layers);
}

#[test]
fn layers_in_a_file() {
    let text = r#"
        vocab_size = 10
        hidden_size = 8
        intermediate_size = 16
        num_layers = 3
        num_heads = 2
        max_position_embeddings = 32
        sliding_window = 4
        [[layer_overrides]]
        layers = [2]
        sliding_window = "none"
        rotary = { theta = 1e6, dims = 2 }
        [[layer_overrides]]
        layers = [0]
        rotary = "none"
        qk_norm = "full""#;
    let layers = toml::from_str::<ModelConfig>(text).unwrap().layers();
    assert_eq!(layers[2].rotary, Some(RotaryConfig { dims: Some(2), ..RotaryConfig::new(1e6) }));
    assert_eq!((layers[2].sliding_window, layers[0].sliding_window), (None, Some(4)));
    assert_eq!((layers[0].rotary.clone(), layers[0].qk_norm), (None, QkNorm::Full));
    for (from, to, part) in [
        ("dims = 2", "dim = 2", "dim"),
        ("\"none\"", "\"nothing\"", "nothing"),
        ("layers = [0]", "layers = [0]\nwindow = 3", "window"),
        ("\"full\"", "\"wide\"", "wide"),
    ] {
        let message = toml::from_str::<ModelConfig>(&text.replace(from, to)).unwrap_err().to_string();
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn validate_names_the_field_of_an_override() {
    type Break = fn(&mut ModelConfig);
    let cases: [(&str, Break); 9] = [
        ("layer_overrides.layers", |c| c.layer_overrides[0].layers.clear()),
        ("layer_overrides.layers", |c| c.layer_overrides[0].layers.push(5)),
        ("layer_overrides.layers", |c| c.layer_overrides[0].layers.push(4)),
        ("layer_overrides.sliding_window", |c| c.layer_overrides[0].sliding_window = Some(Choice(Some(0)))),
        ("layer_overrides.rotary.theta", |c| {
            c.layer_overrides[0].rotary = Some(Choice(Some(RotaryConfig::new(0.5))));
        }),
        ("layer_overrides.rotary.dims", |c| {
            let rotary = RotaryConfig { dims: Some(6), ..RotaryConfig::default() };
            c.layer_overrides[0].rotary = Some(Choice(Some(rotary)));
        }),
        ("layer_overrides.residual_multiplier", |c| {
            c.layer_overrides[0].residual_multiplier = Some(f64::NAN)
        }),
        ("attention_scale", |c| c.attention_scale = Some(0.0)),
        ("logit_multiplier", |c| c.logit_multiplier = f64::INFINITY),
    ];
    for (field, break_it) in cases {
        let (mut config, _) = mixed();
        break_it(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(field), "{field}: {message}");
    }
}
