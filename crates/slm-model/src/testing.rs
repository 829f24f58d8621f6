//! Helpers for the unit tests of several files.

use std::collections::HashMap;

use burn::tensor::Device;

use crate::config::{
    AttentionBias, Choice, LayerOverride, MlpKind, ModelConfig, NormKind, NormPlacement, Position, QkNorm,
    RopeScaling, RotaryConfig,
};
use crate::error::SourceError;
use crate::source::TensorSource;
use crate::transformer::Transformer;

/// The devices on which results must hold.
pub(crate) use slm_nn::cpu_devices;

/// LongRoPE for heads of eight values.
pub(crate) fn longrope(original_max_position_embeddings: usize) -> RopeScaling {
    RopeScaling::LongRope {
        short_factor: vec![1.0, 1.1, 1.2, 1.3],
        long_factor: vec![2.0, 4.0, 8.0, 16.0],
        original_max_position_embeddings,
        attention_factor: 1.19,
    }
}

/// One small config for each option of a config.
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
    let rotary = |theta: f64, scaling: RopeScaling| {
        with(&|c| {
            let scaling = Some(scaling.clone());
            c.position = Position::Rotary(RotaryConfig { scaling, ..RotaryConfig::new(theta) });
        })
    };
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 16,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: 1.14,
    };
    vec![
        ("llama", base()),
        ("one kv head", with(&|c| c.num_kv_heads = 1)),
        ("untied", with(&|c| c.tie_word_embeddings = false)),
        ("llama3 scaling", rotary(5e5, scaling)),
        ("sliding window", with(&|c| c.sliding_window = Some(5))),
        ("window of one", with(&|c| c.sliding_window = Some(1))),
        ("qkv bias", with(&|c| c.attention_bias = AttentionBias::Qkv)),
        ("qk norm, wide heads", with(&|c| (c.qk_norm, c.head_dim) = (QkNorm::PerHead, 12))),
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
        (
            "parallel, partly rotated",
            with(&|c| {
                c.parallel_residual = true;
                c.norm = NormKind::LayerNorm;
                c.position = Position::Rotary(RotaryConfig { dims: Some(2), ..RotaryConfig::default() });
                (c.mlp, c.mlp_bias, c.attention_bias) = (MlpKind::Gelu, true, AttentionBias::All);
            }),
        ),
        ("norms of outputs", with(&|c| (c.norm_placement, c.qk_norm) = (NormPlacement::Post, QkNorm::Full))),
        (
            "norms of both, parallel, multiplied",
            with(&|c| {
                (c.norm_placement, c.parallel_residual, c.mlp) =
                    (NormPlacement::Both, true, MlpKind::GeGluTanh);
                (c.embedding_multiplier, c.residual_multiplier) = (3.0, 0.6);
                (c.attention_scale, c.logit_multiplier) = (Some(0.2), 0.8);
            }),
        ),
        (
            "layers that differ",
            with(&|c| {
                (c.sliding_window, c.mlp) = (Some(4), MlpKind::GeGlu);
                c.layer_overrides = vec![LayerOverride {
                    layers: vec![1],
                    sliding_window: Some(Choice(None)),
                    rotary: Some(Choice(Some(RotaryConfig::new(333.0)))),
                    norm_placement: Some(NormPlacement::Both),
                    qk_norm: Some(QkNorm::PerHead),
                    mlp: Some(MlpKind::Silu),
                    attention_scale: Some(Choice(Some(0.5))),
                    ..LayerOverride::default()
                }];
            }),
        ),
        (
            "a layer without positions, no other",
            with(&|c| {
                c.position = Position::None;
                let rotary = Some(Choice(Some(RotaryConfig::default())));
                c.layer_overrides = vec![LayerOverride { layers: vec![1], rotary, ..Default::default() }];
            }),
        ),
        ("yarn", rotary(1e4, yarn)),
        ("longrope", rotary(1e4, longrope(64))),
    ]
}

/// Tensors by name, as a checkpoint would have them.
#[derive(Clone, Default)]
pub(crate) struct MapSource(pub(crate) HashMap<String, (Vec<usize>, Vec<f32>)>);

impl TensorSource for MapSource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }
    fn take_f32(&mut self, name: &str, _: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.0.remove(name).map(|(_, values)| values).ok_or_else(|| "taken twice".into())
    }
}

/// Names and shapes of a model's tensors in order, and the tensors.
pub(crate) fn tensors_of(model: &Transformer) -> (Vec<ShapeOf>, MapSource) {
    let (mut list, mut source) = (Vec::new(), MapSource::default());
    model
        .for_each_tensor::<()>(&mut |name, data| {
            let shape: Vec<usize> = data.shape().to_vec();
            list.push((name.to_owned(), shape.clone()));
            source.0.insert(name.to_owned(), (shape, data.try_into_vec().unwrap()));
            Ok(())
        })
        .unwrap();
    (list, source)
}
pub(crate) type ShapeOf = (String, Vec<usize>);

/// A model in which every tensor affects the result.
pub(crate) fn random_weights(config: &ModelConfig, device: &Device) -> Transformer {
    // Norm gains and biases that are not 1 and 0, and weights wide enough for peaked attention.
    let (_, mut source) = tensors_of(&Transformer::new(config, 5, device).unwrap());
    for (name, (_, values)) in &mut source.0 {
        for (i, value) in values.iter_mut().enumerate() {
            let wave = ((i * 7919 + name.len() * 31) % 101) as f32 / 101.0 - 0.5;
            *value =
                if name.contains("norm") || name.ends_with("bias") { *value + wave } else { *value * 8.0 };
        }
    }
    Transformer::from_tensors(config, &mut source, device).unwrap()
}
