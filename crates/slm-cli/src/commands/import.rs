//! `slm import`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_chat::ChatTemplate;
use slm_checkpoint::hf::{self, ImportOptions, ImportReport};
use slm_checkpoint::reserve_output;
use slm_exchange::{explain_bin, import_gguf, import_llama2c, is_gguf, is_llama2c};
use slm_quant_core::QuantizationType;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::relative;

/// Convert a model of another program into a checkpoint.
///
/// Reads Hugging Face directories of Llama, SmolLM2, SmolLM3, Mistral, Ministral, Qwen2, Qwen3, GPT-2, GPT-NeoX
/// (Pythia), Gemma 3 (text), Phi-3, OLMo 2, Granite 3 and StableLM models: config.json, and model.safetensors or
/// pytorch_model.bin (one file or shards; F32, F16, BF16 or F64). A pickle that names anything but tensors is refused. An option of the configuration that is not supported and would
/// change the model's outputs is refused by name. Nothing is downloaded.
///
/// The tokenizer is tokenizer.json, or is made of tokenizer.model (SentencePiece) or of vocab.json and merges.txt. It
/// is loaded and tested.
///
/// Weights that compressed-tensors, GPTQ or AWQ quantized to 4 or 8 bits keep their codes and scales. A layer whose
/// scheme slm does not have (GPTQ with desc_act, 2 or 3 bits, FP8) is an error that names it, unless --dequantize is
/// given.
///
/// In a GGUF file (FILE.gguf), floats stay floats, Q8_0 and Q4_0 become the same codes with the same scales, and
/// other types are dequantized. Tokenizer and chat template come from the file.
///
/// A llama2.c file (FILE.bin) may have version 0, 1 or 2; the codes of version 2 are kept. Its tokenizer is the
/// tokenizer.bin next to it, or --tokenizer.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Directory with config.json, weights and tokenizer; or a GGUF file; or a file of llama2.c
    #[arg(value_name = "HF_DIR|FILE.gguf|FILE.bin")]
    source: PathBuf,
    /// Checkpoint directory to write
    #[arg(long)]
    out: PathBuf,
    /// Replace an existing checkpoint at --out
    #[arg(long)]
    overwrite: bool,
    /// Dequantize all weights of a quantized model to floats
    #[arg(long)]
    dequantize: bool,
    /// Inputs of quantized layers that the file leaves float: weight-only (they stay float) or dynamic (8-bit, scales from
    /// each input, for speed) [default: weight-only]
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "dequantize")]
    quantization_type: Option<QuantizationType>,
    /// Tokenizer of a file of llama2.c: tokenizer.bin, tokenizer.model or tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

#[derive(Serialize)]
struct ImportResult {
    output: PathBuf,
    architecture: &'static str,
    parameters: u64,
    has_tokenizer: bool,
    unrecognized_fields: Vec<String>,
    warnings: Vec<String>,
    /// Summary of the conversion of the tensors of each type.
    tensors: Vec<String>,
    quantized_layers: usize,
}

pub(crate) fn run(args: &ImportArgs, context: &Context) -> Result<()> {
    let start = std::time::Instant::now();
    let is_llama2c = !is_gguf(&args.source) && is_llama2c(&args.source);
    if let (false, Some(error)) = (is_llama2c, explain_bin(&args.source)) {
        return Err(error.into());
    }
    if args.tokenizer.is_some() && !is_llama2c {
        let message = "--tokenizer is for files of llama2.c; other models bring theirs: leave it out";
        return Err(Error::Usage(message.to_owned()));
    }
    let spinner = context.progress.spinner("importing");
    let report = import(args, is_llama2c, context).map_err(|error| error.unwritten(&args.out))?;
    drop(spinner);
    let mut warnings = report.warnings;
    if let Some(warning) = warning_of_inputs(report.quantization_type, args.quantization_type) {
        tracing::warn!("{}: {warning}", args.source.display());
        warnings.push(warning.to_owned());
    }
    let result = ImportResult {
        output: report.path,
        architecture: report.architecture,
        parameters: report.config.parameter_count(),
        has_tokenizer: report.has_tokenizer,
        unrecognized_fields: report.unrecognized_fields,
        warnings,
        tensors: report.tensors,
        quantized_layers: report.quantized_layers,
    };
    let config = report.config;
    tracing::info!(
        "{}: {} with {} layers of width {}, vocabulary {}, {} positions; written to {} in {:.1} s",
        args.source.display(),
        result.architecture,
        config.num_layers,
        config.hidden_size,
        config.vocab_size,
        config.max_position_embeddings,
        result.output.display(),
        start.elapsed().as_secs_f64()
    );
    context.output.headline(format!(
        "imported {} ({} parameters) into {}",
        result.architecture,
        result.parameters,
        relative(&result.output).display()
    ))?;
    for what in &result.tensors {
        context.output.say(what)?;
    }
    if !result.has_tokenizer {
        let what = if args.source.is_file() { "tokenizer" } else { "tokenizer.json" };
        let option = if is_llama2c { " (--tokenizer names one)" } else { "" };
        context
            .output
            .say(format!("no {what} was found: texts cannot be read with this checkpoint{option}"))?;
    }
    if let Some(error) = report.chat.and_then(|chat| ChatTemplate::new(chat.template).err()) {
        tracing::warn!("the model's chat template cannot be used by slm chat: {error}");
    }
    context.output.result(&result)
}

fn import(args: &ImportArgs, is_llama2c: bool, context: &Context) -> Result<ImportReport> {
    let (source, out) = (&*args.source, &*args.out);
    // Reserved before the source is read, which takes its time.
    let _reserved = reserve_output(out, args.overwrite)?;
    let options = ImportOptions {
        dequantize: args.dequantize,
        dynamic: is_dynamic(args)?,
        overwrite: args.overwrite,
        stop: context.interrupt.stop(),
    };
    let report = match (is_gguf(&args.source), is_llama2c) {
        (true, _) => import_gguf(source, out, &options)?,
        (_, true) => import_llama2c(source, out, &options, args.tokenizer.as_deref())?,
        // This import logs its own warnings.
        _ => return Ok(hf::import_with(source, out, &options)?),
    };
    for warning in &report.warnings {
        tracing::warn!("{}: {warning}", source.display());
    }
    Ok(report)
}

/// A warning about inputs of quantized layers that the file leaves float, if the user should know of them.
fn warning_of_inputs(
    found: Option<QuantizationType>,
    asked: Option<QuantizationType>,
) -> Option<&'static str> {
    match (found?, asked) {
        (QuantizationType::WeightOnly, None) => Some(
            "inputs of quantized layers stay float, as the file does not quantize them (--type dynamic quantizes them, \
             for speed)",
        ),
        (QuantizationType::Dynamic, Some(QuantizationType::Dynamic)) => {
            Some("inputs of quantized layers are quantized token by token (--type dynamic)")
        }
        _ => None,
    }
}

/// Returns `true` if --type requests dynamic quantization of inputs.
fn is_dynamic(args: &ImportArgs) -> Result<bool> {
    match args.quantization_type.unwrap_or(QuantizationType::WeightOnly) {
        QuantizationType::WeightOnly => Ok(false),
        QuantizationType::Dynamic => Ok(true),
        QuantizationType::Static => {
            let message = "--type must be weight-only or dynamic: the file has no static ranges to give; slm ptq finds them";
            Err(Error::Usage(message.to_owned()))
        }
    }
}
