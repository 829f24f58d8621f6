//! Rounding methods for weights.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The method by which weights are rounded to codes, once scales and zero points are chosen. It is written and
/// serialized as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoundingMethod {
    /// Round to nearest. Written `rtn`.
    #[default]
    Rtn,
    /// GPTQ: rounds one input after the other and compensates for each error with the inputs that follow
    /// ([`quantize_matrix_gptq`](slm_quant_core::quantize_matrix_gptq)). Needs calibration text. Written `gptq`.
    Gptq,
    /// Round to nearest, after each channel is scaled by the power of its activations that brings quantized outputs nearest to
    /// the float ones (AWQ: Lin and others, 2023, <https://arxiv.org/abs/2306.00978>). The factors are folded into norms and
    /// into `up_proj`. Needs calibration text. Only `CheckpointQuantizer` supports it. Written `awq`.
    Awq,
    /// Learned rounding: after GPTQ, codes and scales of each transformer block are trained to give the outputs of the
    /// float block. Needs calibration text and symmetric schemes. Only `CheckpointQuantizer` supports it. Written
    /// `tune`.
    Tune,
}

/// Settings of [`RoundingMethod::Tune`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TuneOptions {
    /// Number of training steps of each block, at least 1.
    pub steps: usize,
    /// Number of windows of calibration text in a step, at least 1.
    pub batch: usize,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self { steps: 100, batch: 4 }
    }
}

impl RoundingMethod {
    /// Returns `true` if the method needs calibration text.
    pub fn needs_calibration(self) -> bool {
        match self {
            Self::Rtn => false,
            Self::Gptq | Self::Awq | Self::Tune => true,
        }
    }

    /// Default number of tokens of calibration text. Few tokens suffice for mean squares. GPTQ needs all products of two
    /// inputs, and those of a text that is too short do not generalize to other text.
    pub fn default_calibration_tokens(self) -> usize {
        match self {
            Self::Rtn | Self::Awq => 16_384,
            Self::Gptq | Self::Tune => 32_768,
        }
    }

    /// Returns `true` if the method needs all products of two inputs of a layer.
    pub(crate) fn needs_hessians(self) -> bool {
        match self {
            Self::Rtn | Self::Awq => false,
            Self::Gptq | Self::Tune => true,
        }
    }

    /// Returns `true` if the layers of a checkpoint are quantized one after the other, each with inputs from the
    /// quantized layers before it.
    pub fn is_sequential(self) -> bool {
        self.needs_hessians()
    }
}

impl fmt::Display for RoundingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rtn => "rtn",
            Self::Gptq => "gptq",
            Self::Awq => "awq",
            Self::Tune => "tune",
        })
    }
}

impl FromStr for RoundingMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rtn" => Ok(Self::Rtn),
            "gptq" => Ok(Self::Gptq),
            "awq" => Ok(Self::Awq),
            "tune" => Ok(Self::Tune),
            _ => Err(format!(
                "must be rtn (round to nearest), gptq, awq (scaled channels) or tune (learned rounding), not {text:?}"
            )),
        }
    }
}
