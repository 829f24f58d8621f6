//! What post-training quantization is asked to do.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use slm_quant_core::{ActivationGranularity, Bits, Granularity, ObserverKind, QuantScheme, QuantizationType};

use crate::layer_scheme::last_match;
use crate::{DynamicInputs, LayerRule, LayerScheme, RoundingMethod};

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
    /// How weights are rounded.
    pub method: RoundingMethod,
    /// Chooses the range of weights; none for the default, which depends on whether there is calibration text
    /// ([`PtqConfig::weight_observer`]).
    pub observer: Option<ObserverKind>,
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
    /// Schemes of single layers. The last rule that matches a name counts; `skip` counts before all of them.
    pub layers: Vec<LayerRule>,
    /// How the token embedding of a transformer is quantized; none to leave it float. Where the head is tied to it, one
    /// table with this scheme serves both.
    pub embeddings: Option<LayerScheme>,
}

impl PtqConfig {
    /// slm's defaults for a scheme: round to nearest, [`default_weight_observer`] for weights, [`ObserverKind::Mse`] for
    /// static activations, one scale per token for dynamic ones. `docs/quantization.md` has the measurements.
    pub fn new(scheme: QuantScheme, quantization_type: QuantizationType) -> Self {
        Self {
            scheme,
            quantization_type,
            method: RoundingMethod::default(),
            observer: None,
            activation_observer: ObserverKind::Mse,
            activation_granularity: ActivationGranularity::default(),
            dynamic_inputs: DynamicInputs::default(),
            rotate: Rotate::default(),
            smooth: None,
            skip: Vec::new(),
            layers: Vec::new(),
            embeddings: None,
        }
    }

    /// How the weight of `layer` is quantized, if it is.
    pub fn scheme_of(&self, layer: &str) -> QuantScheme {
        last_match(&self.layers, layer).and_then(|rule| rule.scheme.over(self.scheme)).unwrap_or(self.scheme)
    }

    /// The observer that chooses the range of weights of most layers: the one that is asked for, or
    /// [`default_weight_observer`]. `calibrated` says whether inputs were observed.
    pub fn weight_observer(&self, calibrated: bool) -> ObserverKind {
        self.observer_of(self.scheme.bits, calibrated)
    }

    /// The observer that chooses the range of a weight of `bits` bits.
    pub fn observer_of(&self, bits: Bits, calibrated: bool) -> ObserverKind {
        self.observer.unwrap_or_else(|| default_weight_observer(bits, calibrated))
    }

    /// Whether inputs of layers must be observed before weights can be quantized.
    pub fn needs_calibration(&self) -> bool {
        self.quantization_type == QuantizationType::Static
            || self.smooth.is_some()
            || self.method.needs_calibration()
            || self.observer == Some(ObserverKind::WeightedMse)
    }

    /// Whether observed inputs change anything: they are needed, or the observer of weights is left to a default that uses
    /// them.
    pub fn uses_calibration(&self) -> bool {
        let schemes = self.layers.iter().filter_map(|rule| rule.scheme.over(self.scheme));
        let weighted = |scheme: QuantScheme| self.observer_of(scheme.bits, true) == ObserverKind::WeightedMse;
        self.needs_calibration() || weighted(self.scheme) || schemes.into_iter().any(weighted)
    }

    /// The same settings with another granularity of weights.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.scheme.granularity = granularity;
        self
    }
}

/// The weight observer where none is asked for: [`ObserverKind::MinMax`], and for 4 bits with calibration text
/// [`ObserverKind::WeightedMse`].
///
/// What a rounding error costs depends on the input that it is multiplied by. Without text that is unknown, and in trained
/// models the few large weights that a narrower range would clip are often those that matter most. With 256 codes there
/// is little to gain by clipping in any case. `docs/quantization.md` has the measurements.
pub fn default_weight_observer(bits: Bits, calibrated: bool) -> ObserverKind {
    match (bits, calibrated) {
        (Bits::Int4, true) => ObserverKind::WeightedMse,
        (Bits::Int8, _) | (Bits::Int4, false) => ObserverKind::MinMax,
    }
}
