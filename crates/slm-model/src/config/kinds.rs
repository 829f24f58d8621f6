//! The kinds of norms, MLPs and biases.

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// Placement of the norms around attention and around the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// Norm on the input: `x + f(norm(x))` (GPT-2, Llama). Tensors `input_norm` and `post_attention_norm`.
    #[default]
    Pre,
    /// Norm on the output: `x + norm(f(x))` (OLMo 2). Tensors `attention_output_norm` and `mlp_output_norm`.
    Post,
    /// Norms on both: `x + norm(f(norm(x)))` (Gemma 3).
    Both,
}

impl NormPlacement {
    /// Returns `true` if the input of attention and MLP is normalized.
    pub fn on_input(self) -> bool {
        self != Self::Post
    }

    /// Returns `true` if the output of attention and MLP is normalized.
    pub fn on_output(self) -> bool {
        self != Self::Pre
    }
}

/// RMSNorm of queries and keys before the rotary embedding. In a file `false`, `true` (per head) or `"full"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QkNorm {
    /// No norm.
    #[default]
    None,
    /// Over each head, with weights that all heads share (Qwen3, Gemma 3).
    PerHead,
    /// Over all heads of a position together (OLMo 2).
    Full,
}

impl Serialize for QkNorm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::PerHead => serializer.serialize_bool(true),
            Self::Full => serializer.serialize_str("full"),
        }
    }
}

impl<'de> Deserialize<'de> for QkNorm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = QkNorm;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("false, true or \"full\"")
            }
            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<QkNorm, E> {
                Ok(if value { QkNorm::PerHead } else { QkNorm::None })
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<QkNorm, E> {
                match value {
                    "full" => Ok(QkNorm::Full),
                    _ => Err(E::invalid_value(Unexpected::Str(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Kind of MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))` (Shazeer, 2020).
    #[default]
    #[serde(rename = "swiglu")]
    SwiGlu,
    /// `down(gelu(gate(x)) * up(x))` with the exact, erf-based GELU (Shazeer, 2020).
    #[serde(rename = "geglu")]
    GeGlu,
    /// `down(gelu(gate(x)) * up(x))` with the tanh approximation of GELU (Gemma).
    #[serde(rename = "geglu_tanh")]
    GeGluTanh,
    /// `down(silu(up(x)))`.
    Silu,
    /// `down(gelu(up(x)))` with the exact, erf-based GELU (GPT-NeoX).
    Gelu,
    /// `down(gelu(up(x)))` with the tanh approximation of GELU (GPT-2).
    GeluTanh,
}

/// Elementwise function of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
    /// GELU with the error function.
    Gelu,
    /// GELU with the hyperbolic tangent.
    GeluTanh,
}

impl MlpKind {
    /// The kind with `activation`, with or without a gate.
    pub fn new(gated: bool, activation: Activation) -> Self {
        match (gated, activation) {
            (true, Activation::Silu) => Self::SwiGlu,
            (true, Activation::Gelu) => Self::GeGlu,
            (true, Activation::GeluTanh) => Self::GeGluTanh,
            (false, Activation::Silu) => Self::Silu,
            (false, Activation::Gelu) => Self::Gelu,
            (false, Activation::GeluTanh) => Self::GeluTanh,
        }
    }

    /// Returns `true` if there is a `gate_proj`, whose activated output multiplies that of `up_proj`.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::SwiGlu | Self::GeGlu | Self::GeGluTanh)
    }

    /// The elementwise function.
    pub fn activation(self) -> Activation {
        match self {
            Self::SwiGlu | Self::Silu => Activation::Silu,
            Self::GeGlu | Self::Gelu => Activation::Gelu,
            Self::GeGluTanh | Self::GeluTanh => Activation::GeluTanh,
        }
    }
}

/// Attention projections that have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    /// No bias (Llama, Mistral, Qwen3).
    #[default]
    None,
    /// `q_proj`, `k_proj` and `v_proj` (Qwen2).
    Qkv,
    /// All four, `o_proj` too (GPT-2).
    All,
}
