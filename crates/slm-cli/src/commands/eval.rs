//! `slm eval`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::text::{check_length, evaluate_with_progress, read_ids, tokenizer, window};

/// Measure the perplexity of a checkpoint on a text.
///
/// The text is tokenized whole, without special tokens, and cut into windows that do not overlap. Each window
/// starts afresh, and all its tokens but the first are scored; a last, shorter window counts too.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    /// UTF-8 text file
    #[arg(long)]
    data: PathBuf,
    /// Tokens in a window [default: 256, or the model's positions if fewer]
    #[arg(long)]
    window: Option<usize>,
    /// Use no more than the first N tokens of the text
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

#[derive(Serialize)]
struct EvalResult {
    perplexity: f64,
    /// Mean negative log-likelihood in nats per token.
    nll: f64,
    /// Summed over all scored tokens.
    total_nll: f64,
    tokens: usize,
    windows: usize,
    window: usize,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &EvalArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let window = window(args.window, &checkpoint.config().model)?;
    let mut ids = read_ids(&tokenizer(&checkpoint)?, &args.data)?;
    ids.truncate(args.max_tokens.unwrap_or(usize::MAX));
    check_length(&args.data, &ids, window)?;
    let model = checkpoint.load_model(&context.device)?;
    let start = std::time::Instant::now();
    let evaluation = evaluate_with_progress(context, "evaluating", &model, &ids, window)?;
    let result = EvalResult {
        perplexity: evaluation.perplexity(),
        nll: evaluation.mean_nll(),
        total_nll: evaluation.nll,
        tokens: evaluation.tokens,
        windows: evaluation.window_nll.len(),
        window,
        device: context.device_name,
        seconds: start.elapsed().as_secs_f64(),
    };
    context.output.say(format!(
        "perplexity {:.4}  ({:.5} nats per token over {} tokens, {} windows of {}; {:.0} tokens/s on {})",
        result.perplexity,
        result.nll,
        result.tokens,
        result.windows,
        result.window,
        result.tokens as f64 / result.seconds,
        result.device
    ))?;
    context.output.result(&result)
}
