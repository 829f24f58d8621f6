//! What post-training quantization is asked to do.

use slm_quant_core::{ActivationGranularity, Bits, Granularity, ObserverKind, QuantScheme, QuantizationType};

use crate::RoundingMethod;

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
    /// Layers to leave float, as globs over names such as `layers.0.*` or `lm_head`.
    pub skip: Vec<String>,
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
            skip: Vec::new(),
        }
    }

    /// The observer that chooses the range of weights: the one that is asked for, or [`default_weight_observer`].
    pub fn weight_observer(&self, calibrated: bool) -> ObserverKind {
        self.observer.unwrap_or_else(|| default_weight_observer(self.scheme.bits, calibrated))
    }

    /// How the weight of `layer` is quantized.
    pub fn scheme_of(&self, layer: &str) -> QuantScheme {
        let _ = layer;
        self.scheme
    }

    /// Whether inputs of layers must be observed before weights can be quantized.
    pub fn needs_calibration(&self) -> bool {
        self.quantization_type == QuantizationType::Static
            || self.method.needs_calibration()
            || self.observer == Some(ObserverKind::WeightedMse)
    }

    /// Whether observed inputs change anything: they are needed, or the observer of weights is left to a default that uses
    /// them.
    pub fn uses_calibration(&self) -> bool {
        self.needs_calibration() || self.weight_observer(true) == ObserverKind::WeightedMse
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
