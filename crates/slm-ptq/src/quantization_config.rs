//! Quantization settings in the form of config files.

use serde::{Deserialize, Serialize};
use slm_quant_core::{
    ActivationGranularity, Bits, Granularity, Mapping, ObserverKind, QuantScheme, QuantizationType,
    ScaleDtype,
};

use crate::{
    DynamicInputs, Error, LayerRule, LayerScheme, PtqConfig, Result, Rotate, RoundingMethod, Smooth,
    TuneOptions,
};

/// The point of a training run at which a model is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizationMode {
    /// No quantization: the result is an FP32 model.
    #[default]
    None,
    /// After training (post-training quantization).
    Ptq,
    /// During training (quantization-aware training).
    Qat,
}

/// Quantization settings, the `[quantization]` section of a config file. Quantization is off unless `quantization_mode`
/// enables it. Unknown keys are rejected.
///
/// ```
/// use slm_ptq::QuantizationConfig;
///
/// let config: QuantizationConfig =
///     serde_json::from_str(r#"{"quantization_bits": 4, "granularity": "group:32", "skip": ["lm_*"]}"#)?;
/// assert_eq!(config.ptq().scheme.to_string(), "int4 group:32 symmetric");
/// assert!(serde_json::from_str::<QuantizationConfig>(r#"{"quantisation_bits": 4}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizationConfig {
    /// Point of a training run at which the model is quantized. Default: never (`none`).
    pub quantization_mode: QuantizationMode,
    /// Width of a weight in bits, 8 or 4. Default: 8. Quantized activations always have 8 bits.
    pub quantization_bits: Bits,
    /// Treatment of activations. Default: static.
    pub quantization_type: QuantizationType,
    /// Fine-tunes a quantized model while its weights stay quantized. Default: false.
    pub enable_quantized_finetuning: bool,
    /// Weights that share a scale: `tensor`, `channel` or `group:N`. Default: `tensor`.
    pub granularity: Granularity,
    /// Mapping of ranges to codes: `symmetric`, `symmetric-torch` or `affine`. Default: `symmetric`.
    pub mapping: Mapping,
    /// Type of stored scales: `f32` or `f16`. Default: `f32`.
    pub scale_dtype: ScaleDtype,
    /// Rounding of weights: `rtn` (to nearest), `gptq`, `awq` (to nearest, with scaled channels), or `tune` (learned
    /// rounding). Default: `rtn`.
    pub method: RoundingMethod,
    /// Training steps of each block, for `method = "tune"`. Default: 100.
    pub tune_steps: usize,
    /// Observer that chooses the range of a weight. Default:
    /// [`PtqConfig::observer_of`](crate::PtqConfig::observer_of).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observer: Option<ObserverKind>,
    /// Observer that chooses the range of an activation, for static quantization. Default: `mse`.
    pub activation_observer: ObserverKind,
    /// Activations that share a scale, for dynamic quantization: `token` or `tensor`. Default: `token`.
    pub activation_granularity: ActivationGranularity,
    /// Layers whose activations are quantized dynamically although the type is static: `auto` (those that lose most to
    /// one scale), `none`, or a list of names with `*` for any run of characters. Default: `auto`.
    pub dynamic_inputs: DynamicInputs,
    /// Rotation of the model before it is quantized, for `ptq` only: `auto`, `on` or `off`. Default: `auto`.
    pub rotate: Rotate,
    /// Smoothing of channels before the model is quantized, for `ptq` only: `auto` (in MLPs, where that pays), `off`,
    /// or a strength from 0 to 1. Default: `auto`.
    pub smooth: Smooth,
    /// Linear layers to leave in F32: names as in reports, `*` for any run of characters.
    pub skip: Vec<String>,
    /// Schemes of single layers, `[[quantization.layers]]` with `pattern` and `scheme`, such as `int8:channel` or
    /// `float`. The last one that matches a name applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerRule>,
    /// Scheme of the token embedding, such as `int8:channel`. Default: it stays float.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<LayerScheme>,
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self {
            quantization_mode: QuantizationMode::None,
            quantization_bits: Bits::Int8,
            quantization_type: QuantizationType::Static,
            enable_quantized_finetuning: false,
            granularity: Granularity::PerTensor,
            mapping: Mapping::default(),
            scale_dtype: ScaleDtype::F32,
            method: RoundingMethod::default(),
            tune_steps: TuneOptions::default().steps,
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
}

impl QuantizationConfig {
    /// The settings of a quantized checkpoint, from its metadata. Schemes of single layers are not included.
    #[cfg(feature = "checkpoint")]
    pub fn of_metadata(metadata: &slm_checkpoint::QuantizationMetadata) -> Self {
        Self {
            quantization_bits: metadata.bits,
            quantization_type: metadata.quantization_type,
            granularity: metadata.granularity,
            mapping: metadata.mapping,
            scale_dtype: metadata.scale_dtype,
            activation_granularity: metadata.activation_granularity.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The scheme of the weights.
    pub fn scheme(&self) -> QuantScheme {
        QuantScheme {
            bits: self.quantization_bits,
            granularity: self.granularity,
            mapping: self.mapping,
            scale_dtype: self.scale_dtype,
        }
    }

    /// The corresponding settings of post-training quantization.
    pub fn ptq(&self) -> PtqConfig {
        PtqConfig {
            scheme: self.scheme(),
            quantization_type: self.quantization_type,
            method: self.method,
            tune: TuneOptions { steps: self.tune_steps, ..TuneOptions::default() },
            observer: self.observer,
            activation_observer: self.activation_observer,
            activation_granularity: self.activation_granularity,
            dynamic_inputs: self.dynamic_inputs.clone(),
            rotate: self.rotate,
            smooth: self.smooth,
            skip: self.skip.clone(),
            layers: self.layers.clone(),
            embeddings: self.embeddings,
        }
    }

    /// Checks that values are possible and fit each other.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first invalid field and a remedy.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key, detail: String, remedy| Err(Error::Setting { key, detail, remedy });
        if self.enable_quantized_finetuning && self.quantization_mode == QuantizationMode::Qat {
            let detail = "is true next to quantization_mode = \"qat\"".to_owned();
            let remedy = "use one: \"qat\" trains a float model, this a quantized one";
            return refuse("enable_quantized_finetuning", detail, remedy);
        }
        let observers =
            [("observer", self.observer.as_ref()), ("activation_observer", Some(&self.activation_observer))];
        for (key, observer) in observers {
            // The weighted search does not observe values, so only weights can use it.
            let for_weights = key == "observer" && observer == Some(&ObserverKind::WeightedMse);
            if let Some(observer) = observer.filter(|_| !for_weights)
                && let Err(error) = observer.build()
            {
                let detail = format!("is {observer}: {error}");
                return refuse(key, detail, "use an observer with valid parameters");
            }
        }
        if let Smooth::Strength(strength) = self.smooth
            && !(0.0..=1.0).contains(&strength)
        {
            return refuse("smooth", format!("is {strength}"), "use a strength from 0 to 1, such as 0.5");
        }
        if self.quantization_mode == QuantizationMode::Qat {
            if self.method == RoundingMethod::Awq {
                let detail = "is \"awq\" next to quantization_mode = \"qat\"".to_owned();
                let remedy = "leave it out, or train from a model that was quantized by AWQ";
                return refuse("method", detail, remedy);
            }
            let remedy = "leave it out: only post-training quantization transforms the model";
            if self.rotate == Rotate::On {
                return refuse("rotate", "is \"on\" next to quantization_mode = \"qat\"".to_owned(), remedy);
            }
            if matches!(self.smooth, Smooth::Strength(_)) {
                return refuse("smooth", "is given next to quantization_mode = \"qat\"".to_owned(), remedy);
            }
        }
        let trained = self.quantization_mode == QuantizationMode::Qat || self.enable_quantized_finetuning;
        if let Some(scheme) = self.embeddings
            && trained
        {
            let detail = format!("is {scheme}, but training keeps the embedding in floats");
            return refuse("embeddings", detail, "remove it, and quantize it afterwards with `slm ptq`");
        }
        if let Some(rule) = self.layers.first()
            && self.enable_quantized_finetuning
        {
            let detail =
                format!("has {:?}, and fine-tuning keeps the schemes of the checkpoint", rule.pattern);
            return refuse("layers", detail, "remove it");
        }
        if self.tune_steps == 0 {
            return refuse("tune_steps", "is 0".to_owned(), "use at least 1, or the method gptq");
        }
        if self.skip.iter().any(|pattern| pattern.trim().is_empty()) {
            let detail = "holds an empty pattern, which matches no layer".to_owned();
            return refuse("skip", detail, "remove it");
        }
        Ok(())
    }
}
