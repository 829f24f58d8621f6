//! The report of `slm ptq`, for people and for machines.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use slm_checkpoint::{Checkpoint, TransformRecord};
use slm_model::{EMBED_TOKENS, Evaluation, LM_HEAD};
use slm_ptq::{LayerReport, Plan, Transforms};
use slm_quant_core::{ActivationQuant, QParams, QuantScheme, QuantizationType};

use super::inputs::RunInputs;
use super::quality::Quality;
use super::texts::HeldOut;
use super::uncertainty::{CONFIDENCE, FEW_WINDOWS, standard_error};
use crate::commands::inspect::range;
use crate::error::Result;
use crate::json::number;
use crate::output::Output;
use crate::table::{self, table};

/// Inputs of the report: what a run did and measured.
pub(super) struct ReportInputs<'a> {
    pub(super) settings: &'a RunInputs,
    pub(super) output: PathBuf,
    pub(super) plan: &'a Plan,
    pub(super) layers: &'a [LayerReport],
    /// Exact changes of the float model.
    pub(super) transforms: &'a Transforms,
    /// Whether channels would have been equalized with a calibration text.
    pub(super) lacks_text_to_equalize: bool,
    /// The embedding, if it is quantized and not the head's table.
    pub(super) embedding: Option<&'a LayerReport>,
    /// How each layer is computed, by name.
    pub(super) execution: Vec<(String, String)>,
    /// Whether the quantized head is a copy of the embedding, which stays float.
    pub(super) tied_head_copied: bool,
    /// Whether the float head, tied before, is a tensor of its own.
    pub(super) head_untied: bool,
    pub(super) sizes: Sizes,
    pub(super) float: Option<&'a Evaluation>,
    pub(super) quantized: Option<&'a Evaluation>,
    /// Warning about the quality, with its cause; none where the quality is good.
    pub(super) warning: Option<String>,
    /// The verdict; none where nothing was measured.
    pub(super) quality: Option<Quality>,
    pub(super) calibration_tokens: u64,
    pub(super) held_out: Option<&'a HeldOut>,
    pub(super) largest_tensor_bytes: u64,
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) seconds: f64,
    pub(super) device: &'static str,
}

#[derive(Serialize)]
pub(super) struct PtqResult {
    source: PathBuf,
    output: PathBuf,
    bits: u8,
    #[serde(rename = "type")]
    quantization_type: String,
    granularity: String,
    mapping: String,
    scale_dtype: String,
    method: String,
    observer: String,
    activation_observer: Option<String>,
    activation_granularity: Option<String>,
    /// Layers whose inputs are dynamic although the type is static.
    dynamic_inputs: Vec<String>,
    /// Exact changes of the float model before it was quantized.
    transforms: Option<TransformRecord>,
    #[serde(skip)]
    lacks_text_to_equalize: bool,
    /// Why the model was not rotated, where it would have been.
    not_rotated: Option<String>,
    /// Whether the head, tied before, was made a float tensor of its own by the rotation.
    head_untied: bool,
    calibration_tokens: u64,
    /// The embedding first, if it is a quantized table of its own.
    layers: Vec<LayerResult>,
    /// Schemes other than the one above, each with the names of its layers.
    other_schemes: BTreeMap<String, Vec<String>>,
    skipped: Vec<SkippedResult>,
    /// Whether the quantized head is a copy of the embedding, which stays float.
    tied_head_copied: bool,
    /// Whether one quantized table serves head and embedding.
    embedding_shared: bool,
    sizes: Sizes,
    /// Bytes of the largest float tensor, which bounds the memory of quantizing.
    largest_tensor_bytes: u64,
    /// Perplexity of the checkpoint that was written, under the name that all commands share.
    perplexity: Option<f64>,
    perplexity_float: Option<f64>,
    perplexity_quantized: Option<f64>,
    nll_float: Option<f64>,
    nll_quantized: Option<f64>,
    /// Why the quantized model is much worse than the float one, and what to try; none where it is not.
    warning: Option<String>,
    /// The verdict, the uncertainty of the rise, and the text.
    quality: Option<Quality>,
    evaluated_tokens: usize,
    /// The file that perplexities were measured on, and which part of it.
    evaluated_on: Option<String>,
    /// Standard error of `nll_quantized - nll_float`, estimated from the differences of the windows.
    nll_difference_error: Option<f64>,
    /// Windows evaluated.
    windows: usize,
    peak_memory_bytes: Option<u64>,
    seconds: f64,
    device: &'static str,
}

#[derive(Serialize)]
struct LayerResult {
    name: String,
    shape: [usize; 2],
    scheme: String,
    kernel: String,
    scale_min: f32,
    scale_max: f32,
    zero_point_min: i32,
    zero_point_max: i32,
    activation: Option<QParams>,
    /// Estimate of the relative error that one static scale would make in a row of the input.
    static_input_error: Option<f64>,
    /// What is done with the input: `static`, `dynamic` or `weight-only`.
    input: QuantizationType,
    #[serde(serialize_with = "number")]
    sqnr_db: f64,
    max_abs_error: f64,
    clipped_share: f64,
    bytes_before: usize,
    bytes_after: usize,
}

#[derive(Serialize)]
struct SkippedResult {
    name: String,
    shape: [usize; 2],
    reason: String,
}

/// Bytes of weights before and after.
#[derive(Serialize)]
pub(super) struct Sizes {
    linear_before: u64,
    linear_after: u64,
    linear_ratio: f64,
    model_before: u64,
    model_after: u64,
    model_ratio: f64,
}

impl Sizes {
    pub(super) fn new(layers: &[LayerReport], model_before: u64, after: &Checkpoint) -> Self {
        let linear_before = layers.iter().map(|layer| layer.bytes_before as u64).sum::<u64>();
        let linear_after = layers.iter().map(|layer| layer.bytes_after as u64).sum::<u64>();
        let tensors = after.tensors();
        let model_after = after.tensor_names().iter().filter_map(|name| tensors.byte_size(name)).sum::<u64>();
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

/// The layers whose scheme is not `common`, by scheme.
fn other_schemes(common: QuantScheme, layers: &[LayerReport]) -> BTreeMap<String, Vec<String>> {
    let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for layer in layers.iter().filter(|layer| layer.scheme != common) {
        others.entry(layer.scheme.to_string()).or_default().push(layer.name.clone());
    }
    others
}

/// One line of the summary for each other scheme.
fn other(scheme: &str, layers: &[String]) -> String {
    let which = match layers {
        [layer] => layer.clone(),
        layers => format!("{} layers, see the table", layers.len()),
    };
    format!("{:18}{scheme}: {which}\n", "")
}

impl PtqResult {
    pub(super) fn new(inputs: ReportInputs<'_>) -> Self {
        let config = &inputs.settings.config;
        let kernels: BTreeMap<_, _> = inputs.execution.into_iter().collect();
        let rows = inputs.embedding.into_iter().chain(inputs.layers);
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
            observer: config.weight_observer(inputs.calibration_tokens > 0).to_string(),
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
            layers: rows.map(|layer| LayerResult::new(layer, &kernels)).collect(),
            other_schemes: other_schemes(config.scheme, inputs.layers),
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

    pub(super) fn say(&self, output: &Output) -> Result<()> {
        let with_activation = self.layers.iter().any(|layer| layer.activation.is_some());
        let mut header =
            vec!["layer", "shape", "scheme", "scale", "zero point", "SQNR dB", "clipped", "kernel"];
        if with_activation {
            header.push("input scale / zero point");
        }
        output.say(table(&header, self.layers.iter().map(|layer| layer.row(with_activation))))?;
        for layer in &self.skipped {
            let [rows, cols] = layer.shape;
            output.say(format!("left float: {} ({rows}x{cols}): {}", layer.name, layer.reason))?;
        }
        if self.tied_head_copied {
            let cost =
                self.layers.iter().find(|layer| layer.name == LM_HEAD).map_or(0, |head| head.bytes_after);
            output.say(format!(
                "\nThe head was tied to {EMBED_TOKENS}: it was quantized as a copy of its own, and the embedding \
                 stays float. The copy takes {}, which --skip lm_head saves; with --embeddings one quantized table \
                 serves both.",
                table::bytes(cost as u64)
            ))?;
        }
        if self.embedding_shared {
            output.say(format!(
                "\nThe head is tied to {EMBED_TOKENS}: one quantized table, the layer {LM_HEAD}, serves both."
            ))?;
        }
        if self.head_untied {
            output.say(format!(
                "\nThe head was tied to {EMBED_TOKENS}: rotated, it is a float tensor of its own, as large as the \
                 embedding."
            ))?;
        }
        output.say(self.summary())?;
        if let Some(quality) = &self.quality {
            output.say(format!("\n{}", quality.verdict))?;
        }
        self.warning.iter().try_for_each(|warning| output.say(format!("\n{warning}")))
    }

    /// What was done to the float model, in words.
    fn changes(&self) -> String {
        let record = self.transforms.unwrap_or_default();
        let rotated = record.rotation_seed.map(|seed| format!("rotated (seed {seed})"));
        let smoothed = record.smoothing_strength.map(|strength| format!("smoothed (strength {strength})"));
        let equalized = record.equalized_mlps.map(|count| format!("{count} MLPs equalized"));
        let norms = record.equalized_norms.map(|count| format!("equalized behind {count} norms"));
        let done: Vec<String> = rotated.into_iter().chain(smoothed).chain(equalized).chain(norms).collect();
        let mut text = if done.is_empty() { "as it was".to_owned() } else { done.join(", ") };
        if let Some(reason) = &self.not_rotated {
            text += &format!("; not rotated: {reason}");
        }
        if self.lacks_text_to_equalize {
            text += "; channels not equalized: that needs --calibration FILE";
        }
        text
    }

    /// The two perplexities, how certain their difference is, and what they were measured on.
    fn perplexity(&self, float: f64, quantized: f64) -> String {
        let difference = (quantized / float - 1.0) * 100.0;
        let error = self.nll_difference_error.map_or("uncertain".to_owned(), |error| {
            format!("± {:.2} %", (quantized / float) * CONFIDENCE * error * 100.0)
        });
        let few = if self.windows < FEW_WINDOWS { "; so few tokens decide little" } else { "" };
        format!(
            "{float:.4} float -> {quantized:.4} quantized ({difference:+.2} % {error})\n\
             measured on       {} held-out tokens: {}{few}",
            self.evaluated_tokens,
            self.evaluated_on.as_deref().unwrap_or_default(),
        )
    }

    fn summary(&self) -> String {
        let Sizes { linear_before, linear_after, linear_ratio, model_before, model_after, model_ratio } =
            self.sizes;
        let size = |before, after, ratio| {
            format!("{} -> {} ({ratio:.4}x)", table::bytes(before), table::bytes(after))
        };
        let over =
            match self.calibration_tokens > 0 && (self.observer == "weighted-mse" || self.method == "gptq") {
                true => format!(" over {} tokens", self.calibration_tokens),
                false => String::new(),
            };
        let peak = self.peak_memory_bytes.map_or("not known here".to_owned(), table::bytes);
        let activations = match (&self.activation_observer, &self.activation_granularity) {
            (Some(observer), _) => {
                let tokens = self.calibration_tokens;
                let dynamic = match self.dynamic_inputs.len() {
                    0 => String::new(),
                    count => format!("; dynamic in {count} of {} layers", self.layers.len()),
                };
                format!("8-bit static, {observer} over {tokens} tokens{dynamic}")
            }
            (None, Some(granularity)) => format!("8-bit dynamic, one scale per {granularity}"),
            (None, None) => "float (weight-only)".to_owned(),
        };
        let others: String =
            self.other_schemes.iter().map(|(scheme, layers)| other(scheme, layers)).collect();
        let perplexity = match (self.perplexity_float, self.perplexity_quantized) {
            (Some(float), Some(quantized)) => self.perplexity(float, quantized),
            _ => "not measured (--no-eval)".to_owned(),
        };
        format!(
            "\nweights           int{} {}, {}, {} scales, {} observer{over}, {}\n\
             {others}\
             activations       {activations}\n\
             float model       {}\n\
             linear layers     {}\n\
             whole model       {}\n\
             perplexity        {perplexity}\n\
             peak memory       {peak} (largest float tensor {})\n\
             time              {:.1} s on {}\n\
             wrote             {}",
            self.bits,
            self.granularity,
            self.mapping,
            self.scale_dtype,
            self.observer,
            self.method,
            self.changes(),
            size(linear_before, linear_after, linear_ratio),
            size(model_before, model_after, model_ratio),
            table::bytes(self.largest_tensor_bytes),
            self.seconds,
            self.device,
            self.output.display(),
        )
    }
}

fn dynamic_inputs(layers: &[LayerReport]) -> Vec<String> {
    let dynamic = layers.iter().filter(|layer| matches!(layer.activation, ActivationQuant::Dynamic(_)));
    dynamic.map(|layer| layer.name.clone()).collect()
}

impl LayerResult {
    fn new(layer: &LayerReport, kernels: &BTreeMap<String, String>) -> Self {
        let scales = || layer.qparams.iter().map(|qparams| qparams.scale);
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

    fn row(&self, with_activation: bool) -> Vec<String> {
        let [rows, cols] = self.shape;
        let mut row = vec![
            self.name.clone(),
            format!("{rows}x{cols}"),
            self.scheme.clone(),
            range(table::scale(self.scale_min), table::scale(self.scale_max)),
            range(self.zero_point_min.to_string(), self.zero_point_max.to_string()),
            format!("{:.2}", self.sqnr_db),
            table::percent(self.clipped_share),
            self.kernel.clone(),
        ];
        if with_activation {
            let of = |QParams { scale, zero_point }| format!("{} / {zero_point}", table::scale(scale));
            row.push(self.activation.map_or(self.input.to_string(), of));
        }
        row
    }
}
