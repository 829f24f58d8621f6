//! A model's configuration, derived from the metadata and the tensors of a file.

use slm_model::{
    AttentionBias, MlpKind, ModelConfig, NormKind, NormPlacement, Position, QkNorm, RopeScaling, RotaryConfig,
};

use super::arch::Arch;
use super::check::SMOLLM3_STEP;
use super::keys::{OWN, llama3_divisors, yarn_attention_factor};
use super::names;
use crate::gguf::{Array, GgufFile, Value, dequantize};
use crate::{Error, Result};

/// The factors of the scalings of Llama 3.1 and 3.2, which are otherwise equal.
const LLAMA3_FACTORS: [f64; 2] = [8.0, 32.0];
const LLAMA3_CONTEXT: usize = 8192;

/// Reads the architecture of `file` and the model's configuration.
///
/// # Errors
/// [`Error::Unsupported`] for another architecture or an unsupported option; [`Error::Damaged`] for a key that is
/// missing or invalid.
pub(crate) fn read(file: &GgufFile) -> Result<(Arch, ModelConfig)> {
    let path = file.path();
    let name = file.get("general.architecture").and_then(Value::as_str);
    let name = name
        .ok_or_else(|| Error::damaged(path, "general.architecture", "is missing: the file is not a model"))?;
    let arch = Arch::from_name(name).ok_or_else(|| {
        let what = format!("its architecture is {name:?}");
        Error::unsupported(path, what, format!("models of {} are imported", Arch::all_names()))
    })?;
    let keys = Keys { file, arch: name };
    let model = keys.model(arch)?;
    model.validate().map_err(|error| Error::damaged(path, "metadata", error.to_string()))?;
    Ok((arch, model))
}

struct Keys<'a> {
    file: &'a GgufFile,
    arch: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::damaged(self.file.path(), self.key(key), expected)
    }

    /// A whole number. A list must have the same value for all layers.
    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.file.get(&self.key(key)) else { return Ok(None) };
        let number = match value {
            Value::Array(array) => {
                let values = array.to_i64().unwrap_or_default();
                match values.first() {
                    Some(&first) if values.iter().all(|&value| value == first) => u64::try_from(first).ok(),
                    _ => return Err(self.wrong(key, "differs from layer to layer, which is not supported")),
                }
            }
            value => value.as_u64(),
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.map(Some).ok_or_else(|| self.wrong(key, "is not a whole number"))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    /// A number, as the shortest decimal that rounds to the stored 32-bit float.
    fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.file.get(&self.key(key)) else { return Ok(None) };
        let number = match value {
            Value::F32(value) => value.to_string().parse().ok(),
            value => value.as_f64(),
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "is not a finite number")),
        }
    }

    fn flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.file.get(&self.key(key)) else { return Ok(None) };
        let flags = value.as_array().and_then(Array::to_i64).filter(|flags| flags.len() >= layers);
        let flags = flags.ok_or_else(|| self.wrong(key, "is not a list with an entry for every layer"))?;
        Ok(Some(flags.into_iter().take(layers).map(|flag| flag != 0).collect()))
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    fn in_first(&self, part: &str, kind: &str) -> bool {
        self.has(&names::in_layer(0, part, kind))
    }

    fn model(&self, arch: Arch) -> Result<ModelConfig> {
        let embedding = self.file.tensor(names::EMBEDDING).ok_or_else(|| {
            Error::damaged(self.file.path(), names::EMBEDDING, "is missing: the file is not a language model")
        })?;
        let &[vocab_size, hidden_size] = &embedding.shape[..] else {
            return Err(Error::damaged(self.file.path(), names::EMBEDDING, "is not a matrix"));
        };
        let layers = self.required("block_count")?;
        if layers > self.file.tensors().len() {
            return Err(self.wrong("block_count", "is more than the file has tensors"));
        }
        let heads = self.required("attention.head_count")?;
        let mut model = ModelConfig::new(
            vocab_size,
            hidden_size,
            self.required("feed_forward_length")?,
            layers,
            heads,
            self.required("context_length")?,
        );
        if self.required("embedding_length")? != hidden_size {
            return Err(self.wrong("embedding_length", "is not the width of token_embd.weight"));
        }
        model.num_kv_heads = self.size("attention.head_count_kv")?.unwrap_or(heads);
        model.head_dim = self.size("attention.key_length")?.unwrap_or(model.head_dim);
        if self.size("attention.value_length")?.is_some_and(|length| length != model.head_dim) {
            return Err(
                self.wrong("attention.value_length", "is not attention.key_length, which is not supported")
            );
        }
        let epsilon = match arch.has_layer_norm() {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        model.norm_eps = self.float(epsilon)?.ok_or_else(|| self.wrong(epsilon, "is missing"))?;
        model.norm = if arch.has_layer_norm() { NormKind::LayerNorm } else { NormKind::RmsNorm };
        model.tie_word_embeddings = !self.has(names::OUTPUT);
        let qkv = if arch.fuses_qkv() { names::QKV } else { "attn_q" };
        model.attention_bias = match (self.in_first(qkv, "bias"), self.in_first("attn_output", "bias")) {
            (true, true) => AttentionBias::All,
            (true, false) => AttentionBias::Qkv,
            (false, _) => AttentionBias::None,
        };
        model.mlp_bias = self.in_first("ffn_down", "bias");
        self.of_architecture(arch, &mut model)?;
        self.positions(arch, &mut model)?;
        Ok(model)
    }

    fn of_architecture(&self, arch: Arch, model: &mut ModelConfig) -> Result<()> {
        match arch {
            Arch::Qwen3 => model.qk_norm = QkNorm::PerHead,
            Arch::Olmo2 => {
                model.qk_norm = QkNorm::Full;
                model.norm_placement = NormPlacement::Post;
                if self.size("attention.sliding_window")?.is_some_and(|window| window > 0) {
                    return Err(
                        self.wrong("attention.sliding_window", "is given (OLMo 3), which is not supported")
                    );
                }
            }
            Arch::Gpt2 => model.mlp = MlpKind::GeluTanh,
            Arch::GptNeox => model.mlp = MlpKind::Gelu,
            Arch::Gemma3 => {
                model.mlp = MlpKind::GeGluTanh;
                model.qk_norm = QkNorm::PerHead;
                model.norm_placement = NormPlacement::Both;
                model.embedding_multiplier = (model.hidden_size as f64).sqrt();
                /// Number of layers of the 27B model, the only one whose attention scale is derived from its width.
                const LAYERS_OF_27B: usize = 62;
                let scalar = match model.num_layers {
                    LAYERS_OF_27B => model.hidden_size.checked_div(model.num_heads).unwrap_or(1),
                    _ => model.head_dim,
                };
                model.attention_scale = Some(1.0 / (scalar as f64).sqrt());
                if self.float("final_logit_softcapping")?.is_some_and(|cap| cap != 0.0) {
                    return Err(self.wrong("final_logit_softcapping", "is given, which is not supported"));
                }
            }
            _ => {}
        }
        if arch.has_multipliers() {
            model.embedding_multiplier = self.float("embedding_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
            model.residual_multiplier = self.float("residual_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
            model.logit_multiplier = 1.0 / self.float("logit_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
            model.attention_scale = self.float("attention.scale")?.filter(|&scale| scale != 0.0);
        }
        if arch == Arch::StableLm {
            model.parallel_residual = !self.in_first("ffn_norm", "weight");
        }
        if arch == Arch::GptNeox {
            let key = "use_parallel_residual";
            let parallel = self.file.get(&self.key(key)).and_then(Value::as_bool);
            model.parallel_residual = parallel.ok_or_else(|| self.wrong(key, "is missing"))?;
        }
        Ok(())
    }

    fn positions(&self, arch: Arch, model: &mut ModelConfig) -> Result<()> {
        if arch == Arch::Gpt2 {
            model.position = Position::Learned;
            return Ok(());
        }
        let rotary = self.rotary(model)?;
        let layers = model.num_layers;
        let sliding = self.sliding(arch, layers)?;
        let rotates = match arch {
            Arch::SmolLm3 => (0..layers).map(|layer| !(layer + 1).is_multiple_of(SMOLLM3_STEP)).collect(),
            Arch::GraniteSwa => {
                self.flags("attention.rope_pattern", layers)?.unwrap_or_else(|| vec![true; layers])
            }
            _ => vec![true; layers],
        };
        model.position = Position::Rotary(rotary.clone());
        let local = match arch {
            Arch::Gemma3 => RotaryConfig::new(self.float("rope.freq_base_swa")?.unwrap_or(10_000.0)),
            _ => rotary.clone(),
        };
        let window = self.size("attention.sliding_window")?;
        let window = window.filter(|&window| window > 0 && window < model.max_position_embeddings);
        let mut specs = model.layers();
        for (layer, spec) in specs.iter_mut().enumerate() {
            let slides = sliding.get(layer).copied().unwrap_or(false);
            spec.sliding_window = window.filter(|_| slides);
            let of_layer = if slides { &local } else { &rotary };
            spec.rotary = rotates.get(layer).copied().unwrap_or(true).then(|| of_layer.clone());
        }
        model.set_layers(&specs);
        Ok(())
    }

    /// For each layer, `true` if it has a window.
    fn sliding(&self, arch: Arch, layers: usize) -> Result<Vec<bool>> {
        let key = "attention.sliding_window_pattern";
        if !matches!(arch, Arch::Gemma3 | Arch::GraniteSwa)
            || self.size("attention.sliding_window")?.is_none()
        {
            return Ok(vec![false; layers]);
        }
        match self.file.get(&self.key(key)) {
            Some(Value::Array(_)) => Ok(self.flags(key, layers)?.unwrap_or_default()),
            found => {
                let period = match found {
                    Some(value) => value.as_u64().filter(|&period| period > 0),
                    None if arch == Arch::Gemma3 => Some(6),
                    None => None,
                };
                let period =
                    period.ok_or_else(|| self.wrong(key, "is neither a list nor a number above 0"))?;
                Ok((0..layers as u64).map(|layer| !(layer + 1).is_multiple_of(period)).collect())
            }
        }
    }

    fn rotary(&self, model: &ModelConfig) -> Result<RotaryConfig> {
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        let dims = self.size("rope.dimension_count")?.filter(|&dims| dims != model.head_dim);
        let mut rotary = RotaryConfig { theta, scaling: None, dims };
        let original = self.size("rope.scaling.original_context_length")?;
        let original = original.unwrap_or(model.max_position_embeddings);
        let factor = self.float("rope.scaling.factor")?.or(self.float("rope.scale_linear")?);
        let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
        let kind = self.file.get(&self.key("rope.scaling.type")).and_then(Value::as_str);
        let attention = self.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
        if let (Some(long), Some(short)) =
            (self.divisors(names::ROPE_LONG, model)?, self.divisors(names::ROPE_SHORT, model)?)
        {
            rotary.scaling = Some(RopeScaling::LongRope {
                short_factor: short.into_iter().map(f64::from).collect(),
                long_factor: long.into_iter().map(f64::from).collect(),
                original_max_position_embeddings: original,
                attention_factor: attention,
            });
            return Ok(rotary);
        }
        if let Some(divisors) = self.divisors(names::ROPE_FREQS, model)? {
            rotary.scaling = Some(self.llama3(&rotary, model, &divisors)?);
            return Ok(rotary);
        }
        rotary.scaling = match kind {
            None | Some("none" | "linear") if factor == 1.0 => None,
            None | Some("linear") => Some(RopeScaling::Linear { factor }),
            Some("none") => None,
            Some("yarn") => Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: self.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                attention_factor: attention * yarn_attention_factor(factor),
            }),
            Some(other) => {
                let what = format!("is {other:?}, which is not supported");
                return Err(self.wrong("rope.scaling.type", &what));
            }
        };
        Ok(rotary)
    }

    /// Reads a tensor with a divisor for each pair of a head.
    fn divisors(&self, name: &str, model: &ModelConfig) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        let values = dequantize(tensor.kind, &self.file.read(tensor)?);
        let dims = self.size("rope.dimension_count")?.unwrap_or(model.head_dim);
        let fits = values.len() == dims / 2 && values.iter().all(|&value| value.is_finite() && value > 0.0);
        match fits {
            true => Ok(Some(values)),
            false => {
                let problem = format!("is not {} positive numbers", dims / 2);
                Err(Error::damaged(self.file.path(), name, problem))
            }
        }
    }

    /// Returns the scaling that gives `divisors`: Llama 3's if it is a known one or was written by slm, otherwise one
    /// with a divisor for each pair.
    fn llama3(&self, rotary: &RotaryConfig, model: &ModelConfig, divisors: &[f32]) -> Result<RopeScaling> {
        let own = |key: &str| self.file.get(&format!("{OWN}.rope.llama3.{key}")).and_then(Value::as_f64);
        let scaling = |factor: f64, low: f64, high: f64, context: usize| RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: context,
        };
        let mut candidates: Vec<RopeScaling> =
            LLAMA3_FACTORS.iter().map(|&factor| scaling(factor, 1.0, 4.0, LLAMA3_CONTEXT)).collect();
        if let (Some(factor), Some(low), Some(high), Some(context)) =
            (own("factor"), own("low_freq_factor"), own("high_freq_factor"), own("original_context_length"))
        {
            candidates.insert(0, scaling(factor, low, high, context as usize));
        }
        let gives = |candidate: &RopeScaling| {
            let rotary = RotaryConfig { scaling: Some(candidate.clone()), ..rotary.clone() };
            let expected = llama3_divisors(&rotary, model.head_dim).unwrap_or_default();
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b;
            expected.len() == divisors.len() && divisors.iter().zip(&expected).all(near)
        };
        if let Some(known) = candidates.into_iter().find(gives) {
            return Ok(known);
        }
        let values: Vec<f64> = divisors.iter().map(|&value| value.into()).collect();
        Ok(RopeScaling::LongRope {
            short_factor: values.clone(),
            long_factor: values,
            original_max_position_embeddings: model.max_position_embeddings.max(2),
            attention_factor: 1.0,
        })
    }
}
