//! What post-training quantization is asked to do.

use slm_quant_core::{ActivationGranularity, Granularity, ObserverKind, QuantScheme, QuantizationType};

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
    /// Layers to leave float, as globs over names such as `layers.0.*` or `lm_head`.
    pub skip: Vec<String>,
}

impl PtqConfig {
    /// slm's defaults for a scheme: [`ObserverKind::Mse`] for weights, [`ObserverKind::Mse`] for static
    /// activations, one scale per token for dynamic ones. `docs/quantization.md` has the measurements.
    pub fn new(scheme: QuantScheme, quantization_type: QuantizationType) -> Self {
        Self {
            scheme,
            quantization_type,
            observer: ObserverKind::Mse,
            activation_observer: ObserverKind::Mse,
            activation_granularity: ActivationGranularity::default(),
            skip: Vec::new(),
        }
    }

    /// The same settings with another granularity of weights.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.scheme.granularity = granularity;
        self
    }
}
