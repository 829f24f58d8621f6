//! `slm ptq`

mod quality;
mod report;
mod settings;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use slm_checkpoint::{reserve_output, sha256};
use slm_model::{TOKEN_TABLE, Transformer};
use slm_nn::NamedLinears;
use slm_ptq::{CalibrationTokens, CheckpointQuantizer, LayerScheme, QuantizedCheckpoint};
use slm_quant_core::{ActivationGranularity, ObserverKind};
use slm_text::{Tokenizer, read_text};

use crate::commands::scheme_args::SchemeArgs;
use crate::context::Context;
use crate::error::Result;
use crate::memory;
use crate::text::{check_length, evaluate_with_progress, read_ids, tokenizer, window};
use quality::Quality;
use report::{PtqResult, Sizes};
use settings::Settings;
use verdict::Evaluations;

/// Quantize a trained model to INT8 or INT4 (post-training quantization) and report everything that was done.
///
/// With no option it quantizes the model that ships with the project. Embeddings and norms stay float; a tied
/// head is quantized as a copy of its own, or with --embeddings as one table with the embedding. Where the perplexity
/// rises by more than 5 % it warns and names the cause. It ends with a verdict: GOOD, WORSE (more than 5 %) or BROKEN
/// (twice the float model's or more), with the uncertainty of the figure, the text, and whether that is too short to tell.
#[derive(Debug, Args)]
pub(crate) struct PtqArgs {
    /// Float checkpoint to quantize [default: the model that ships]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Training config whose [quantization] section gives the settings; options below override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// Quantize the token embedding: int8, int4, or with what else differs, such as int4:group:32. Where the head is
    /// tied to it, one table then serves both. Without a granularity it has that of the layers, or one scale to a row
    /// instead of one in all [default: it stays float]
    #[arg(long, value_name = "SCHEME")]
    embeddings: Option<LayerScheme>,
    /// Chooses weight ranges: min-max, moving-average, histogram, percentile[:P] or mse [default: min-max for
    /// 8 bits, mse for 4]
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
    /// Measure no perplexities. The model is then never in memory as a whole, and unless the type is static no text
    /// is needed
    #[arg(long)]
    no_eval: bool,
    /// Tokens in a window [default: 256, or the model's positions if fewer]
    #[arg(long)]
    window: Option<usize>,
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
    // Held to the end: no other process writes there meanwhile.
    let _output = reserve_output(&settings.out, settings.overwrite)?;
    let checkpoint = context.open_checkpoint(&settings.checkpoint)?;
    let mut quantizer = CheckpointQuantizer::new(&checkpoint, settings.config.clone())?;
    let window = window(args.window, &checkpoint.config().model)?;
    let texts = match &settings.calibration {
        Some(path) => Some(Texts::read(path, &settings, args, &tokenizer(&checkpoint)?, window)?),
        None => None,
    };

    let held_out = texts.as_ref().filter(|_| !args.no_eval).map(|texts| texts.held_out.as_slice());
    let calibration = texts.as_ref().filter(|_| quantizer.needs_calibration());
    let mut float = None;
    if let Some(ids) = held_out {
        let model = checkpoint.load_model(&context.device)?;
        float = Some(evaluate_with_progress(context, "float perplexity", &model, ids, window)?);
    }
    // The float model is gone: from here on there is one layer at a time.
    if let Some(texts) = calibration {
        let tokens = CalibrationTokens {
            ids: &texts.calibration,
            window,
            text_sha256: texts.calibration_sha256.clone(),
        };
        quantizer.calibrate(&tokens, &context.device, &mut context.quantizing())?;
    }
    let QuantizedCheckpoint { path, layers, embedding } =
        quantizer.write(&settings.out, settings.overwrite, &mut context.quantizing())?;

    // The figures are those of the checkpoint as it will be used, not of what was in memory.
    let quantized_checkpoint = context.open_checkpoint(&path)?;
    let (mut quantized, mut execution, mut warning, mut quality) = (None, Vec::new(), None, None);
    if let (Some(ids), Some(float)) = (held_out, &float) {
        let mut model = quantized_checkpoint.load_model(&context.device)?;
        let evaluation = evaluate_with_progress(context, "quantized perplexity", &model, ids, window)?;
        execution = executions(&model);
        let evaluations = Evaluations { float, quantized: &evaluation, ids, window };
        warning = evaluations.warning(&mut model, quantizer.config(), &layers, context)?;
        quality = Some(Quality::new(float, &evaluation, settings.held_out_name()));
        quantized = Some(evaluation);
    }
    let float_bytes =
        checkpoint.tensor_names().iter().filter_map(|name| checkpoint.tensors().byte_size(name));
    let (float_bytes, largest_tensor_bytes) =
        float_bytes.fold((0, 0), |(sum, largest): (u64, u64), bytes| (sum + bytes, largest.max(bytes)));
    let result = PtqResult::new(report::Facts {
        settings: &settings,
        output: path,
        plan: quantizer.plan(),
        layers: &layers,
        embedding: embedding.as_ref(),
        execution,
        tied_head_copied: quantizer.copies_tied_head(),
        sizes: Sizes::new(&layers, float_bytes, &quantized_checkpoint),
        float: float.as_ref(),
        quantized: quantized.as_ref(),
        warning,
        quality,
        calibration_tokens: calibration.map_or(0, |texts| texts.calibration.len() as u64),
        largest_tensor_bytes,
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
    fn read(
        path: &Path,
        settings: &Settings,
        args: &PtqArgs,
        tokenizer: &Tokenizer,
        window: usize,
    ) -> Result<Self> {
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

/// How the device computes each layer, by name.
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
