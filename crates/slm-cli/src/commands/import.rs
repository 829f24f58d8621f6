//! `slm import`

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_chat::ChatTemplate;
use slm_checkpoint::{ChatInfo, hf};
use slm_exchange::{GgufImportOptions, import_gguf};
use slm_model::ModelConfig;
use slm_quant_core::QuantizationType;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::relative;

/// Convert a Hugging Face model directory or a GGUF file into a checkpoint.
///
/// Reads config.json, model.safetensors (one file or shards; F32, F16, BF16 or F64) and tokenizer.json of Llama,
/// Mistral, Qwen2, Qwen3, SmolLM2 and GPT-2 models, among others. Anything in the configuration that would change
/// what the model computes and is not supported is refused by name. Nothing is downloaded.
///
/// Of a GGUF file (FILE.gguf), floats stay floats, Q8_0 and Q4_0 become the same codes with the same scales, and other
/// types are dequantized. Tokenizer and chat template come from the file.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Directory with config.json, safetensors and tokenizer.json; or a GGUF file
    #[arg(value_name = "HF_DIR|FILE.gguf")]
    source: PathBuf,
    /// Checkpoint directory to write
    #[arg(long)]
    out: PathBuf,
    /// Replace a checkpoint that is at --out already
    #[arg(long)]
    overwrite: bool,
    /// Make floats of all weights of a GGUF file
    #[arg(long)]
    dequantize: bool,
    /// Inputs of the quantized layers of a GGUF file: weight-only (they stay float) or dynamic (8-bit, scales from each
    /// input, for speed) [default: weight-only]
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "dequantize")]
    quantization_type: Option<QuantizationType>,
}

#[derive(Serialize)]
struct ImportResult {
    output: PathBuf,
    architecture: &'static str,
    parameters: u64,
    has_tokenizer: bool,
    unrecognized_fields: Vec<String>,
    warnings: Vec<String>,
    /// What was done with the tensors of each type of a GGUF file.
    tensors: Vec<String>,
    quantized_layers: usize,
}

pub(crate) fn run(args: &ImportArgs, context: &Context) -> Result<()> {
    let start = std::time::Instant::now();
    let (result, config, chat) = match is_gguf(args) {
        true => from_gguf(args)?,
        false => from_hugging_face(args)?,
    };
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
        let what = if is_gguf(args) { "tokenizer" } else { "tokenizer.json" };
        context.output.say(format!("no {what} was found: texts cannot be read with this checkpoint"))?;
    }
    if let Some(error) = chat.and_then(|chat| ChatTemplate::new(chat.template).err()) {
        tracing::warn!("the model's chat template cannot be used by slm chat: {error}");
    }
    context.output.result(&result)
}

/// Whether the source is a GGUF file: by its name, or by its first bytes.
fn is_gguf(args: &ImportArgs) -> bool {
    let named = args.source.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    let mut magic = [0; 4];
    let read = File::open(&args.source).and_then(|mut file| file.read_exact(&mut magic));
    args.source.is_file() && (named || (read.is_ok() && magic == *b"GGUF"))
}

fn from_hugging_face(args: &ImportArgs) -> Result<(ImportResult, ModelConfig, Option<ChatInfo>)> {
    if args.dequantize || args.quantization_type.is_some() {
        let option = if args.dequantize { "--dequantize" } else { "--type" };
        let source = args.source.display();
        return Err(Error::Usage(format!("{option} is for GGUF files, and {source} is none; leave it out")));
    }
    let report = hf::import_to(&args.source, &args.out, args.overwrite)?;
    let result = ImportResult {
        output: report.path,
        architecture: report.architecture,
        parameters: report.config.parameter_count(),
        has_tokenizer: report.has_tokenizer,
        unrecognized_fields: report.unrecognized_fields,
        warnings: report.warnings,
        tensors: Vec::new(),
        quantized_layers: 0,
    };
    Ok((result, report.config, report.chat))
}

fn from_gguf(args: &ImportArgs) -> Result<(ImportResult, ModelConfig, Option<ChatInfo>)> {
    let dynamic = match args.quantization_type.unwrap_or(QuantizationType::WeightOnly) {
        QuantizationType::WeightOnly => false,
        QuantizationType::Dynamic => true,
        QuantizationType::Static => {
            let message =
                "--type must be weight-only or dynamic: a GGUF file has no static ranges; slm ptq finds them";
            return Err(Error::Usage(message.to_owned()));
        }
    };
    let options = GgufImportOptions { dequantize: args.dequantize, dynamic, overwrite: args.overwrite };
    let report = import_gguf(&args.source, &args.out, &options)?;
    for note in &report.notes {
        tracing::warn!("{}: {note}", args.source.display());
    }
    let result = ImportResult {
        output: report.path,
        architecture: report.architecture,
        parameters: report.config.parameter_count(),
        has_tokenizer: report.has_tokenizer,
        unrecognized_fields: Vec::new(),
        warnings: report.notes,
        tensors: report.tensors,
        quantized_layers: report.quantized_layers,
    };
    Ok((result, report.config, report.chat))
}
