//! `slm import`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_chat::ChatTemplate;
use slm_checkpoint::hf;

use crate::context::Context;
use crate::error::Result;

/// Convert a Hugging Face model directory into a checkpoint.
///
/// Reads config.json, model.safetensors (one file or shards; F32, F16, BF16 or F64) and tokenizer.json of Llama,
/// Mistral, Qwen2, Qwen3, SmolLM2 and GPT-2 models, among others. Anything in the configuration that would change
/// what the model computes and is not supported is refused by name. Nothing is downloaded.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Directory with config.json, safetensors and tokenizer.json
    hf_dir: PathBuf,
    /// Checkpoint directory to write
    #[arg(long)]
    out: PathBuf,
    /// Replace a checkpoint that is at --out already
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct ImportResult {
    output: PathBuf,
    architecture: &'static str,
    parameters: u64,
    has_tokenizer: bool,
    unrecognized_fields: Vec<String>,
    warnings: Vec<String>,
}

pub(crate) fn run(args: &ImportArgs, context: &Context) -> Result<()> {
    let start = std::time::Instant::now();
    let report = hf::import_to(&args.hf_dir, &args.out, args.overwrite)?;
    tracing::info!(
        "{}: {} with {} layers of width {}, vocabulary {}, {} positions; written to {} in {:.1} s",
        args.hf_dir.display(),
        report.architecture,
        report.config.num_layers,
        report.config.hidden_size,
        report.config.vocab_size,
        report.config.max_position_embeddings,
        report.path.display(),
        start.elapsed().as_secs_f64()
    );
    let result = ImportResult {
        output: report.path,
        architecture: report.architecture,
        parameters: report.config.parameter_count(),
        has_tokenizer: report.has_tokenizer,
        unrecognized_fields: report.unrecognized_fields,
        warnings: report.warnings,
    };
    context.output.say(format!(
        "imported {} ({} parameters) into {}",
        result.architecture,
        result.parameters,
        result.output.display()
    ))?;
    if !result.has_tokenizer {
        context.output.say("no tokenizer.json was found: texts cannot be read with this checkpoint")?;
    }
    if let Some(error) = report.chat.and_then(|chat| ChatTemplate::new(chat.template).err()) {
        tracing::warn!("the model's chat template cannot be used by slm chat: {error}");
    }
    context.output.result(&result)
}
