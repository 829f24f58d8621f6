//! The report of `slm ptq`, as text and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use slm_checkpoint::{Checkpoint, TransformRecord};
use slm_model::Evaluation;
use slm_ptq::{LayerReport, Plan, Transforms};
use slm_quant_core::{ActivationQuant, ObserverKind, QParams, QuantScheme, QuantizationType};

use super::inputs::RunInputs;
use super::quality::Quality;
use super::texts::HeldOut;
use super::uncertainty::standard_error;
use crate::json::number;

/// Inputs of the report: results and measurements of a run.
pub(super) struct ReportInputs<'a> {
    pub(super) settings: &'a RunInputs,
    pub(super) output: PathBuf,
    pub(super) plan: &'a Plan,
    pub(super) layers: &'a [LayerReport],
    /// Exact transformations of the float model.
    pub(super) transforms: &'a Transforms,
    /// Observer that chose the range of weights of most layers.
    pub(super) observer: ObserverKind,
    /// True if channels were not equalized only because there is no calibration text.
    pub(super) lacks_text_to_equalize: bool,
    /// The embedding, if it is quantized and not the head's table.
    pub(super) embedding: Option<&'a LayerReport>,
    /// Arithmetic of each layer, by name.
    pub(super) execution: Vec<(String, String)>,
    /// True if the quantized head is a copy of the embedding, which stays float.
    pub(super) tied_head_copied: bool,
    /// True if the float head was tied before and is now a separate tensor.
    pub(super) head_untied: bool,
    pub(super) sizes: Sizes,
    pub(super) float: Option<&'a Evaluation>,
    pub(super) quantized: Option<&'a Evaluation>,
    /// Warning about the quality, with its cause; `None` if the quality is good.
    pub(super) warning: Option<String>,
    /// The verdict; `None` if nothing was measured.
    pub(super) quality: Option<Quality>,
    pub(super) calibration_tokens: u64,
    /// True if the float model wrote the calibration text.
    pub(super) calibration_sampled: bool,
    /// True if a calibration text would have affected the result.
    pub(super) lacks_text: bool,
    pub(super) held_out: Option<&'a HeldOut>,
    pub(super) largest_tensor_bytes: u64,
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) seconds: f64,
    pub(super) device: &'static str,
}

#[derive(Serialize)]
pub(super) struct PtqResult {
    pub(super) source: PathBuf,
    pub(super) output: PathBuf,
    pub(super) bits: u8,
    #[serde(rename = "type")]
    pub(super) quantization_type: String,
    pub(super) granularity: String,
    pub(super) mapping: String,
    pub(super) scale_dtype: String,
    pub(super) method: String,
    pub(super) observer: String,
    pub(super) activation_observer: Option<String>,
    pub(super) activation_granularity: Option<String>,
    /// Layers with dynamic inputs in a static model.
    pub(super) dynamic_inputs: Vec<String>,
    /// Exact transformations of the float model before it was quantized.
    pub(super) transforms: Option<TransformRecord>,
    #[serde(skip)]
    pub(super) lacks_text_to_equalize: bool,
    /// Reason why the model was not rotated, if it otherwise would have been.
    pub(super) not_rotated: Option<String>,
    /// True if the rotation made the tied head a separate float tensor.
    pub(super) head_untied: bool,
    pub(super) calibration_tokens: u64,
    /// True if the float model wrote the calibration text.
    pub(super) calibration_sampled: bool,
    #[serde(skip)]
    pub(super) lacks_text: bool,
    /// Quantized layers, after the embedding if it is a separate quantized table.
    pub(super) layers: Vec<LayerResult>,
    /// Other schemes than the main one, each with the names of its layers or of the embedding.
    pub(super) other_schemes: BTreeMap<String, Vec<String>>,
    pub(super) skipped: Vec<SkippedResult>,
    /// True if the quantized head is a copy of the embedding, which stays float.
    pub(super) tied_head_copied: bool,
    /// True if one quantized table serves head and embedding.
    pub(super) embedding_shared: bool,
    pub(super) sizes: Sizes,
    /// Size in bytes of the largest float tensor, which bounds the memory for quantization.
    pub(super) largest_tensor_bytes: u64,
    /// Perplexity of the written checkpoint, under the name that all commands share.
    pub(super) perplexity: Option<f64>,
    pub(super) perplexity_float: Option<f64>,
    pub(super) perplexity_quantized: Option<f64>,
    pub(super) nll_float: Option<f64>,
    pub(super) nll_quantized: Option<f64>,
    /// Explanation and remedies for a quantized model that is much worse than the float one; `None` otherwise.
    pub(super) warning: Option<String>,
    /// The verdict, the uncertainty of the rise, and the text.
    pub(super) quality: Option<Quality>,
    pub(super) evaluated_tokens: usize,
    /// The file on which perplexities were measured, and which part of it.
    pub(super) evaluated_on: Option<String>,
    /// Standard error of `nll_quantized - nll_float`, estimated from the differences of the windows.
    pub(super) nll_difference_error: Option<f64>,
    /// Number of evaluated windows.
    pub(super) windows: usize,
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) seconds: f64,
    pub(super) device: &'static str,
}

#[derive(Serialize)]
pub(super) struct LayerResult {
    pub(super) name: String,
    pub(super) shape: [usize; 2],
    pub(super) scheme: String,
    pub(super) kernel: String,
    pub(super) scale_min: f32,
    pub(super) scale_max: f32,
    pub(super) zero_point_min: i32,
    pub(super) zero_point_max: i32,
    pub(super) activation: Option<QParams>,
    /// Estimated relative error of a row of the input with one static scale.
    pub(super) static_input_error: Option<f64>,
    /// Smallest and largest value of the input in calibration; only for static activations.
    pub(super) observed_input: Option<[f32; 2]>,
    /// Quantization of the input: `static`, `dynamic` or `weight-only`.
    pub(super) input: QuantizationType,
    #[serde(serialize_with = "number")]
    pub(super) sqnr_db: f64,
    pub(super) max_abs_error: f64,
    pub(super) clipped_share: f64,
    pub(super) bytes_before: usize,
    pub(super) bytes_after: usize,
}

#[derive(Serialize)]
pub(super) struct SkippedResult {
    pub(super) name: String,
    pub(super) shape: [usize; 2],
    pub(super) reason: String,
}

/// Size of the weights in bytes, before and after quantization.
#[derive(Serialize)]
pub(super) struct Sizes {
    pub(super) linear_before: u64,
    pub(super) linear_after: u64,
    pub(super) linear_ratio: f64,
    pub(super) model_before: u64,
    pub(super) model_after: u64,
    pub(super) model_ratio: f64,
}

impl Sizes {
    pub(super) fn new(layers: &[LayerReport], model_before: u64, after: &Checkpoint) -> Self {
        let linear_before = layers.iter().map(|layer| layer.bytes_before as u64).sum::<u64>();
        let linear_after = layers.iter().map(|layer| layer.bytes_after as u64).sum::<u64>();
        let model_after = after.weight_bytes();
        Self {
            linear_before,
            linear_after,
            linear_ratio: linear_after as f64 / linear_before as f64,
            model_before,
            model_after,
            model_ratio: model_after as f64 / model_before as f64,
        }
    }
}

/// Groups the layers whose scheme is not `common` by scheme.
fn other_schemes<'a>(
    common: QuantScheme,
    layers: impl Iterator<Item = &'a LayerReport>,
) -> BTreeMap<String, Vec<String>> {
    let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for layer in layers.filter(|layer| layer.scheme != common) {
        others.entry(layer.scheme.to_string()).or_default().push(layer.name.clone());
    }
    others
}

impl PtqResult {
    pub(super) fn new(inputs: ReportInputs<'_>) -> Self {
        let config = &inputs.settings.config;
        let kernels: BTreeMap<_, _> = inputs.execution.into_iter().collect();
        let rows = || inputs.embedding.into_iter().chain(inputs.layers);
        let skipped = inputs.plan.skipped.iter().map(|layer| SkippedResult {
            name: layer.name.clone(),
            shape: layer.shape,
            reason: layer.reason.clone(),
        });
        let when =
            |quantization_type, text: String| (config.quantization_type == quantization_type).then_some(text);
        Self {
            source: inputs.settings.checkpoint.clone(),
            output: inputs.output,
            bits: config.scheme.bits.count(),
            quantization_type: config.quantization_type.to_string(),
            granularity: config.scheme.granularity.to_string(),
            mapping: config.scheme.mapping.to_string(),
            scale_dtype: config.scheme.scale_dtype.to_string(),
            method: config.method.to_string(),
            observer: inputs.observer.to_string(),
            activation_observer: when(QuantizationType::Static, config.activation_observer.to_string()),
            activation_granularity: when(
                QuantizationType::Dynamic,
                config.activation_granularity.to_string(),
            ),
            dynamic_inputs: match config.quantization_type {
                QuantizationType::Static => dynamic_inputs(inputs.layers),
                QuantizationType::Dynamic | QuantizationType::WeightOnly => Vec::new(),
            },
            transforms: inputs.transforms.record(),
            lacks_text_to_equalize: inputs.lacks_text_to_equalize,
            not_rotated: inputs.transforms.reason().map(str::to_owned),
            head_untied: inputs.head_untied,
            calibration_tokens: inputs.calibration_tokens,
            calibration_sampled: inputs.calibration_sampled,
            lacks_text: inputs.lacks_text,
            layers: rows().map(|layer| LayerResult::new(layer, &kernels)).collect(),
            other_schemes: other_schemes(config.scheme, rows()),
            skipped: skipped.collect(),
            tied_head_copied: inputs.tied_head_copied,
            embedding_shared: inputs.plan.embedding.is_some_and(|embedding| embedding.shared),
            sizes: inputs.sizes,
            largest_tensor_bytes: inputs.largest_tensor_bytes,
            perplexity: inputs.quantized.map(Evaluation::perplexity),
            perplexity_float: inputs.float.map(Evaluation::perplexity),
            perplexity_quantized: inputs.quantized.map(Evaluation::perplexity),
            nll_float: inputs.float.map(Evaluation::mean_nll),
            nll_quantized: inputs.quantized.map(Evaluation::mean_nll),
            warning: inputs.warning,
            quality: inputs.quality,
            evaluated_tokens: inputs.quantized.map_or(0, |evaluation| evaluation.tokens),
            evaluated_on: inputs.held_out.map(|held_out| held_out.part.clone()),
            nll_difference_error: inputs
                .held_out
                .and_then(|held_out| standard_error(inputs.float?, inputs.quantized?, &held_out.windows)),
            windows: inputs.quantized.map_or(0, |evaluation| evaluation.window_nll.len()),
            peak_memory_bytes: inputs.peak_memory_bytes,
            seconds: inputs.seconds,
            device: inputs.device,
        }
    }
}

fn dynamic_inputs(layers: &[LayerReport]) -> Vec<String> {
    let dynamic = layers.iter().filter(|layer| matches!(layer.activation, ActivationQuant::Dynamic(_)));
    dynamic.map(|layer| layer.name.clone()).collect()
}

impl LayerResult {
    fn new(layer: &LayerReport, kernels: &BTreeMap<String, String>) -> Self {
        let scales = || layer.qparams.iter().map(|qparams| qparams.scale.abs());
        let zero_points = || layer.qparams.iter().map(|qparams| qparams.zero_point);
        Self {
            name: layer.name.clone(),
            shape: layer.shape,
            scheme: layer.scheme.to_string(),
            kernel: kernels.get(&layer.name).cloned().unwrap_or_else(|| layer.kernel.to_string()),
            scale_min: scales().fold(f32::INFINITY, f32::min),
            scale_max: scales().fold(0.0, f32::max),
            zero_point_min: zero_points().min().unwrap_or(0),
            zero_point_max: zero_points().max().unwrap_or(0),
            activation: layer.activation.static_params(),
            static_input_error: layer.input_error,
            observed_input: layer.observed_input.map(|(min, max)| [min, max]),
            input: match layer.activation {
                ActivationQuant::Static(_) => QuantizationType::Static,
                ActivationQuant::Dynamic(_) => QuantizationType::Dynamic,
                ActivationQuant::Float => QuantizationType::WeightOnly,
            },
            sqnr_db: layer.error.sqnr_db(),
            max_abs_error: layer.error.max_abs_error(),
            clipped_share: layer.error.clipped_share().unwrap_or(0.0),
            bytes_before: layer.bytes_before,
            bytes_after: layer.bytes_after,
        }
    }
}
