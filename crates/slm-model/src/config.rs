//! What a model is made of, as written in `config.json` and in training configs.

use serde::{Deserialize, Serialize};

use crate::config_raw::RawModelConfig;
use crate::error::{Error, Result};
use crate::names::expected_tensors;

/// Widths and counts above this are refused: no model comes near, and products of sizes stay inside `u64`.
const MAX_SIZE: usize = 1 << 24;
/// Most layers accepted, for the same reason.
const MAX_LAYERS: usize = 1 << 12;

/// Architecture of a decoder-only transformer.
///
/// Every layer is `x + attention(norm(x))` followed by `x + mlp(norm(x))`, with a last norm before the head.
/// With the right switches this is Llama, Mistral, Qwen2, Qwen3, SmolLM2 and GPT-2.
///
/// In a file only `vocab_size`, `hidden_size`, `intermediate_size`, `num_layers`, `num_heads` and
/// `max_position_embeddings` must be given; what the others default to is said at each. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawModelConfig")]
pub struct ModelConfig {
    /// Rows of the embedding, and logits per position.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads, each shared by `num_heads / num_kv_heads` query heads. Default: `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head. Default: `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Positions the model was made for; running past them is an error.
    pub max_position_embeddings: usize,
    /// Kind of every norm but the q/k norms. Default: [`NormKind::RmsNorm`].
    pub norm: NormKind,
    /// Added to the mean square or variance inside every norm. Default: 1e-5.
    pub norm_eps: f64,
    /// How the model knows positions. Default: rotary with base 10000.
    pub position: Position,
    /// Kind of MLP. Default: [`MlpKind::SwiGlu`].
    pub mlp: MlpKind,
    /// Which attention projections have a bias. Default: none.
    pub attention_bias: AttentionBias,
    /// Whether the MLP's linear layers have biases. Default: false.
    pub mlp_bias: bool,
    /// Whether each query and key head is RMS-normalized before the rotary embedding (Qwen3). Default: false.
    pub qk_norm: bool,
    /// Whether the head is the transposed embedding rather than a linear layer of its own. Default: true.
    pub tie_word_embeddings: bool,
    /// Where given, a position sees itself and the `sliding_window - 1` positions before it (Mistral).
    /// Default: it sees all positions before it.
    pub sliding_window: Option<usize>,
}

/// Kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 2019).
    #[default]
    RmsNorm,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` (Ba and others, 2016).
    LayerNorm,
}

/// How a model knows the position of a token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Queries and keys are rotated by an angle that grows with the position (Su and others, 2021), the two
    /// halves of a head forming the pairs, as in Hugging Face's Llama.
    Rotary {
        /// Base of the frequencies, `rope_theta`.
        theta: f64,
        /// Change of the frequencies for contexts longer than those of pretraining.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scaling: Option<RopeScaling>,
    },
    /// A learned vector per position is added to the embedding (GPT-2).
    Learned,
}

impl Default for Position {
    fn default() -> Self {
        Self::Rotary { theta: 10_000.0, scaling: None }
    }
}

/// Change of the rotary frequencies for long contexts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Every frequency is divided by `factor` (position interpolation; Chen and others, 2023).
    Linear {
        /// Divisor, at least 1.
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies, at least 1.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are scaled in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the pretraining.
        original_max_position_embeddings: usize,
    },
}

/// Kind of MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))` (Shazeer, 2020).
    #[default]
    #[serde(rename = "swiglu")]
    SwiGlu,
    /// `down(gelu(up(x)))` with the exact, erf-based GELU.
    Gelu,
    /// `down(gelu(up(x)))` with the tanh approximation of GELU (GPT-2).
    GeluTanh,
}

/// Which attention projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    /// None (Llama, Mistral, Qwen3).
    #[default]
    None,
    /// `q_proj`, `k_proj` and `v_proj` (Qwen2).
    Qkv,
    /// All four, `o_proj` too (GPT-2).
    All,
}

impl ModelConfig {
    /// A Llama-like model: RMSNorm, rotary positions with base 10000, SwiGLU, no biases, a tied head, as many
    /// KV heads as heads, heads of `hidden_size / num_heads`. Change fields as needed, then [`validate`](Self::validate).
    pub fn new(
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_layers: usize,
        num_heads: usize,
        max_position_embeddings: usize,
    ) -> Self {
        Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads: num_heads,
            head_dim: hidden_size.checked_div(num_heads).unwrap_or(0),
            max_position_embeddings,
            norm: NormKind::default(),
            norm_eps: 1e-5,
            position: Position::default(),
            mlp: MlpKind::default(),
            attention_bias: AttentionBias::default(),
            mlp_bias: false,
            qk_norm: false,
            tie_word_embeddings: true,
            sliding_window: None,
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Config`] with the first field that is wrong and what would be right.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_layers", self.num_layers, MAX_LAYERS),
            ("num_heads", self.num_heads, MAX_SIZE),
            ("num_kv_heads", self.num_kv_heads, MAX_SIZE),
            ("head_dim", self.head_dim, MAX_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, MAX_SIZE),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return Err(bad(field, value, format!("use 1 to {max}")));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let remedy = format!("it must divide num_heads = {}", self.num_heads);
            return Err(bad("num_kv_heads", self.num_kv_heads, remedy));
        }
        if self.num_heads * self.head_dim > MAX_SIZE {
            let remedy = format!("with num_heads = {} it must stay below {MAX_SIZE} in all", self.num_heads);
            return Err(bad("head_dim", self.head_dim, remedy));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(bad("norm_eps", self.norm_eps, "use a small positive number such as 1e-5".into()));
        }
        if self.sliding_window == Some(0) {
            return Err(bad(
                "sliding_window",
                0,
                "leave it out, or let a position see at least itself: 1".into(),
            ));
        }
        if let Position::Rotary { theta, scaling } = self.position {
            if !self.head_dim.is_multiple_of(2) {
                let remedy = "rotary positions pair the two halves of a head: use an even number".into();
                return Err(bad("head_dim", self.head_dim, remedy));
            }
            if !(theta.is_finite() && theta > 1.0) {
                return Err(bad(
                    "position.rotary.theta",
                    theta,
                    "use a number above 1, such as 10000".into(),
                ));
            }
            if let Some(scaling) = scaling {
                scaling.validate()?;
            }
        }
        Ok(())
    }

    /// Number of trained values: the sizes of all tensors, a tied head counted once.
    pub fn parameter_count(&self) -> u64 {
        expected_tensors(self).iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Query heads for each KV head.
    pub fn heads_per_kv_head(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

impl RopeScaling {
    fn validate(self) -> Result<()> {
        let at_least_one = |field, factor: f64| {
            if factor.is_finite() && factor >= 1.0 {
                Ok(())
            } else {
                Err(bad(field, factor, "use a number of at least 1".into()))
            }
        };
        match self {
            Self::Linear { factor } => at_least_one("position.rotary.scaling.linear.factor", factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                at_least_one("position.rotary.scaling.llama3.factor", factor)?;
                if !(low_freq_factor.is_finite() && low_freq_factor > 0.0) {
                    let field = "position.rotary.scaling.llama3.low_freq_factor";
                    return Err(bad(field, low_freq_factor, "use a positive number".into()));
                }
                if !(high_freq_factor.is_finite() && high_freq_factor > low_freq_factor) {
                    let field = "position.rotary.scaling.llama3.high_freq_factor";
                    let remedy = format!("it must be above low_freq_factor = {low_freq_factor}");
                    return Err(bad(field, high_freq_factor, remedy));
                }
                if original_max_position_embeddings == 0 {
                    let field = "position.rotary.scaling.llama3.original_max_position_embeddings";
                    return Err(bad(field, 0, "use the context length of the pretraining".into()));
                }
                Ok(())
            }
        }
    }
}

pub(crate) fn bad(field: &'static str, found: impl ToString, remedy: String) -> Error {
    Error::Config { field, found: found.to_string(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            Position::Rotary { theta: 5e5, scaling: None },
            Position::Rotary { theta: 1e4, scaling: Some(RopeScaling::Linear { factor: 2.0 }) },
            Position::Rotary {
                theta: 5e5,
                scaling: Some(RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 64,
                }),
            },
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
            ("theta", |c| c.position = Position::Rotary { theta: 0.0, scaling: None }),
            ("factor", |c| {
                c.position =
                    Position::Rotary { theta: 1e4, scaling: Some(RopeScaling::Linear { factor: 0.5 }) };
            }),
            ("high_freq_factor", |c| {
                let scaling = RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 4.0,
                    high_freq_factor: 1.0,
                    original_max_position_embeddings: 64,
                };
                c.position = Position::Rotary { theta: 1e4, scaling: Some(scaling) };
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
}
