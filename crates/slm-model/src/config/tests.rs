use super::*;

fn rotary(theta: f64, scaling: RopeScaling) -> Position {
    Position::Rotary(RotaryConfig { scaling: Some(scaling), ..RotaryConfig::new(theta) })
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
    let cases: [(&str, Break); 11] = [
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
