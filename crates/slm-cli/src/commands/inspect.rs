//! `slm inspect`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::{Checkpoint, LayerMetadata, QuantizationMetadata, TransformRecord};
use slm_kernels::KernelKind;
use slm_model::{LM_HEAD, ModelConfig};
use slm_quant_core::{ActivationQuant, Histogram, HistogramView, QParams, QuantizationType, QuantizedMatrix};
use slm_train::{RunProgress, run_progress};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::table::{self, table};

/// Bars of a histogram of values.
const HISTOGRAM_BINS: usize = 16;

/// Show what a checkpoint holds, down to scales and zero points of a layer.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Checkpoint directory, float or quantized
    dir: PathBuf,
    /// Show one layer in full, such as layers.0.self_attn.q_proj
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
}

pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_checkpoint(&args.dir)?;
    match &args.layer {
        Some(layer) => inspect_layer(&checkpoint, layer, context),
        None => inspect_checkpoint(&checkpoint, context),
    }
}

#[derive(Serialize)]
struct CheckpointView<'a> {
    checkpoint: &'a std::path::Path,
    program_version: &'a str,
    model: &'a ModelConfig,
    parameters: u64,
    quantized: bool,
    /// How inputs of quantized layers are treated.
    input_quantization: Option<String>,
    /// How far an interrupted training run has come.
    unfinished: Option<Unfinished>,
    tensors: Vec<TensorView>,
    weight_bytes: u64,
    quantization: Option<&'a QuantizationMetadata>,
    kernel: String,
    kernels_available: Vec<String>,
}

#[derive(Serialize)]
struct Unfinished {
    step: usize,
    steps: usize,
}

impl From<RunProgress> for Unfinished {
    fn from(run: RunProgress) -> Self {
        Self { step: run.step, steps: run.steps }
    }
}

/// How the inputs of quantized layers are treated, in words.
fn inputs(metadata: &QuantizationMetadata) -> String {
    match (metadata.quantization_type, &metadata.activation_observer, metadata.activation_granularity) {
        (QuantizationType::WeightOnly, ..) => "weight-only, float activations".to_owned(),
        (QuantizationType::Static, Some(observer), _) => format!("static 8-bit activations ({observer})"),
        (QuantizationType::Static, None, _) => "static 8-bit activations".to_owned(),
        (QuantizationType::Dynamic, _, Some(granularity)) => {
            format!("dynamic 8-bit activations (one scale per {granularity})")
        }
        (QuantizationType::Dynamic, ..) => "dynamic 8-bit activations".to_owned(),
    }
}

#[derive(Serialize)]
struct TensorView {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
}

fn inspect_checkpoint(checkpoint: &Checkpoint, context: &Context) -> Result<()> {
    let file = checkpoint.tensors();
    let tensors: Vec<_> = checkpoint
        .tensor_names()
        .iter()
        .map(|name| TensorView {
            name: name.clone(),
            dtype: file.dtype(name).map(|dtype| dtype.to_string()).unwrap_or_default(),
            shape: file.shape(name).unwrap_or_default().to_vec(),
            bytes: file.byte_size(name).unwrap_or_default(),
        })
        .collect();
    let config = checkpoint.config();
    let view = CheckpointView {
        checkpoint: checkpoint.dir(),
        unfinished: run_progress(checkpoint.dir()).filter(RunProgress::is_unfinished).map(Unfinished::from),
        input_quantization: checkpoint.metadata().map(inputs),
        program_version: &config.program_version,
        model: &config.model,
        parameters: config.model.parameter_count(),
        quantized: checkpoint.is_quantized(),
        weight_bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
        tensors,
        quantization: checkpoint.metadata(),
        kernel: KernelKind::selected().to_string(),
        kernels_available: KernelKind::available().iter().map(ToString::to_string).collect(),
    };
    let rows = view.tensors.iter().map(|tensor| {
        vec![
            tensor.name.clone(),
            tensor.dtype.clone(),
            format!("{:?}", tensor.shape),
            table::bytes(tensor.bytes),
        ]
    });
    context.output.say(table(&["tensor", "type", "shape", "bytes"], rows))?;
    if let Some(metadata) = view.quantization {
        context.output.say(format!("\n{}", layers_table(metadata.records(), metadata.quantization_type)))?;
        if view.model.tie_word_embeddings && metadata.layer(LM_HEAD).is_some() {
            context.output.say(format!("one table, {LM_HEAD}, serves head and embedding"))?;
        }
        for layer in &metadata.skipped {
            context.output.say(format!("left float: {} ({})", layer.name, layer.reason))?;
        }
        if let Some(TransformRecord { rotation_seed, smoothing_strength, equalized_mlps, equalized_norms }) =
            metadata.lineage.transforms
        {
            let rotated = rotation_seed.map(|seed| format!("rotated (seed {seed})"));
            let smoothed = smoothing_strength.map(|strength| format!("smoothed (strength {strength})"));
            let equalized = equalized_mlps.map(|count| format!("equalized in {count} MLPs"));
            let norms = equalized_norms.map(|count| format!("equalized behind {count} norms"));
            let done: Vec<String> =
                rotated.into_iter().chain(smoothed).chain(equalized).chain(norms).collect();
            context
                .output
                .say(format!("\nbefore it was quantized the float model was {}", done.join(", ")))?;
        }
    }
    context.output.say(format!(
        "\n{}{}: {} parameters, {} of weights, written by slm {}\nkernel {} (available: {})",
        if view.quantized { "quantized model" } else { "float model" },
        view.input_quantization.as_ref().map_or_else(String::new, |inputs| format!(", {inputs}")),
        view.parameters,
        table::bytes(view.weight_bytes),
        view.program_version,
        view.kernel,
        view.kernels_available.join(", "),
    ))?;
    if let Some(Unfinished { step, steps }) = view.unfinished {
        context.output.say(format!(
            "unfinished training run: step {step} of {steps}; the command that started it continues it with --resume"
        ))?;
    }
    context.output.result(&view)
}

fn layers_table<'a>(
    layers: impl Iterator<Item = &'a LayerMetadata>,
    quantization_type: QuantizationType,
) -> String {
    let rows = layers.map(|layer| {
        let zero_points = layer.zero_points.as_ref();
        vec![
            layer.name.clone(),
            format!("{}x{}", layer.shape[0], layer.shape[1]),
            layer.scheme.to_string(),
            range(table::scale(layer.scales.min), table::scale(layer.scales.max)),
            zero_points.map_or("0".to_owned(), |zero| range(zero.min.to_string(), zero.max.to_string())),
            format!("{:.2}", layer.error.sqnr_db),
            table::percent(layer.error.clipped_share),
            match (layer.activation, layer.activation_granularity) {
                (Some(_), _) => "static".to_owned(),
                (None, Some(granularity)) => format!("dynamic, by {granularity}"),
                (None, None) => quantization_type.to_string(),
            },
        ]
    });
    table(&["layer", "shape", "scheme", "scale", "zero point", "SQNR dB", "clipped", "input"], rows)
}

/// `low..high`, or one value where they are the same.
pub(crate) fn range(low: String, high: String) -> String {
    if low == high { low } else { format!("{low}..{high}") }
}

#[derive(Serialize)]
struct LayerView<'a> {
    name: &'a str,
    shape: [usize; 2],
    /// How the weights are stored.
    form: String,
    /// How the input is treated.
    activation: Option<String>,
    /// All of them, by row, then group.
    qparams: Vec<QParams>,
    metadata: Option<&'a LayerMetadata>,
    /// Count of each code, lowest first.
    codes: Vec<CodeCount>,
    values: ValueView,
}

#[derive(Serialize)]
struct CodeCount {
    code: i8,
    count: u64,
}

#[derive(Serialize)]
struct ValueView {
    min: f32,
    max: f32,
    /// `[from, to, count]` of equal bins.
    histogram: Vec<(f32, f32, u64)>,
}

fn inspect_layer(checkpoint: &Checkpoint, name: &str, context: &Context) -> Result<()> {
    // As the table of tensors has it, and as Hugging Face does.
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let name = name.strip_prefix("model.").filter(|name| name.contains("layers.")).unwrap_or(name);
    let weight = format!("{name}.weight");
    let (view, quantized) = if let Some((matrix, activation)) = checkpoint.read_quantized(name)? {
        let view = LayerView {
            name,
            shape: [matrix.rows(), matrix.cols()],
            form: matrix.scheme().to_string(),
            activation: Some(describe(activation)),
            qparams: (0..matrix.scales().len()).map(|index| matrix.qparams(index)).collect(),
            metadata: checkpoint.metadata().and_then(|metadata| metadata.layer(name)),
            codes: count_codes(&matrix),
            values: values(&matrix.dequantize())?,
        };
        (view, true)
    } else if let Some(&[rows, cols]) = checkpoint.tensors().shape(&weight) {
        let view = LayerView {
            name,
            shape: [rows, cols],
            form: "f32".to_owned(),
            activation: None,
            qparams: Vec::new(),
            metadata: None,
            codes: Vec::new(),
            values: values(&checkpoint.tensors().read_f32(&weight)?)?,
        };
        (view, false)
    } else {
        return Err(unknown_layer(checkpoint, name));
    };
    say_layer(&view, quantized, context)?;
    context.output.result(&view)
}

fn unknown_layer(checkpoint: &Checkpoint, name: &str) -> Error {
    let layers = checkpoint.tensor_names().iter().filter_map(|tensor| tensor.split(".weight").next());
    let mut layers: Vec<_> = layers.filter(|layer| *layer != name).collect();
    layers.dedup();
    let similar = |layer: &&&str| (strsim::jaro_winkler(layer, name) * 1e6) as u32;
    let nearest = layers.iter().max_by_key(similar).filter(|layer| similar(layer) >= 850_000);
    let hint = nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"));
    let shown = layers.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    Error::file(checkpoint.dir(), format!("has no layer {name:?}{hint}; its layers are {shown}, ..."))
}

fn describe(activation: ActivationQuant) -> String {
    match activation {
        ActivationQuant::Float => "float (weight-only)".to_owned(),
        ActivationQuant::Dynamic(granularity) => format!("dynamic, 8-bit, one scale per {granularity}"),
        ActivationQuant::Static(QParams { scale, zero_point }) => {
            format!("static, 8-bit, scale {}, zero point {zero_point}", table::scale(scale))
        }
    }
}

fn count_codes(matrix: &QuantizedMatrix) -> Vec<CodeCount> {
    let range = matrix.scheme().range();
    let mut counts = vec![0; (range.steps() + 1) as usize];
    for row in 0..matrix.rows() {
        for col in 0..matrix.cols() {
            counts[(i32::from(matrix.code(row, col)) - range.quant_min()) as usize] += 1;
        }
    }
    let lowest = range.quant_min() as i8;
    (lowest..=i8::MAX).zip(counts).map(|(code, count)| CodeCount { code, count }).collect()
}

fn values(values: &[f32]) -> Result<ValueView> {
    let mut histogram = Histogram::default();
    histogram.observe(values)?;
    let HistogramView { min, max, counts } = histogram.view(HISTOGRAM_BINS)?;
    let width = (max - min) / counts.len() as f32;
    let edge = |index: usize| min + width * index as f32;
    let bins = counts.into_iter().enumerate().map(|(i, count)| (edge(i), edge(i + 1), count));
    Ok(ValueView { min, max, histogram: bins.collect() })
}

fn say_layer(view: &LayerView<'_>, quantized: bool, context: &Context) -> Result<()> {
    let [rows, cols] = view.shape;
    context.output.say(format!("{}: {rows} outputs x {cols} inputs, {}", view.name, view.form))?;
    if let Some(activation) = &view.activation {
        context.output.say(format!("input: {activation}"))?;
    }
    if let Some(metadata) = view.metadata {
        context.output.say(format!(
            "SQNR {:.2} dB, largest error {:.3e}, {} clipped, {} -> {}",
            metadata.error.sqnr_db,
            metadata.error.max_abs_error,
            table::percent(metadata.error.clipped_share),
            table::bytes(metadata.bytes_before),
            table::bytes(metadata.bytes_after),
        ))?;
    }
    if quantized {
        context.output.say("\nscale and zero point, by row, then group:")?;
        let groups = view.qparams.len().div_ceil(if view.qparams.len() == 1 { 1 } else { rows });
        let rows = view.qparams.chunks(groups).enumerate().map(|(row, params)| {
            let of = |p: &QParams| format!("{} / {}", table::scale(p.scale), p.zero_point);
            vec![row.to_string(), params.iter().map(of).collect::<Vec<_>>().join("  ")]
        });
        context.output.say(table(&["row", "scale / zero point"], rows))?;
    }
    let most = view.values.histogram.iter().map(|bin| bin.2).fold(1, u64::max) as f64;
    context.output.say(format!("\nvalues from {:.5} to {:.5}:", view.values.min, view.values.max))?;
    for (from, to, count) in &view.values.histogram {
        let bar = "#".repeat((*count as f64 / most * 50.0).round() as usize);
        context.output.say(format!("{from:>10.4} .. {to:>8.4} {count:>9} {bar}"))?;
    }
    Ok(())
}
