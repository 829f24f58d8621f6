//! `quantization_metadata.json`: a description of how a model was quantized.
//!
//! The tensors hold the numbers that a model computes with. This file is for people and tools, and is checked against
//! the tensors when they are read. Only the scheme of each layer is needed to read the tensors.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, QParams, QuantScheme,
    QuantizationType, QuantizedMatrix, ScaleDtype, Scales,
};

use crate::json::{self, number};
use crate::{Error, FORMAT_VERSION, Result};

/// The content of `quantization_metadata.json`. Unknown keys are rejected.
///
/// Statistics that may be NaN or infinite (the SQNR of a layer without error is infinite) are JSON numbers if they are
/// finite, and otherwise the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizationMetadata {
    /// Version of the format, [`FORMAT_VERSION`](crate::FORMAT_VERSION).
    pub format_version: u32,
    /// Version of slm that quantized the model.
    pub program_version: String,
    /// Origin of the quantized weights.
    pub mode: QuantizationMode,
    /// Quantization of activations.
    #[serde(rename = "type")]
    pub quantization_type: QuantizationType,
    /// Requested width of weight codes. Each layer has its own scheme.
    pub bits: Bits,
    /// Requested granularity of weight scales.
    pub granularity: Granularity,
    /// Requested mapping of weights.
    pub mapping: Mapping,
    /// Requested type of stored scales.
    pub scale_dtype: ScaleDtype,
    /// Rounding of weights: `rtn` (to nearest) or `gptq`. A file without this field was rounded to nearest or trained.
    #[serde(default = "round_to_nearest", skip_serializing_if = "is_round_to_nearest")]
    pub method: String,
    /// Observer that chose the weight ranges.
    pub weight_observer: String,
    /// Observer that chose the activation ranges; only for static quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_observer: Option<String>,
    /// Granularity of activation scales; only for dynamic quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_granularity: Option<ActivationGranularity>,
    /// The quantized table of the token embedding; `None` if it is float or shared with the output head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<LayerMetadata>,
    /// Quantized layers, in forward order.
    pub layers: Vec<LayerMetadata>,
    /// Linear layers that were left float.
    #[serde(default)]
    pub skipped: Vec<SkippedLayer>,
    /// Origin of the model.
    #[serde(default)]
    pub lineage: Lineage,
}

fn round_to_nearest() -> String {
    "rtn".to_owned()
}

fn is_round_to_nearest(method: &str) -> bool {
    method == "rtn"
}

/// Origin of a quantized model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// SHA-256 of the source checkpoint's `model.safetensors`, in lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sha256: Option<String>,
    /// The calibration text, if it determined ranges or rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationRecord>,
    /// Exact transformations of the float model before it was quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transforms: Option<TransformRecord>,
    /// The training of quantized weights; only in modes `qat` and `finetuned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingRecord>,
}

/// Origin of quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizationMode {
    /// Post-training quantization.
    Ptq,
    /// Quantization-aware training.
    Qat,
    /// Fine-tuning of a quantized model.
    Finetuned,
    /// Unknown: a module that was saved without a report of its quantization.
    Unrecorded,
}

/// One quantized linear layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerMetadata {
    /// Path of the layer, such as `layers.0.self_attn.q_proj`.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Quantization scheme of its weight.
    pub scheme: QuantScheme,
    /// Its scales.
    pub scales: ScaleRecord,
    /// Its zero points; only for affine mappings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_points: Option<ZeroPointRecord>,
    /// Parameters of its input, with a zero point in `[0, 255]`; only for static quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<QParams>,
    /// Smallest and largest value of its input in the calibration text, if known; only for static quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_input: Option<[f32; 2]>,
    /// Granularity of input scales that are computed at run time, although the model's quantization is static; such a
    /// layer has no `activation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_granularity: Option<ActivationGranularity>,
    /// Error of the dequantized weight compared with the float one.
    pub error: WeightError,
    /// Size of the float weight in bytes, without bias.
    pub bytes_before: u64,
    /// Size of codes, scales and zero points in bytes.
    pub bytes_after: u64,
}

/// Difference between a weight and its dequantized version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightError {
    /// Signal-to-quantization-noise ratio, `20 log10(|w| / |w - w'|)`, in dB.
    #[serde(with = "number")]
    pub sqnr_db: f64,
    /// Largest absolute difference.
    #[serde(with = "number")]
    pub max_abs_error: f64,
    /// Share of the values outside the representable range, from 0 to 1.
    #[serde(with = "number")]
    pub clipped_share: f64,
}

/// Summary of the scales of a layer. The tensors hold all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRecord {
    /// Number of scales.
    pub count: usize,
    /// Number of negative scales, those of reversed grids, whose code -8 stands for a positive value.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub negative: usize,
    /// Smallest magnitude of a scale.
    pub min: f32,
    /// Largest magnitude of a scale.
    pub max: f32,
    /// Mean magnitude of the scales.
    pub mean: f64,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Summary of the zero points of a layer. The tensors hold all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroPointRecord {
    /// Number of zero points.
    pub count: usize,
    /// Smallest zero point.
    pub min: i8,
    /// Largest zero point.
    pub max: i8,
    /// Mean zero point.
    pub mean: f64,
}

/// A linear layer that was left float.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedLayer {
    /// Path of the layer.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Reason, for users.
    pub reason: String,
}

/// A training of quantized weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecord {
    /// SHA-256 of the text, in lower-case hexadecimal digits.
    pub text_sha256: String,
    /// Number of training tokens, counting repetitions.
    pub tokens: u64,
    /// Optimizer steps.
    pub steps: u64,
}

/// Exact transformations of a float model, which do not change its output except for rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformRecord {
    /// Seed of the orthogonal matrices that rotated the residual stream and the heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_seed: Option<u64>,
    /// Strength of the smoothing of channels, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoothing_strength: Option<f64>,
    /// Number of MLPs whose channels between `up_proj` and `down_proj` were equalized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equalized_mlps: Option<u64>,
    /// Number of norms whose channels were equalized with the layers that read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equalized_norms: Option<u64>,
}

/// A calibration text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationRecord {
    /// SHA-256 of the text, in lower-case hexadecimal digits.
    pub text_sha256: String,
    /// Number of tokens that the model processed.
    pub tokens: u64,
}

/// A quantized weight without its codes.
#[derive(Debug, Clone, Copy)]
pub struct WeightParams<'a> {
    /// `[rows, cols]`.
    pub shape: [usize; 2],
    /// Quantization scheme.
    pub scheme: QuantScheme,
    /// Its scales.
    pub scales: &'a Scales,
    /// Its zero points; only for affine mappings.
    pub zero_points: Option<&'a [i8]>,
}

impl<'a> WeightParams<'a> {
    /// Borrows the parameters of `matrix`.
    pub fn of(matrix: &'a QuantizedMatrix) -> Self {
        Self {
            shape: [matrix.rows(), matrix.cols()],
            scheme: matrix.scheme(),
            scales: matrix.scales(),
            zero_points: matrix.zero_points(),
        }
    }

    /// Size of codes, scales and zero points in bytes.
    fn byte_size(&self) -> u64 {
        let [rows, cols] = self.shape;
        let scales = self.scales.len() * self.scales.dtype().size();
        (rows * self.scheme.bits.row_bytes(cols) + scales + self.zero_points.map_or(0, <[i8]>::len)) as u64
    }
}

impl ScaleRecord {
    /// Summarizes the scales of `matrix`.
    pub fn of(matrix: &QuantizedMatrix) -> Self {
        Self::of_params(&WeightParams::of(matrix))
    }

    fn of_params(weight: &WeightParams<'_>) -> Self {
        let scales = weight.scales.to_f32();
        let (count, sizes) = (scales.len(), || scales.iter().map(|scale| scale.abs()));
        Self {
            count,
            negative: scales.iter().filter(|scale| **scale < 0.0).count(),
            min: sizes().fold(f32::INFINITY, f32::min),
            max: sizes().fold(0.0, f32::max),
            mean: sizes().map(f64::from).sum::<f64>() / count as f64,
        }
    }
}

impl ZeroPointRecord {
    /// Summarizes the zero points of `matrix`. Returns `None` for a symmetric mapping.
    pub fn of(matrix: &QuantizedMatrix) -> Option<Self> {
        Self::of_params(&WeightParams::of(matrix))
    }

    fn of_params(weight: &WeightParams<'_>) -> Option<Self> {
        let values = weight.zero_points?;
        Some(Self {
            count: values.len(),
            min: values.iter().copied().min()?,
            max: values.iter().copied().max()?,
            mean: values.iter().map(|&zero| f64::from(zero)).sum::<f64>() / values.len() as f64,
        })
    }
}

impl LayerMetadata {
    /// Describes the quantized weight `matrix` of layer `name` with the input quantization `activation`, in a model of
    /// type `quantization_type`.
    pub fn new(
        name: impl Into<String>,
        matrix: &QuantizedMatrix,
        quantization_type: QuantizationType,
        activation: ActivationQuant,
        error: WeightError,
    ) -> Self {
        let mut record = Self::of_params(name, &WeightParams::of(matrix), activation.static_params(), error);
        if let (QuantizationType::Static, ActivationQuant::Dynamic(granularity)) =
            (quantization_type, activation)
        {
            record.activation_granularity = Some(granularity);
        }
        record
    }

    fn of_params(
        name: impl Into<String>,
        weight: &WeightParams<'_>,
        activation: Option<QParams>,
        error: WeightError,
    ) -> Self {
        let [rows, cols] = weight.shape;
        Self {
            name: name.into(),
            shape: weight.shape,
            scheme: weight.scheme,
            scales: ScaleRecord::of_params(weight),
            zero_points: ZeroPointRecord::of_params(weight),
            activation,
            observed_input: None,
            activation_granularity: None,
            error,
            bytes_before: rows as u64 * cols as u64 * 4,
            bytes_after: weight.byte_size(),
        }
    }

    /// Returns the first field that disagrees with the stored weight: its name, the weight's value, and the recorded
    /// value.
    fn disagreement(
        &self,
        weight: &WeightParams<'_>,
        activation: Option<QParams>,
    ) -> Option<(&'static str, String, String)> {
        fn differ<T: PartialEq + std::fmt::Debug>(
            field: &'static str,
            expected: &T,
            found: &T,
        ) -> Option<(&'static str, String, String)> {
            (expected != found).then(|| (field, short(expected), short(found)))
        }
        let stored = Self::of_params(self.name.as_str(), weight, activation, self.error);
        differ("shape", &stored.shape, &self.shape)
            .or_else(|| differ("scheme", &stored.scheme, &self.scheme))
            .or_else(|| differ("scales", &stored.scales, &self.scales))
            .or_else(|| differ("zero_points", &stored.zero_points, &self.zero_points))
            .or_else(|| differ("activation", &stored.activation, &self.activation))
            .or_else(|| differ("bytes_after", &stored.bytes_after, &self.bytes_after))
    }
}

/// Formats a value for a message, and shortens long lists.
fn short(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl QuantizationMetadata {
    /// Parses the bytes of `path`, which must have the current version. `as_in` names the file that states the version.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`] for another version or a scale beyond the largest 32-bit float.
    pub fn parse(path: &Path, bytes: &[u8], as_in: &str) -> Result<Self> {
        /// Parsed first, so that another version is distinguished from a damaged file.
        #[derive(Deserialize)]
        struct Header {
            #[serde(default)]
            format_version: Value,
        }
        let Header { format_version } = json::parse(path, bytes)?;
        Self::check_version(path, &format_version, FORMAT_VERSION, as_in)?;
        json::parse::<Self>(path, bytes)?.checked(path)
    }

    /// Parses the bytes of `path`, which may have the current version or version 3 or 4, whose manifest is the same.
    ///
    /// # Errors
    /// Same as [`QuantizationMetadata::parse`].
    pub fn parse_migrating(path: &Path, bytes: &[u8], as_in: &str) -> Result<Self> {
        let mut fields: Map<String, Value> = json::parse(path, bytes)?;
        match fields.get("format_version").and_then(Value::as_u64) {
            Some(3) => Self::migrate_from_3(&mut fields),
            Some(4) => {}
            _ => return Self::parse(path, bytes, as_in),
        }
        Self::migrate_from_4(&mut fields);
        let metadata = Self::deserialize(Value::Object(fields)).map_err(Error::json(path))?;
        metadata.checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self> {
        match self.infinite_scale() {
            Some((field, scale)) => Err(Error::field(path, field, "a 32-bit float", scale)),
            None => Ok(self),
        }
    }

    /// Migrates fields from version 3, which also listed all scales and zero points, to version 4.
    pub fn migrate_from_3(fields: &mut Map<String, Value>) {
        fields.insert("format_version".to_owned(), 4.into());
        let layers = fields.get_mut("layers").and_then(Value::as_array_mut);
        for layer in layers.into_iter().flatten() {
            for name in ["scales", "zero_points"] {
                if let Some(record) = layer.get_mut(name).and_then(Value::as_object_mut) {
                    record.remove("values");
                }
            }
        }
    }

    /// Migrates fields from version 4 to version 5, whose fields are the same.
    pub fn migrate_from_4(fields: &mut Map<String, Value>) {
        fields.insert("format_version".to_owned(), 5.into());
    }

    /// Rejects metadata of a version other than `version`, which the file `as_in` states.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn check_version(path: &Path, found: &Value, version: u32, as_in: &str) -> Result<()> {
        if found.as_u64() == Some(u64::from(version)) {
            return Ok(());
        }
        Err(Error::field(path, "format_version", format!("{version}, as in {as_in}"), found))
    }

    /// Checks the record of a layer against its tensors `weight` and `activation`, and returns the quantization of its
    /// input. `path` is that of the metadata.
    ///
    /// # Errors
    /// [`Error::Metadata`] if the metadata contradicts the tensors, [`Error::Field`] if it contradicts itself.
    pub fn check_layer(
        &self,
        path: &Path,
        record: &LayerMetadata,
        weight: &WeightParams<'_>,
        activation: Option<QParams>,
    ) -> Result<ActivationQuant> {
        if let Some((field, expected, found)) = record.disagreement(weight, activation) {
            let (path, layer) = (path.to_owned(), record.name.clone());
            return Err(Error::Metadata { path, layer, field, expected, found });
        }
        self.activation_quant(record)
            .map_err(|(field, expected, found)| Error::field(path, field, expected, found))
    }

    /// Returns the name and value of the first scale that exceeds the largest 32-bit float and was parsed as infinity.
    fn infinite_scale(&self) -> Option<(String, f32)> {
        self.records().find_map(|layer| {
            let ScaleRecord { min, max, .. } = &layer.scales;
            let weight = [min, max].map(|scale| ("scales", scale)).into_iter();
            let activation = layer.activation.iter().map(|qparams| ("activation", &qparams.scale));
            let (field, &scale) = weight.chain(activation).find(|(_, scale)| !scale.is_finite())?;
            Some((format!("layers[{:?}].{field}", layer.name), scale))
        })
    }

    /// Returns the records of all quantized weights: the table of the embedding, if it has its own, and all layers.
    pub fn records(&self) -> impl Iterator<Item = &LayerMetadata> {
        self.embedding.iter().chain(&self.layers)
    }

    /// Returns the record of layer `name`, which may be the embedding.
    pub fn layer(&self, name: &str) -> Option<&LayerMetadata> {
        self.records().find(|layer| layer.name == name)
    }

    /// Returns the quantization of the input of `layer`.
    ///
    /// # Errors
    /// The field that is missing or superfluous, its expected value, and its value.
    pub fn activation_quant(
        &self,
        layer: &LayerMetadata,
    ) -> Result<ActivationQuant, (String, &'static str, String)> {
        let field = format!("layers[{:?}].activation", layer.name);
        // Rows of the table are looked up, so it has no input to quantize.
        if self.embedding.as_ref().is_some_and(|embedding| embedding.name == layer.name) {
            return match layer.activation {
                None => Ok(ActivationQuant::Float),
                Some(qparams) => Err((field, "nothing for an embedding", format!("scale {}", qparams.scale))),
            };
        }
        if let Some(granularity) = layer.activation_granularity {
            let field = format!("layers[{:?}].activation_granularity", layer.name);
            return match (self.quantization_type, layer.activation) {
                (QuantizationType::Static, None) => Ok(ActivationQuant::Dynamic(granularity)),
                (QuantizationType::Static, Some(_)) => {
                    Err((field, "nothing, next to `activation`", granularity.to_string()))
                }
                _ => Err((field, "nothing, unless type is \"static\"", granularity.to_string())),
            };
        }
        match (self.quantization_type, layer.activation, self.activation_granularity) {
            (QuantizationType::Static, Some(qparams), _) => Ok(ActivationQuant::Static(qparams)),
            (QuantizationType::Static, None, _) => {
                Err((field, "a scale and zero point, for type \"static\"", "nothing".to_owned()))
            }
            (_, Some(qparams), _) => {
                Err((field, "nothing, unless type is \"static\"", format!("scale {}", qparams.scale)))
            }
            (QuantizationType::Dynamic, None, Some(granularity)) => Ok(ActivationQuant::Dynamic(granularity)),
            (QuantizationType::Dynamic, None, None) => {
                let expected = "\"token\" or \"tensor\", for type \"dynamic\"";
                Err(("activation_granularity".to_owned(), expected, "nothing".to_owned()))
            }
            (QuantizationType::WeightOnly, None, _) => Ok(ActivationQuant::Float),
        }
    }
}

#[cfg(test)]
mod tests {
    use slm_quant_core::{Bits, Granularity, Mapping};

    use super::*;

    #[test]
    fn a_layer_is_described_by_its_weight() {
        let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerChannel);
        let scales = Scales::F32(vec![0.5, -1.5]);
        let matrix =
            QuantizedMatrix::from_parts(2, 3, scheme, vec![0x21, 0x03, 0xf4, 0x0f], scales, None).unwrap();
        let error = WeightError { sqnr_db: 20.0, max_abs_error: 0.1, clipped_share: 0.0 };
        let input = ActivationQuant::Dynamic(ActivationGranularity::PerTensor);
        let of = |kind| LayerMetadata::new("x", &matrix, kind, input, error);
        let record = of(QuantizationType::Static);
        assert_eq!(record.scales, ScaleRecord { count: 2, negative: 1, min: 0.5, max: 1.5, mean: 1.0 });
        // Before: six floats. After: two rows of two bytes and two 4-byte scales.
        assert_eq!((record.bytes_before, record.bytes_after), (24, 12));
        assert_eq!((record.shape, &record.zero_points), ([2, 3], &None));
        // A record states dynamic inputs only in a static model.
        assert_eq!(record.activation_granularity, Some(ActivationGranularity::PerTensor));
        assert_eq!(of(QuantizationType::Dynamic).activation_granularity, None);

        let scheme = scheme.with_mapping(Mapping::Affine);
        let scales = Scales::F32(vec![0.5, 1.0]);
        let zero_points = Some(vec![-8, 3]);
        let affine =
            QuantizedMatrix::from_parts(2, 3, scheme, vec![0x21, 0x03, 0xf4, 0x0f], scales, zero_points);
        let affine = affine.unwrap();
        let expected = ZeroPointRecord { count: 2, min: -8, max: 3, mean: -2.5 };
        assert_eq!(ZeroPointRecord::of(&affine), Some(expected));
        let other = record.disagreement(&WeightParams::of(&affine), None).unwrap();
        assert_eq!(other.0, "scheme");
        assert_eq!(record.disagreement(&WeightParams::of(&matrix), None), None);
        let static_input = QParams { scale: 0.1, zero_point: 3 };
        assert_eq!(
            record.disagreement(&WeightParams::of(&matrix), Some(static_input)).unwrap().0,
            "activation"
        );
    }

    /// Metadata of a model with one layer, `x`.
    fn metadata(
        quantization_type: QuantizationType,
        granularity: Option<ActivationGranularity>,
    ) -> QuantizationMetadata {
        let scheme = QuantScheme::per_tensor(Bits::Int8);
        let matrix =
            QuantizedMatrix::from_parts(1, 2, scheme, vec![1, 2], Scales::F32(vec![0.5]), None).unwrap();
        let error = WeightError { sqnr_db: 20.0, max_abs_error: 0.1, clipped_share: 0.0 };
        let layer = LayerMetadata::of_params("x", &WeightParams::of(&matrix), None, error);
        let builder = crate::MetadataBuilder::new(scheme, quantization_type);
        let mut metadata = builder.build(QuantizationMode::Ptq, vec![layer], Lineage::default());
        metadata.activation_granularity = granularity;
        metadata
    }

    #[test]
    fn versions_3_and_4_are_read_where_they_may_be() {
        let path = Path::new("metadata.json");
        let expected = metadata(QuantizationType::WeightOnly, None);
        let mut json = serde_json::to_value(&expected).unwrap();
        json["layers"][0]["scales"]["values"] = serde_json::json!([0.5]);
        for version in [3, 4, 5, 6] {
            json["format_version"] = version.into();
            if version == 4 {
                json["layers"][0]["scales"].as_object_mut().unwrap().remove("values");
            }
            let bytes = serde_json::to_vec(&json).unwrap();
            let [migrating, strict] = [QuantizationMetadata::parse_migrating, QuantizationMetadata::parse]
                .map(|parse| parse(path, &bytes, "x"));
            match version {
                ..=5 => assert_eq!(migrating.unwrap(), expected, "{version}"),
                _ => {
                    assert!(matches!(migrating, Err(Error::Field { field, .. }) if field == "format_version"))
                }
            }
            match version {
                FORMAT_VERSION => assert_eq!(strict.unwrap(), expected),
                _ => assert!(matches!(strict, Err(Error::Field { field, .. }) if field == "format_version")),
            }
        }
    }

    #[test]
    fn inputs_are_treated_as_the_type_says_or_refused() {
        let token = Some(ActivationGranularity::PerToken);
        let params = QParams { scale: 0.5, zero_point: 3 };
        let fixed = Some(params);
        let dynamic =
            |granularity: Option<ActivationGranularity>| Ok(ActivationQuant::Dynamic(granularity.unwrap()));
        use QuantizationType::{Dynamic, Static, WeightOnly};
        for (kind, of_model, of_layer, params, expected) in [
            (WeightOnly, None, None, None, Ok(ActivationQuant::Float)),
            (WeightOnly, None, None, fixed, Err("layers[\"x\"].activation")),
            (WeightOnly, None, token, None, Err("layers[\"x\"].activation_granularity")),
            (Dynamic, token, None, None, dynamic(token)),
            (Dynamic, None, None, None, Err("activation_granularity")),
            (Dynamic, token, None, fixed, Err("layers[\"x\"].activation")),
            (Dynamic, token, token, None, Err("layers[\"x\"].activation_granularity")),
            (Static, None, None, fixed, Ok(ActivationQuant::Static(params))),
            (Static, None, None, None, Err("layers[\"x\"].activation")),
            (Static, None, token, None, dynamic(token)),
            (Static, None, token, fixed, Err("layers[\"x\"].activation_granularity")),
        ] {
            let mut metadata = metadata(kind, of_model);
            metadata.layers[0].activation = params;
            metadata.layers[0].activation_granularity = of_layer;
            let found = metadata.activation_quant(&metadata.layers[0]).map_err(|(field, ..)| field);
            assert_eq!(
                found,
                expected.map_err(str::to_owned),
                "{kind:?} {of_model:?} {of_layer:?} {params:?}"
            );
        }
        // Rows of a table are looked up, so it has no input.
        let mut table = metadata(Dynamic, token);
        table.embedding = table.layers.pop();
        let embedding = table.embedding.clone().unwrap();
        assert_eq!(table.activation_quant(&embedding).ok(), Some(ActivationQuant::Float));
        let with_params = LayerMetadata { activation: fixed, ..embedding };
        assert!(table.activation_quant(&with_params).is_err());
    }

    #[test]
    fn scales_beyond_the_largest_float_are_refused() {
        let mut json = serde_json::to_value(metadata(QuantizationType::WeightOnly, None)).unwrap();
        json["layers"][0]["scales"]["max"] = serde_json::json!(1e39);
        for version in [FORMAT_VERSION, 4] {
            json["format_version"] = version.into();
            let bytes = serde_json::to_vec(&json).unwrap();
            QuantizationMetadata::parse_migrating(Path::new("m.json"), &bytes, "x").unwrap_err();
        }
    }

    #[test]
    fn rounding_to_nearest_is_not_written() {
        let scheme = QuantScheme::per_tensor(Bits::Int8);
        let written = |method: &str| {
            let builder = crate::MetadataBuilder::new(scheme, QuantizationType::WeightOnly).method(method);
            let metadata = builder.build(QuantizationMode::Ptq, Vec::new(), Lineage::default());
            let json = serde_json::to_value(&metadata).unwrap();
            assert_eq!(serde_json::from_value::<QuantizationMetadata>(json.clone()).unwrap().method, method);
            json.get("method").cloned()
        };
        assert_eq!(written("rtn"), None);
        assert_eq!(written("gptq"), Some("gptq".into()));
    }

    #[test]
    fn long_lists_are_cut_in_messages() {
        assert_eq!(short(&[1, 2]), "[1, 2]");
        let cut = short(&[7; 200]);
        assert_eq!((cut.len(), cut.ends_with("...")), (303, true));
    }
}
