//! What post-training quantization is asked to do.

use crate::layer_scheme::last_match;
use crate::{LayerRule, LayerScheme};
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
    /// Schemes of single layers. The last rule that matches a name counts; `skip` counts before all of them.
    pub layers: Vec<LayerRule>,
    /// How the token embedding of a transformer is quantized; none to leave it float. Where the head is tied to it, one
    /// table with this scheme serves both.
    pub embeddings: Option<LayerScheme>,
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
            layers: Vec::new(),
            embeddings: None,
        }
    }

    /// How the weight of `layer` is quantized, if it is.
    pub fn scheme_of(&self, layer: &str) -> QuantScheme {
        last_match(&self.layers, layer).and_then(|rule| rule.scheme.over(self.scheme)).unwrap_or(self.scheme)
    }

    /// What chooses the range of a weight of `bits` bits: [`observer`](Self::observer), unless that is the default of
    /// the width of most layers and this is another.
    pub fn observer_of(&self, bits: Bits) -> ObserverKind {
        match self.observer == default_weight_observer(self.scheme.bits) {
            true => default_weight_observer(bits),
            false => self.observer,
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
