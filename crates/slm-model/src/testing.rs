//! What the unit tests of several files need.

use burn::tensor::Device;

use crate::config::{AttentionBias, MlpKind, ModelConfig, NormKind, Position, RopeScaling};

/// The CPU devices; results must hold on both.
#[allow(deprecated)] // Burn 0.22 deprecates NdArray in favour of Flex; both are offered while it exists.
pub(crate) fn devices() -> [Device; 2] {
    [Device::ndarray(), Device::flex()]
}

/// One small config for each thing a config can switch.
pub(crate) fn configs() -> Vec<(&'static str, ModelConfig)> {
    let base = || {
        let mut config = ModelConfig::new(50, 32, 44, 2, 4, 64);
        config.num_kv_heads = 2;
        config
    };
    let with = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = base();
        change(&mut config);
        config
    };
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 16,
    };
    vec![
        ("llama", base()),
        ("one kv head", with(&|c| c.num_kv_heads = 1)),
        ("untied", with(&|c| c.tie_word_embeddings = false)),
        ("llama3 scaling", with(&|c| c.position = Position::Rotary { theta: 5e5, scaling: Some(scaling) })),
        ("sliding window", with(&|c| c.sliding_window = Some(5))),
        ("window of one", with(&|c| c.sliding_window = Some(1))),
        ("qkv bias", with(&|c| c.attention_bias = AttentionBias::Qkv)),
        ("qk norm, wide heads", with(&|c| (c.qk_norm, c.head_dim) = (true, 12))),
        ("exact gelu", with(&|c| c.mlp = MlpKind::Gelu)),
        (
            "gpt2",
            with(&|c| {
                c.num_kv_heads = 4;
                c.norm = NormKind::LayerNorm;
                c.position = Position::Learned;
                c.mlp = MlpKind::GeluTanh;
                c.attention_bias = AttentionBias::All;
                c.mlp_bias = true;
            }),
        ),
    ]
}
