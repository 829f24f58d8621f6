//! Quantization-aware training.
//!
//! So far this crate holds the configuration, [`QatConfig`]. The layer that training with simulated
//! quantization runs on is `slm_quant_nn::FakeQuantizedWeight`; the training loop is not built yet.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use slm_quant_core::{
    ActivationGranularity, Bits, Granularity, Mapping, ObserverKind, QuantScheme, QuantizationType,
    ScaleDtype,
};

/// What quantization-aware training simulates. Unknown keys are refused.
///
/// ```
/// use slm_qat::QatConfig;
///
/// let config: QatConfig = serde_json::from_str(r#"{"bits": 4, "granularity": "group:32"}"#)?;
/// assert_eq!(config.scheme().to_string(), "int4 group:32 symmetric");
/// assert!(serde_json::from_str::<QatConfig>(r#"{"bits": 3}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QatConfig {
    /// Width of a weight. Default: 8.
    pub bits: Bits,
    /// Which weights share a scale. Default: per tensor.
    pub granularity: Granularity,
    /// How ranges map to codes. Default: symmetric.
    pub mapping: Mapping,
    /// How scales are stored. Default: 32-bit floats.
    pub scale_dtype: ScaleDtype,
    /// Chooses the range of weights anew in every step. Default: min-max, which costs one pass; the weights
    /// adapt to the range as they train.
    pub observer: ObserverKind,
    /// What is done with activations. Default: static.
    pub quantization_type: QuantizationType,
    /// Follows the range of activations over steps (static). Default: a moving average, as PyTorch.
    pub activation_observer: ObserverKind,
    /// Which activations share a scale (dynamic). Default: those of one token.
    pub activation_granularity: ActivationGranularity,
}

impl Default for QatConfig {
    fn default() -> Self {
        Self {
            bits: Bits::Int8,
            granularity: Granularity::default(),
            mapping: Mapping::default(),
            scale_dtype: ScaleDtype::default(),
            observer: ObserverKind::MinMax,
            quantization_type: QuantizationType::default(),
            activation_observer: ObserverKind::MovingAverage { averaging_constant: 0.01 },
            activation_granularity: ActivationGranularity::default(),
        }
    }
}

impl QatConfig {
    /// The scheme of the weights.
    pub fn scheme(&self) -> QuantScheme {
        QuantScheme {
            bits: self.bits,
            granularity: self.granularity,
            mapping: self.mapping,
            scale_dtype: self.scale_dtype,
        }
    }
}
