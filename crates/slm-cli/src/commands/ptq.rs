//! `slm ptq`

mod report;
mod settings;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use slm_checkpoint::{
    CalibrationRecord, Checkpoint, FORMAT_VERSION, LayerMetadata, Lineage, QuantizationMetadata,
    QuantizationMode, SaveRequest, SkippedLayer, WeightError, reserve_output, save, sha256,
};
use slm_model::{LM_HEAD, Transformer, window_logits};
use slm_ptq::{Calibration, LayerReport, Plan, PtqConfig, calibrate, convert};
use slm_quant_core::{
    ActivationGranularity, Granularity, Mapping, ObserverKind, QuantizationType, ScaleDtype,
};
use slm_quant_nn::NamedLinears;
use slm_text::{Tokenizer, read_text};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory;
use crate::text::{check_length, evaluate_with_progress, read_ids, tokenizer, window};
use report::{PtqResult, Sizes};
use settings::Settings;

/// Quantize a trained model to INT8 or INT4 (post-training quantization) and report everything that was done.
///
/// With no option it quantizes the model that ships with the project. Embeddings and norms stay float; a tied
/// head is quantized as a copy of its own.
#[derive(Debug, Args)]
pub(crate) struct PtqArgs {
    /// Float checkpoint to quantize [default: the model that ships]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Training config whose [quantization] section gives the settings; options below override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Width of the weights: 8 or 4 [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u8))]
    bits: Option<u8>,
    /// static (8-bit activations, calibrated), dynamic (8-bit, scales from each input) or weight-only
    /// [default: static]
    #[arg(long = "type", value_name = "TYPE")]
    quantization_type: Option<QuantizationType>,
    /// Weights that share a scale: tensor, channel or group:N [default: tensor]
    #[arg(long)]
    granularity: Option<Granularity>,
    /// symmetric, symmetric-torch or affine [default: symmetric]
    #[arg(long)]
    mapping: Option<Mapping>,
    /// Type of stored scales: f32 or f16 [default: f32]
    #[arg(long)]
    scale_dtype: Option<ScaleDtype>,
    /// Chooses weight ranges: min-max, moving-average, histogram, percentile[:P] or mse [default: mse]
    #[arg(long, value_name = "NAME")]
    observer: Option<ObserverKind>,
    /// Chooses static activation ranges, by the same names [default: mse]
    #[arg(long, value_name = "NAME")]
    activation_observer: Option<ObserverKind>,
    /// Dynamic activations that share a scale: token or tensor [default: token]
    #[arg(long, value_name = "GRANULARITY")]
    activation_granularity: Option<ActivationGranularity>,
    /// Text to calibrate on; without --eval its last tenth is held out for the perplexities
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Most tokens to calibrate on
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    calibration_tokens: usize,
    /// Held-out text for the perplexities
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Most tokens to evaluate on
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    eval_tokens: usize,
    /// Tokens in a window [default: 256, or the model's positions if fewer]
    #[arg(long)]
    window: Option<usize>,
    /// Leave layers float whose name matches, such as lm_head or 'layers.0.*' (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    skip: Vec<String>,
    /// Checkpoint directory to write [default: out/ptq-int8-static-tensor and the like, which is replaced]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace a checkpoint that is at --out already
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &PtqArgs, context: &Context) -> Result<()> {
    let start = Instant::now();
    let settings = Settings::new(args)?;
    let config = &settings.config;
    // Held to the end: no other process writes there meanwhile.
    let _output = reserve_output(&settings.out, settings.overwrite)?;
    let checkpoint = context.open_checkpoint(&settings.checkpoint)?;
    checkpoint.require_float()?;
    let window = window(args.window, &checkpoint.config().model)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let texts = Texts::read(&settings, args, &tokenizer, window)?;
    let model = checkpoint.load_model(&context.device)?;
    let float_bytes =
        checkpoint.tensor_names().iter().filter_map(|name| checkpoint.tensors().byte_size(name));
    let float_bytes = float_bytes.sum();
    let float = evaluate_with_progress(context, "float perplexity", &model, &texts.held_out, window)?;

    let tied = model.head_is_tied();
    let (mut model, plan) = plan_with_head(model, config)?;
    let calibration = match config.quantization_type {
        QuantizationType::Static => {
            Some(observe(&mut model, &plan, config, &texts.calibration, window, context)?)
        }
        QuantizationType::Dynamic | QuantizationType::WeightOnly => None,
    };
    let bar = context.progress.bar("quantizing layers", plan.layers.len());
    let layers = convert(&mut model, &plan, config, calibration.as_ref(), &mut |_| bar.inc(1))?;
    bar.finish_and_clear();
    context.interrupt.check()?;

    let metadata = metadata(config, &plan, &model, &layers, &checkpoint, &texts)?;
    let request = SaveRequest {
        tokenizer_json: checkpoint.tokenizer_json(),
        tokenizer: checkpoint.config().tokenizer.clone(),
        metadata: Some(&metadata),
        lineage: Some(json!({
            "method": "ptq",
            "source_sha256": metadata.lineage.source_sha256,
            "source": checkpoint.config().lineage,
        })),
        training: checkpoint.config().training.clone(),
        extra_files: &[],
    };
    let path = save(&settings.out, &model, &request, settings.overwrite)?;
    drop(model);

    // The figure is that of the checkpoint as it will be used, not of what was in memory.
    let quantized_checkpoint = Checkpoint::open(&path)?;
    let model = quantized_checkpoint.load_model(&context.device)?;
    let quantized = evaluate_with_progress(context, "quantized perplexity", &model, &texts.held_out, window)?;
    let execution = executions(&model);
    let result = PtqResult::new(report::Facts {
        settings: &settings,
        output: path,
        plan: &plan,
        layers: &layers,
        execution,
        head_was_tied: tied,
        sizes: Sizes::new(&layers, float_bytes, &quantized_checkpoint),
        float: &float,
        quantized: &quantized,
        calibration_tokens: metadata.lineage.calibration.map_or(0, |record| record.tokens),
        peak_memory_bytes: memory::peak_bytes(),
        seconds: start.elapsed().as_secs_f64(),
        device: context.device_name,
    });
    result.say(&context.output)?;
    context.output.result(&result)
}

/// The texts as token ids.
struct Texts {
    calibration: Vec<u32>,
    calibration_sha256: String,
    held_out: Vec<u32>,
}

impl Texts {
    fn read(settings: &Settings, args: &PtqArgs, tokenizer: &Tokenizer, window: usize) -> Result<Self> {
        let path = &settings.calibration;
        let text = read_text(path)?;
        let mut calibration = tokenizer.encode(&text)?;
        let calibration_sha256 = sha256(text.as_bytes());
        drop(text);
        let mut held_out = match &settings.eval {
            Some(path) => {
                let ids = read_ids(tokenizer, path)?;
                check_length(path, &ids, window)?;
                ids
            }
            None => {
                let held_out = (calibration.len() / 10).max(window);
                check_length(path, &calibration, window + held_out)?;
                calibration.split_off(calibration.len() - held_out)
            }
        };
        calibration.truncate(args.calibration_tokens);
        held_out.truncate(args.eval_tokens);
        check_length(path, &calibration, window)?;
        Ok(Self { calibration, calibration_sha256, held_out })
    }
}

/// Plans the layers with the head among them. A tied head that is to be quantized becomes a layer of its own,
/// so that the embedding stays float; one that is skipped stays tied.
fn plan_with_head(mut model: Transformer, config: &PtqConfig) -> Result<(Transformer, Plan)> {
    // A clone shares the weights.
    let tied = model.clone();
    model.untie_head();
    let plan = Plan::new(&model, config)?;
    let head_is_planned = plan.layers.iter().any(|layer| layer.name == LM_HEAD);
    Ok((if head_is_planned { model } else { tied }, plan))
}

fn observe(
    model: &mut Transformer,
    plan: &Plan,
    config: &PtqConfig,
    ids: &[u32],
    window: usize,
    context: &Context,
) -> Result<Calibration> {
    let bar = context.progress.bar("calibrating", ids.len().div_ceil(window));
    let calibration = calibrate(model, plan, &config.activation_observer, |model| {
        for chunk in ids.chunks(window) {
            context.interrupt.check()?;
            window_logits(model, chunk)?;
            bar.inc(1);
        }
        Ok::<_, Error>(())
    })?;
    bar.finish_and_clear();
    Ok(calibration)
}

fn metadata(
    config: &PtqConfig,
    plan: &Plan,
    model: &Transformer,
    reports: &[LayerReport],
    source: &Checkpoint,
    texts: &Texts,
) -> Result<QuantizationMetadata> {
    let mut layers = Vec::with_capacity(reports.len());
    model.for_each_linear(&mut |name, linear| {
        let report = reports.iter().find(|report| report.name == name);
        if let (Some(report), Some(packed)) = (report, linear.packed()) {
            layers.push(LayerMetadata::new(
                name,
                &packed.matrix().unpack(),
                report.activation,
                WeightError {
                    sqnr_db: report.error.sqnr_db(),
                    max_abs_error: report.error.max_abs_error(),
                    clipped_share: report.error.clipped_share().unwrap_or(0.0),
                },
            ));
        }
    });
    let is_static = config.quantization_type == QuantizationType::Static;
    let is_dynamic = config.quantization_type == QuantizationType::Dynamic;
    Ok(QuantizationMetadata {
        format_version: FORMAT_VERSION,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: QuantizationMode::Ptq,
        quantization_type: config.quantization_type,
        bits: config.scheme.bits,
        granularity: config.scheme.granularity,
        mapping: config.scheme.mapping,
        scale_dtype: config.scheme.scale_dtype,
        weight_observer: config.observer.to_string(),
        activation_observer: is_static.then(|| config.activation_observer.to_string()),
        activation_granularity: is_dynamic.then_some(config.activation_granularity),
        layers,
        skipped: plan.skipped.iter().map(skipped_metadata).collect(),
        lineage: Lineage {
            source_sha256: Some(source.weights_sha256()?),
            calibration: is_static.then(|| CalibrationRecord {
                text_sha256: texts.calibration_sha256.clone(),
                tokens: texts.calibration.len() as u64,
            }),
            training: None,
        },
    })
}

fn skipped_metadata(layer: &slm_ptq::SkippedLayer) -> SkippedLayer {
    SkippedLayer { name: layer.name.clone(), shape: layer.shape, reason: layer.reason.clone() }
}

/// How the device computes each layer, by name.
fn executions(model: &Transformer) -> Vec<(String, String)> {
    let device = model.device();
    let mut executions = Vec::new();
    model.for_each_linear(&mut |name, linear| {
        let how = linear.packed().map_or("float".to_owned(), |packed| packed.execution(&device).to_string());
        executions.push((name.to_owned(), how));
    });
    executions
}
