//! What post-training quantization is asked to do.

use slm_quant_core::{ActivationGranularity, Bits, Granularity, ObserverKind, QuantScheme, QuantizationType};

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
    /// slm's defaults for a scheme: [`default_weight_observer`] for weights, [`ObserverKind::Mse`] for static
    /// activations, one scale per token for dynamic ones. `docs/quantization.md` has the measurements.
    pub fn new(scheme: QuantScheme, quantization_type: QuantizationType) -> Self {
        Self {
            scheme,
            quantization_type,
            observer: default_weight_observer(scheme.bits),
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
