//! `slm eval`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::text::{Limit, Tokens, WindowArgs, evaluate_with_progress, tokenizer};

/// Measure the perplexity of a checkpoint on a text.
///
/// The text is tokenized without special tokens and cut into windows that do not overlap. Each window starts
/// afresh, and all its tokens but the first are scored; a last, shorter window counts too. With --bos each begins
/// with the beginning-of-sequence token, and all its tokens are scored. Sequences of token ids are cut each by itself.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    /// Text, or texts or token ids as JSON or JSON Lines
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    windows: WindowArgs,
    /// Use no more than the first N tokens of the text, and read no more of it
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
    /// Whether each window began with the beginning-of-sequence token.
    bos: bool,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &EvalArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let windowing = args.windows.windowing(&checkpoint)?;
    let limit = Limit { option: "--max-tokens", tokens: args.max_tokens.unwrap_or(usize::MAX) };
    let vocab_size = checkpoint.config().model.vocab_size;
    let tokens = Tokens::read(&tokenizer(&checkpoint)?, &args.data, limit.tokens, vocab_size)?;
    tokens.check_length(&args.data, &windowing, limit)?;
    let model = checkpoint.load_model(&context.device)?;
    let start = std::time::Instant::now();
    let evaluation = evaluate_with_progress(context, "evaluating", &model, &tokens.windows(&windowing))?;
    let result = EvalResult {
        perplexity: evaluation.perplexity(),
        nll: evaluation.mean_nll(),
        total_nll: evaluation.nll,
        tokens: evaluation.tokens,
        windows: evaluation.window_nll.len(),
        window: windowing.len,
        bos: !windowing.prefix.is_empty(),
        device: context.device_name,
        seconds: start.elapsed().as_secs_f64(),
    };
    context.output.say(format!(
        "perplexity {:.4}  ({:.5} nats per token over {} tokens, {} windows of {}{}; {:.0} tokens/s on {})",
        result.perplexity,
        result.nll,
        result.tokens,
        result.windows,
        result.window,
        if result.bos { " behind BOS" } else { "" },
        result.tokens as f64 / result.seconds,
        result.device
    ))?;
    context.output.result(&result)
}
