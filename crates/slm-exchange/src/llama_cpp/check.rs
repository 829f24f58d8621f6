//! Comparison of a model with the capabilities of llama.cpp's architectures.

use slm_model::{
    AttentionBias, LayerSpec, MlpKind, ModelConfig, NormKind, NormPlacement, Position, QkNorm, RopeScaling,
};

use super::arch::Arch;

/// Step of the layers without rotary embedding in llama.cpp's SmolLM3: every fourth.
pub(crate) const SMOLLM3_STEP: usize = 4;

/// Returns the properties of `model` that `arch` cannot compute; empty if it computes the model.
pub(crate) fn refusals(arch: Arch, model: &ModelConfig) -> Vec<String> {
    let mut found = Refusals(Vec::new());
    let layers = model.layers();
    let Some(first) = layers.first() else { return found.0 };
    found.whole_model(arch, model);
    for (index, layer) in layers.iter().enumerate() {
        found.layer(arch, model, index, layer);
    }
    found.rotary(arch, model, &layers);
    let same = |layer: &LayerSpec| LayerSpec {
        sliding_window: first.sliding_window,
        rotary: first.rotary.clone(),
        ..layer.clone()
    };
    if layers.iter().any(|layer| same(layer) != *first) {
        found.add("the same structure in all layers");
    }
    found.0
}

/// The window of a layer, if it is narrower than the context.
pub(crate) fn window(model: &ModelConfig, layer: &LayerSpec) -> Option<usize> {
    layer.sliding_window.filter(|&window| window < model.max_position_embeddings)
}

struct Refusals(Vec<String>);

impl Refusals {
    fn add(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.0.contains(&what) {
            self.0.push(what);
        }
    }

    fn need(&mut self, holds: bool, what: &str) {
        if !holds {
            self.add(what);
        }
    }

    fn whole_model(&mut self, arch: Arch, model: &ModelConfig) {
        let norm = if arch.has_layer_norm() { NormKind::LayerNorm } else { NormKind::RmsNorm };
        self.need(model.norm == norm, if arch.has_layer_norm() { "LayerNorm only" } else { "RMSNorm only" });
        match arch {
            Arch::Gpt2 => self.need(model.position == Position::Learned, "learned positions only"),
            _ => self.need(model.position != Position::Learned, "no learned positions"),
        }
        let even = model.head_dim * model.num_heads == model.hidden_size;
        if matches!(
            arch,
            Arch::Qwen2 | Arch::Phi3 | Arch::Olmo2 | Arch::StableLm | Arch::Gpt2 | Arch::GptNeox
        ) {
            self.need(even, "heads that share out the width of the model only");
        }
        if !arch.has_multipliers() {
            let embedding = match arch {
                Arch::Gemma3 => (model.hidden_size as f64).sqrt(),
                _ => 1.0,
            };
            let near = (model.embedding_multiplier - embedding).abs() <= 1e-6 * embedding;
            self.need(near, "no multiplier of the embedding");
            self.need(model.logit_multiplier == 1.0, "no multiplier of the logits");
            self.need(model.residual_multiplier == 1.0, "no multiplier of the residual");
        }
    }

    fn layer(&mut self, arch: Arch, model: &ModelConfig, index: usize, layer: &LayerSpec) {
        let placement = match arch {
            Arch::Gemma3 => NormPlacement::Both,
            Arch::Olmo2 => NormPlacement::Post,
            _ => NormPlacement::Pre,
        };
        self.need(layer.norm_placement == placement, "norms in other places");
        let qk_norm = match arch {
            Arch::Qwen3 | Arch::Gemma3 => QkNorm::PerHead,
            Arch::Olmo2 => QkNorm::Full,
            _ => QkNorm::None,
        };
        self.need(layer.qk_norm == qk_norm, "another norm of queries and keys");
        let mlp = match arch {
            Arch::Gpt2 => MlpKind::GeluTanh,
            Arch::GptNeox => MlpKind::Gelu,
            Arch::Gemma3 => MlpKind::GeGluTanh,
            _ => MlpKind::SwiGlu,
        };
        self.need(layer.mlp == mlp, "another kind of MLP");
        let biases: &[AttentionBias] = match arch {
            Arch::Gpt2 | Arch::GptNeox => &[AttentionBias::All],
            Arch::Llama | Arch::Granite | Arch::GraniteSwa => {
                &[AttentionBias::None, AttentionBias::Qkv, AttentionBias::All]
            }
            Arch::Qwen2 | Arch::Qwen3 | Arch::StableLm => &[AttentionBias::None, AttentionBias::Qkv],
            _ => &[AttentionBias::None],
        };
        self.need(biases.contains(&layer.attention_bias), "other biases of attention");
        match arch {
            Arch::Gpt2 | Arch::GptNeox => self.need(layer.mlp_bias, "biases in the MLP always"),
            Arch::Llama | Arch::Granite | Arch::GraniteSwa => {}
            _ => self.need(!layer.mlp_bias, "no biases in the MLP"),
        }
        let parallel = matches!(arch, Arch::GptNeox | Arch::StableLm);
        self.need(parallel || !layer.parallel_residual, "no attention and MLP side by side");
        let scale = layer
            .attention_scale
            .is_none_or(|scale| (scale * (model.head_dim as f64).sqrt() - 1.0).abs() < 1e-9);
        // Gemma's attention scale is folded into the norm of queries.
        self.need(
            arch.has_multipliers() || arch == Arch::Gemma3 || scale,
            "no scale of attention of its own",
        );
        if !matches!(arch, Arch::GraniteSwa | Arch::Gemma3) {
            self.need(window(model, layer).is_none(), "no sliding windows");
        }
        match arch {
            Arch::Gpt2 | Arch::GraniteSwa => {}
            Arch::SmolLm3 => {
                let rotates = !(index + 1).is_multiple_of(SMOLLM3_STEP);
                let what = "no rotary embedding in every fourth layer and in no others";
                self.need(layer.rotary.is_some() == rotates, what);
            }
            _ => self.need(layer.rotary.is_some(), "a rotary embedding in every layer"),
        }
    }

    fn rotary(&mut self, arch: Arch, model: &ModelConfig, layers: &[LayerSpec]) {
        let sliding = |layer: &&LayerSpec| arch == Arch::Gemma3 && window(model, layer).is_some();
        let (local, global): (Vec<&LayerSpec>, Vec<&LayerSpec>) = layers.iter().partition(sliding);
        for group in [&local, &global] {
            let mut kinds = group.iter().filter_map(|layer| layer.rotary.as_ref());
            if let Some(first) = kinds.next() {
                self.need(kinds.all(|other| other == first), "one rotary embedding for all layers");
            }
            let windows: Vec<_> = group.iter().filter_map(|layer| window(model, layer)).collect();
            self.need(windows.windows(2).all(|pair| pair[0] == pair[1]), "one width of window");
        }
        for rotary in local.iter().filter_map(|layer| layer.rotary.as_ref()) {
            self.need(rotary.scaling.is_none(), "no scaling of rotations in layers with a window");
        }
        for rotary in layers.iter().filter_map(|layer| layer.rotary.as_ref()) {
            let partial = matches!(arch, Arch::GptNeox | Arch::Phi3 | Arch::StableLm);
            self.need(partial || rotary.dims.is_none(), "rotation of whole heads only");
            match &rotary.scaling {
                None | Some(RopeScaling::Linear { .. }) => {}
                Some(RopeScaling::Dynamic { .. }) => {
                    self.need(
                        false,
                        "no base of rotations that grows with the sequence (the scaling dynamic)",
                    );
                }
                Some(RopeScaling::Yarn { truncate, .. }) => {
                    self.need(*truncate, "YaRN with whole bounds only");
                }
                Some(RopeScaling::Llama3 { .. }) => {
                    let has = matches!(arch, Arch::Llama | Arch::Granite | Arch::GraniteSwa);
                    self.need(has, "no divisors of single rotations (the scaling llama3)");
                }
                Some(RopeScaling::LongRope { .. }) => {
                    let has = matches!(arch, Arch::Phi3 | Arch::Llama | Arch::Granite | Arch::GraniteSwa);
                    self.need(has, "no LongRoPE");
                }
            }
        }
    }
}
