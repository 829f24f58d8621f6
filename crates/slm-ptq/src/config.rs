//! What post-training quantization is asked to do.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use slm_quant_core::{ActivationGranularity, Bits, Granularity, ObserverKind, QuantScheme, QuantizationType};

use crate::DynamicInputs;

/// Whether a model is rotated before it is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rotate {
    /// Where it can be and helps.
    #[default]
    Auto,
    /// Yes; a model that cannot be rotated is an error.
    On,
    /// No.
    Off,
}

impl FromStr for Rotate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("use auto, on or off".to_owned()),
        }
    }
}

/// Settings of post-training quantization.
#[derive(Debug, Clone, PartialEq)]
pub struct PtqConfig {
    /// How weights are quantized.
    pub scheme: QuantScheme,
    /// What is done with activations. They are 8-bit where they are quantized, whatever the weights are.
    pub quantization_type: QuantizationType,
    /// Chooses the range of weights.
    pub observer: ObserverKind,
    /// Chooses the range of activations (static quantization).
    pub activation_observer: ObserverKind,
    /// Which activations share a scale (dynamic quantization).
    pub activation_granularity: ActivationGranularity,
    /// Layers whose activations are dynamic although the type is static.
    pub dynamic_inputs: DynamicInputs,
    /// Whether the float model is rotated before it is quantized. Only
    /// `CheckpointQuantizer` does.
    pub rotate: Rotate,
    /// Strength of the smoothing of channels, 0 to 1; none where channels are left alone. Only `CheckpointQuantizer`
    /// smooths.
    pub smooth: Option<f64>,
    /// Layers to leave float, as globs over names such as `layers.0.*` or `lm_head`.
    pub skip: Vec<String>,
}

impl PtqConfig {
    /// slm's defaults for a scheme: [`default_weight_observer`] for weights, [`ObserverKind::Mse`] for static
    /// activations, one scale per token for dynamic ones. `docs/quantization.md` has the measurements.
    pub fn new(scheme: QuantScheme, quantization_type: QuantizationType) -> Self {
        Self {
            scheme,
            quantization_type,
            observer: default_weight_observer(scheme.bits),
            activation_observer: ObserverKind::Mse,
            activation_granularity: ActivationGranularity::default(),
            dynamic_inputs: DynamicInputs::default(),
            rotate: Rotate::default(),
            smooth: None,
            skip: Vec::new(),
        }
    }

    /// Whether a text is needed: for static activations and for smoothing.
    pub fn needs_calibration(&self) -> bool {
        self.quantization_type == QuantizationType::Static || self.smooth.is_some()
    }

    /// The same settings with another granularity of weights.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.scheme.granularity = granularity;
        self
    }
}

/// The weight observer where none is asked for: [`ObserverKind::MinMax`] for 8 bits, [`ObserverKind::Mse`] for 4.
///
/// With 256 codes there is little to gain by clipping, and in trained models the few large weights that would be
/// clipped matter most. With 16 codes the finer grid is worth more than they are.
pub fn default_weight_observer(bits: Bits) -> ObserverKind {
    match bits {
        Bits::Int8 => ObserverKind::MinMax,
        Bits::Int4 => ObserverKind::Mse,
    }
}
