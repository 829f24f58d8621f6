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
/// Reads config.json, model.safetensors (one file or shards; F32, F16 or BF16) and tokenizer.json of Llama,
/// Mistral, Qwen2, Qwen3, SmolLM2 and GPT-2 models. Anything in the configuration that would change what the
/// model computes and is not supported is refused by name.
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
    checkpoint: PathBuf,
    architecture: &'static str,
    parameters: u64,
    has_tokenizer: bool,
    unrecognized_fields: Vec<String>,
}

pub(crate) fn run(args: &ImportArgs, context: &Context) -> Result<()> {
    let report = hf::import_to(&args.hf_dir, &args.out, args.overwrite)?;
    let result = ImportResult {
        checkpoint: report.path,
        architecture: report.architecture,
        parameters: report.config.parameter_count(),
        has_tokenizer: report.has_tokenizer,
        unrecognized_fields: report.unrecognized_fields,
    };
    context.output.say(format!(
        "imported {} ({} parameters) into {}",
        result.architecture,
        result.parameters,
        result.checkpoint.display()
    ))?;
    if !result.has_tokenizer {
        context.output.say("no tokenizer.json was found: texts cannot be read with this checkpoint")?;
    }
    if let Some(error) = report.chat.and_then(|chat| ChatTemplate::new(chat.template).err()) {
        tracing::warn!("the model's chat template cannot be used by slm chat: {error}");
    }
    context.output.result(&result)
}
