//! `slm ptq`

mod inputs;
mod page;
mod quality;
mod report;
mod texts;
mod uncertainty;
mod verdict;
mod words;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use slm_checkpoint::reserve_output;
use slm_model::{TOKEN_TABLE, Transformer};
use slm_nn::NamedLinears;
use slm_ptq::{
    CalibrationTokens, CheckpointQuantizer, DynamicInputs, KeepLayers, LayerScheme, QuantizedCheckpoint,
    Rotate, RoundingMethod, Smooth, TransformedSource,
};
use slm_quant_core::{ActivationGranularity, ObserverKind};
use slm_train::Setting;

use crate::commands::scheme_args::SchemeArgs;
use crate::commands::setting_args;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::HtmlArgs;
use crate::memory;
use crate::out_file::relative;
use crate::table::TableArgs;
use crate::text::{WindowArgs, evaluate_with_progress, file_name, tokenizer};
use inputs::{CalibrationSource, RunInputs};
pub(in crate::commands) use page::plot;
use quality::Quality;
pub(in crate::commands) use quality::{grade, grade_alone};
use report::{PtqResult, Sizes};
use texts::{TextReader, Texts};
pub(in crate::commands) use uncertainty::Rise;
use verdict::Evaluations;

/// Quantize a trained model to INT8 or INT4 (post-training quantization), and report every step.
///
/// Without options it quantizes the model that ships with the project. Embeddings and norms stay float; a tied head is
/// quantized as a separate copy, or with --embeddings shares one quantized table with the embedding. The float model
/// may be rotated or smoothed first, which does not change its outputs in floats. The report begins with a verdict on
/// the perplexity: GOOD, WORSE (a rise of more than 5 %), BROKEN (twice the float model's or more) or UNCLEAR (the text
/// is too short), with its uncertainty and the name of the text. If the verdict is WORSE or BROKEN, the report names the
/// cause.
#[derive(Debug, Args)]
pub(crate) struct PtqArgs {
    /// Float checkpoint to quantize [default: the model that ships]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Training config whose [quantization] section gives the settings; options below override it, and --skip and --layer add to it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a value of the config, or of the defaults without one, such as quantization.granularity=channel (may be
    /// repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting_args::set)]
    set: Vec<Setting>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// Rounding of weights: rtn (to nearest), gptq (later weights compensate for each error), awq (to nearest, with
    /// channels scaled by their activations), or tune (gptq, then codes and scales of each block are trained to give
    /// the float block's outputs); all but rtn need a text [default: rtn]
    #[arg(long, value_name = "METHOD")]
    method: Option<RoundingMethod>,
    /// Training steps per block, with --method tune [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tune_steps: Option<u32>,
    /// Quantize the token embedding: int8, int4, or with details such as int4:group:32. If the head is tied to it, one
    /// table then serves both. The default granularity is that of the layers, but channel in place of tensor
    /// [default: it stays float]
    #[arg(long, value_name = "SCHEME")]
    embeddings: Option<LayerScheme>,
    /// Observer that chooses weight ranges: min-max, moving-average, histogram, percentile[:P], mse, or weighted-mse,
    /// which weighs each input by its mean square over the calibration text [default: weighted-mse for 4 bits, and for
    /// 8 bits per tensor by rtn, with a text or a rotated model; otherwise min-max]
    #[arg(long, value_name = "NAME")]
    observer: Option<ObserverKind>,
    /// Observer that chooses static activation ranges: min-max, moving-average, histogram, percentile[:P] or mse
    /// [default: mse]
    #[arg(long, value_name = "NAME")]
    activation_observer: Option<ObserverKind>,
    /// Dynamic activations that share a scale: token or tensor [default: token]
    #[arg(long, value_name = "GRANULARITY")]
    activation_granularity: Option<ActivationGranularity>,
    /// Layers whose activations are dynamic even though the type is static: auto (those that lose most to one scale),
    /// none, or names such as '*.down_proj' with commas between them [default: auto]
    #[arg(long, value_name = "LAYERS")]
    dynamic_inputs: Option<DynamicInputs>,
    /// Rotate the residual stream and the heads by random orthogonal matrices first, which spreads outliers and costs
    /// nothing at inference: auto, on or off [default: auto]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "on")]
    rotate: Option<Rotate>,
    /// Smooth channels first, moving large activations into weights: auto (between up_proj and down_proj of MLPs, and
    /// after the norms of a model that is not rotated, where that brings outputs nearer to the float ones; if the model is
    /// not rotated, with a calibration text only), off, or everywhere with a strength from 0 to 1, which needs a
    /// calibration text [default: auto]
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "0.5")]
    smooth: Option<Smooth>,
    /// Text to calibrate on; without --eval its last tenth is held out for the perplexities
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Calibrate on text that the float model writes itself, if no text is at hand
    #[arg(long, conflicts_with = "calibration")]
    sample_calibration: bool,
    /// Maximum number of tokens to calibrate on [default: 16384; 32768 for gptq and tune]
    #[arg(long, value_name = "N")]
    calibration_tokens: Option<usize>,
    /// Held-out text for the perplexities
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Maximum number of tokens to evaluate on
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    eval_tokens: usize,
    /// Do not measure perplexities. Then the model is never in memory as a whole, and no text is needed unless the type
    /// is static
    #[arg(long)]
    no_eval: bool,
    #[command(flatten)]
    windows: WindowArgs,
    /// Calibrate without the beginning-of-sequence token that the tokenizer puts in front of prompts
    #[arg(long)]
    no_calibration_bos: bool,
    /// Checkpoint directory to write [default: out/ptq-int8-static-tensor and the like, which is replaced]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace an existing checkpoint at --out
    #[arg(long)]
    overwrite: bool,
    /// Resume an interrupted run of --method gptq or tune, whose finished layers are kept in OUT.unfinished
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    html: HtmlArgs,
    #[command(flatten)]
    tables: TableArgs,
}

pub(crate) fn run(args: &PtqArgs, context: &Context) -> Result<()> {
    let start = Instant::now();
    let settings = RunInputs::new(args)?;
    args.html.prepare()?;
    // Held until the end, so that no other process writes there.
    let output = reserve_output(&settings.out, settings.overwrite)?;
    let checkpoint = context.open_checkpoint(&settings.checkpoint)?;
    let spinner = context.progress.spinner("choosing transformations");
    let mut quantizer = CheckpointQuantizer::new(&checkpoint, settings.config.clone())?;
    drop(spinner);
    keep_layers(&mut quantizer, args, output.target())?;
    let windowing = args.windows.windowing(&checkpoint)?;
    let tokenizer = match settings.calibration.is_some() || settings.eval.is_some() {
        true => Some(tokenizer(&checkpoint)?),
        false => None,
    };
    let prefix = match &tokenizer {
        Some(tokenizer) if !args.no_calibration_bos => tokenizer.prefix()?,
        _ => Vec::new(),
    };
    let reader = tokenizer.as_ref().map(|tokenizer| TextReader {
        context,
        args,
        tokenizer,
        vocab_size: checkpoint.config().model.vocab_size,
        windowing: &windowing,
        calibration_tokens: args
            .calibration_tokens
            .unwrap_or(quantizer.config().method.default_calibration_tokens()),
    });
    let mut texts = match &reader {
        Some(reader) => reader.read(&settings)?,
        None => Texts::default(),
    };

    let writer = reader.filter(|_| matches!(settings.calibration, Some(CalibrationSource::Model)));
    if writer.is_some() && !quantizer.uses_calibration() {
        tracing::warn!("--sample-calibration has no effect: nothing is calibrated with these options");
    }
    let writer = writer.filter(|_| quantizer.uses_calibration());
    let mut float = None;
    if texts.held_out.is_some() || writer.is_some() {
        let model = context.load_model(&checkpoint)?;
        if let Some(held_out) = &texts.held_out {
            float = Some(evaluate_with_progress(context, "float perplexity", &model, &held_out.windows)?);
        }
        if let Some(writer) = &writer {
            texts.calibration = Some(writer.sample(&checkpoint, &model)?);
        }
    }
    let held_out = texts.held_out.as_ref();
    let calibration = texts.calibration.as_ref().filter(|_| quantizer.uses_calibration());
    // The float model was dropped: from here on only one layer is in memory.
    if let Some(text) = calibration {
        let most = checkpoint.config().model.max_position_embeddings.saturating_sub(prefix.len());
        let tokens = CalibrationTokens {
            ids: &text.ids,
            window: windowing.len.min(most),
            prefix: &prefix,
            text_sha256: text.sha256.clone(),
        };
        quantizer
            .calibrate(&tokens, &context.device, &mut context.quantizing())
            .map_err(|error: Error| error.unwritten(&settings.out))?;
        if let Some(name) =
            settings.calibration.as_ref().and_then(CalibrationSource::path).and_then(file_name)
        {
            quantizer.name_text(name);
        }
    } else {
        let _spinner = context.progress.spinner("assuming inputs");
        quantizer.assume_inputs(&context.device)?;
    }
    let QuantizedCheckpoint { path, layers, embedding } = quantizer
        .write(&settings.out, settings.overwrite, &mut context.quantizing())
        .map_err(|error| unfinished(error, &quantizer, &settings.out))?;

    // Measured on the written checkpoint, not on the model in memory.
    let quantized_checkpoint = context.open_checkpoint(&path)?;
    let (mut quantized, mut execution, mut warning, mut quality) = (None, Vec::new(), None, None);
    if let (Some(held_out), Some(float)) = (held_out, &float) {
        let mut model = context.load_model(&quantized_checkpoint)?;
        let evaluation = evaluate_with_progress(context, "quantized perplexity", &model, &held_out.windows)?;
        execution = executions(&model);
        let evaluations = Evaluations { float, quantized: &evaluation, windows: &held_out.windows };
        warning = evaluations.warning(&mut model, &quantizer, &layers, context)?;
        quality = Some(Quality::new(float, &evaluation, &held_out.windows, held_out.part.clone()));
        quantized = Some(evaluation);
    }
    let tensor_bytes =
        checkpoint.tensor_names().iter().filter_map(|name| checkpoint.tensors().byte_size(name));
    let largest_tensor_bytes = tensor_bytes.max().unwrap_or(0);
    let result = PtqResult::new(report::ReportInputs {
        settings: &settings,
        output: path,
        plan: quantizer.plan(),
        transforms: quantizer.transforms(),
        observer: quantizer.weight_observer(),
        lacks_text_to_equalize: quantizer.lacks_text_to_equalize(),
        layers: &layers,
        embedding: embedding.as_ref(),
        execution,
        tied_head_copied: quantizer.copies_tied_head(),
        head_untied: quantizer.unties_float_head(),
        sizes: Sizes::new(&layers, checkpoint.weight_bytes(), &quantized_checkpoint),
        float: float.as_ref(),
        quantized: quantized.as_ref(),
        warning,
        quality,
        calibration_tokens: calibration.map_or(0, |text| text.ids.len() as u64),
        calibration_sampled: writer.is_some(),
        lacks_text: quantizer.uses_calibration() && !quantizer.is_calibrated(),
        held_out,
        largest_tensor_bytes,
        peak_memory_bytes: memory::peak_bytes(),
        seconds: start.elapsed().as_secs_f64(),
        device: context.device_name,
    });
    result.say(args.tables, &context.output)?;
    args.html.write(&context.output, || {
        let source = TransformedSource::new(&checkpoint, quantizer.transforms());
        result.page(&quantized_checkpoint, &|layer| {
            let weights = source.read_f32(&format!("{}.weight", layer.name))?;
            Ok((weights.len() == layer.shape[0] * layer.shape[1]).then_some(weights))
        })
    })?;
    context.output.result(&result)
}

/// Lets a run that takes minutes be resumed: its finished layers are kept next to `output`.
fn keep_layers(quantizer: &mut CheckpointQuantizer<'_>, args: &PtqArgs, output: &Path) -> Result<()> {
    let method = quantizer.config().method;
    if args.resume && !method.is_sequential() {
        return Err(Error::Usage(format!(
            "--resume: only runs of --method gptq and tune can be resumed, and this is {method}"
        )));
    }
    // The default output may be replaced, but not hours of work next to it.
    let keep = match (args.resume, args.overwrite) {
        (true, _) => KeepLayers::Resume,
        (false, true) => KeepLayers::Replace,
        (false, false) => KeepLayers::New,
    };
    let mut dir = output.to_owned().into_os_string();
    dir.push(".unfinished");
    Ok(quantizer.keep_layers(relative(Path::new(&dir)), keep)?)
}

/// Adds to the error that ended a run where its finished layers are kept, if there are any.
fn unfinished(error: Error, quantizer: &CheckpointQuantizer<'_>, out: &Path) -> Error {
    match (error, quantizer.kept_layers()) {
        // These layers cannot be resumed from.
        (
            Error::Ptq(error @ (slm_ptq::Error::NotResumable { .. } | slm_ptq::Error::NotKeptLayers { .. })),
            _,
        ) => error.into(),
        (error, Some((dir, count))) => Error::Unfinished {
            error: Box::new(error),
            count,
            total: quantizer.plan().layers.len(),
            dir: relative(dir).to_owned(),
        },
        (error, None) => error.unwritten(out),
    }
}

/// Arithmetic with which the device computes each layer, by name.
fn executions(model: &Transformer) -> Vec<(String, String)> {
    let device = model.device();
    let mut executions = Vec::new();
    if model.packed_embedding().is_some() {
        executions.push((TOKEN_TABLE.to_owned(), "lookup".to_owned()));
    }
    model.for_each_linear(&mut |name, linear| {
        let how = linear.packed().map_or("float".to_owned(), |packed| packed.execution(&device).to_string());
        executions.push((name.to_owned(), how));
    });
    executions
}
