//! Options of post-training quantization.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use slm_quant_core::{
    ActivationGranularity, Bits, Granularity, Mapping, ObserverKind, QuantScheme, QuantizationType,
};

use crate::layer_scheme::last_match;
use crate::{DynamicInputs, Error, LayerRule, LayerScheme, Plan, Result, RoundingMethod, TuneOptions};

/// Rotation of a model before it is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rotate {
    /// Rotates the model if it can be rotated and benefits from it.
    #[default]
    Auto,
    /// Rotates the model; a model that cannot be rotated is an error.
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

/// Smoothing of channels before a model is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "WrittenSmooth", into = "WrittenSmooth")]
pub enum Smooth {
    /// Smooths between `up_proj` and `down_proj` of gated MLPs if that brings the output nearer to the float output.
    /// Written `auto`.
    #[default]
    Auto,
    /// No. Written `off`.
    Off,
    /// Smooths everywhere by SmoothQuant's formula, with this strength from 0 to 1. Written as a number.
    Strength(f64),
}

/// [`Smooth`] in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenSmooth {
    Number(f64),
    Word(String),
}

impl TryFrom<WrittenSmooth> for Smooth {
    type Error = String;

    fn try_from(written: WrittenSmooth) -> Result<Self, String> {
        match written {
            WrittenSmooth::Number(strength) => Ok(Self::Strength(strength)),
            WrittenSmooth::Word(word) => word.parse(),
        }
    }
}

impl From<Smooth> for WrittenSmooth {
    fn from(smooth: Smooth) -> Self {
        match smooth {
            Smooth::Auto => Self::Word("auto".to_owned()),
            Smooth::Off => Self::Word("off".to_owned()),
            Smooth::Strength(strength) => Self::Number(strength),
        }
    }
}

impl FromStr for Smooth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => match text.parse() {
                Ok(strength) if (0.0..=1.0).contains(&strength) => Ok(Self::Strength(strength)),
                _ => Err("use auto, off, or a strength from 0 to 1 such as 0.5".to_owned()),
            },
        }
    }
}

/// Settings of post-training quantization.
#[derive(Debug, Clone, PartialEq)]
pub struct PtqConfig {
    /// Quantization scheme of the weights.
    pub scheme: QuantScheme,
    /// Treatment of activations. Quantized activations have 8 bits, whatever the width of the weights.
    pub quantization_type: QuantizationType,
    /// Rounding method of the weights.
    pub method: RoundingMethod,
    /// Settings of [`RoundingMethod::Tune`].
    pub tune: TuneOptions,
    /// Observer that chooses the range of weights; `None` for the default, which depends on whether there is
    /// calibration text ([`PtqConfig::weight_observer`]).
    pub observer: Option<ObserverKind>,
    /// Observer that chooses the range of activations (static quantization).
    pub activation_observer: ObserverKind,
    /// Activations that share a scale (dynamic quantization).
    pub activation_granularity: ActivationGranularity,
    /// Layers whose activations are dynamic although the type is static.
    pub dynamic_inputs: DynamicInputs,
    /// Rotation of the float model before it is quantized. Only
    /// `CheckpointQuantizer` applies it.
    pub rotate: Rotate,
    /// Smoothing of channels. Only `CheckpointQuantizer` applies it.
    pub smooth: Smooth,
    /// Layers to leave in float, as globs over names such as `layers.0.*` or `lm_head`.
    pub skip: Vec<String>,
    /// Schemes of single layers. The last rule that matches a name applies; `skip` takes precedence over all rules.
    pub layers: Vec<LayerRule>,
    /// Scheme of a transformer's token embedding; `None` to leave it in float. If the head is tied to it, one table
    /// with this scheme serves both.
    pub embeddings: Option<LayerScheme>,
}

impl PtqConfig {
    /// slm's defaults for a scheme: round to nearest, the observer of [`observer_of`](Self::observer_of) for weights,
    /// [`ObserverKind::Mse`] for static activations, one scale per token for dynamic ones. `docs/quantization.md` has the measurements.
    pub fn new(scheme: QuantScheme, quantization_type: QuantizationType) -> Self {
        Self {
            scheme,
            quantization_type,
            method: RoundingMethod::default(),
            tune: TuneOptions::default(),
            observer: None,
            activation_observer: ObserverKind::Mse,
            activation_granularity: ActivationGranularity::default(),
            dynamic_inputs: DynamicInputs::default(),
            rotate: Rotate::default(),
            smooth: Smooth::default(),
            skip: Vec::new(),
            layers: Vec::new(),
            embeddings: None,
        }
    }

    /// Quantization scheme of the weight of `layer`, if it is quantized.
    pub fn scheme_of(&self, layer: &str) -> QuantScheme {
        last_match(&self.layers, layer).and_then(|rule| rule.scheme.over(self.scheme)).unwrap_or(self.scheme)
    }

    /// The observer that chooses the range of weights of most layers: [`observer_of`](Self::observer_of) their scheme.
    /// `calibrated` says whether inputs were observed.
    pub fn weight_observer(&self, calibrated: bool) -> ObserverKind {
        self.observer_of(self.scheme, calibrated)
    }

    /// The observer that chooses the range of a weight of `scheme`: the configured one, or by default
    /// [`ObserverKind::WeightedMse`] for 4 bits if `calibrated`, and otherwise [`ObserverKind::MinMax`]. `calibrated` says
    /// whether the mean squares of inputs are known or, in a rotated model, assumed.
    ///
    /// The cost of a rounding error depends on the input that it is multiplied by. Without text these inputs are unknown,
    /// and in trained models the few large weights that a narrower range would clip are often those that matter most. With
    /// 256 codes clipping gains little, except with one scale per tensor, where the largest rows set the range of all:
    /// such weights take [`ObserverKind::WeightedMse`], too, if they are rounded to nearest. `docs/quantization.md` has the
    /// measurements.
    pub fn observer_of(&self, scheme: QuantScheme, calibrated: bool) -> ObserverKind {
        let gains = match scheme.bits {
            Bits::Int4 => true,
            Bits::Int8 => scheme.granularity == Granularity::PerTensor && self.method == RoundingMethod::Rtn,
        };
        self.observer.unwrap_or(match calibrated && gains {
            true => ObserverKind::WeightedMse,
            false => ObserverKind::MinMax,
        })
    }

    /// Returns `true` if inputs of layers must be observed before weights can be quantized.
    pub fn needs_calibration(&self) -> bool {
        self.quantization_type == QuantizationType::Static
            || matches!(self.smooth, Smooth::Strength(_))
            || self.method.needs_calibration()
            || self.observer == Some(ObserverKind::WeightedMse)
    }

    /// Returns `true` if observed inputs affect the result: they are needed, the default observer of weights uses them,
    /// or smoothing is better with them.
    pub fn uses_calibration(&self) -> bool {
        self.observes_weight_inputs() || self.equalizes()
    }

    /// Rejects methods that need more than single layers.
    pub(crate) fn check_layers_suffice(&self) -> Result<()> {
        let detail = match self.method {
            RoundingMethod::Rtn | RoundingMethod::Gptq => return Ok(()),
            RoundingMethod::Awq => "is awq, which scales the norms of a transformer in a checkpoint",
            RoundingMethod::Tune => "is tune, which trains the blocks of a transformer in a checkpoint",
        };
        let (detail, remedy) = (detail.to_owned(), "use gptq, or CheckpointQuantizer");
        Err(Error::Setting { key: "method", detail, remedy })
    }

    /// Rejects transformations that would leave AWQ nothing to do.
    pub(crate) fn check_awq(&self) -> Result<()> {
        if self.method != RoundingMethod::Awq {
            return Ok(());
        }
        if self.rotate == Rotate::On {
            let detail =
                "conflicts with the method awq: a rotated model has no large channels to scale".to_owned();
            return Err(Error::Setting { key: "rotate", detail, remedy: "leave it out, or use gptq" });
        }
        if self.smooth != Smooth::Auto {
            let detail = "conflicts with the method awq, which already smooths channels".to_owned();
            return Err(Error::Setting { key: "smooth", detail, remedy: "leave it out, or use rtn" });
        }
        Ok(())
    }

    /// Rejects learned rounding of layers whose scales cannot be learned.
    pub(crate) fn check_tune(&self, plan: &Plan) -> Result<()> {
        let affine = |name: &str| self.scheme_of(name).mapping == Mapping::Affine;
        match plan.layers.iter().find(|layer| affine(&layer.name)) {
            Some(layer) if self.method == RoundingMethod::Tune => {
                let detail = format!("is tune, and the mapping of {} is affine", layer.name);
                Err(Error::Setting { key: "method", detail, remedy: "use a symmetric mapping, or gptq" })
            }
            _ => Ok(()),
        }
    }

    /// Returns `true` if every input must be observed as a whole: for ranges of activations, or for weights.
    pub(crate) fn observes_weight_inputs(&self) -> bool {
        let schemes = self.layers.iter().filter_map(|rule| rule.scheme.over(self.scheme));
        let weighted = |scheme: QuantScheme| self.observer_of(scheme, true) == ObserverKind::WeightedMse;
        self.needs_calibration() || weighted(self.scheme) || schemes.into_iter().any(weighted)
    }

    /// Returns `true` if channels of most layers are equalized where that pays.
    pub(crate) fn equalizes(&self) -> bool {
        self.smooth == Smooth::Auto && self.equalizes_weights(self.scheme)
    }

    /// Returns `true` if channels of the layer `name` may be equalized.
    pub(crate) fn equalizes_layer(&self, name: &str) -> bool {
        self.equalizes_weights(self.scheme_of(name))
    }

    /// Returns `true` if factors may reduce the error of weights of `scheme` and of their inputs: if inputs are quantized,
    /// or 8-bit weights share one scale. AWQ consists of such factors.
    ///
    /// The factors are chosen by the error of rounding to nearest in the range from minimum to maximum. 4 bits with one
    /// scale per tensor need ranges that clip, and methods that compensate for the errors of 4 bits leave other errors.
    fn equalizes_weights(&self, scheme: QuantScheme) -> bool {
        let per_tensor = scheme.granularity == Granularity::PerTensor;
        let quantizes_inputs = self.quantization_type != QuantizationType::WeightOnly;
        self.method == RoundingMethod::Awq
            || match scheme.bits {
                Bits::Int8 => quantizes_inputs || per_tensor,
                Bits::Int4 => quantizes_inputs && !self.method.is_sequential() && !per_tensor,
            }
    }

    /// The same settings with another granularity of weights.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.scheme.granularity = granularity;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_8_bits_follow_the_inputs_only_where_that_was_measured_to_be_better() {
        use QuantizationType::{Static, WeightOnly};
        use RoundingMethod::{Gptq, Rtn};
        let tensor = QuantScheme::per_tensor(Bits::Int8);
        let channel = QuantScheme { granularity: Granularity::PerChannel, ..tensor };
        for (scheme, quantization_type, method, calibrated, expected) in [
            (tensor, WeightOnly, Rtn, true, ObserverKind::WeightedMse),
            (tensor, Static, Rtn, true, ObserverKind::WeightedMse),
            (tensor, WeightOnly, Gptq, true, ObserverKind::MinMax),
            (tensor, WeightOnly, Rtn, false, ObserverKind::MinMax),
            (channel, WeightOnly, Rtn, true, ObserverKind::MinMax),
            (QuantScheme::per_tensor(Bits::Int4), Static, Gptq, true, ObserverKind::WeightedMse),
        ] {
            let config = PtqConfig { method, ..PtqConfig::new(scheme, quantization_type) };
            assert_eq!(config.observer_of(scheme, calibrated), expected, "{scheme} {quantization_type:?}");
            let chosen = PtqConfig { observer: Some(ObserverKind::Mse), ..config };
            assert_eq!(chosen.observer_of(scheme, calibrated), ObserverKind::Mse);
        }
    }
}
