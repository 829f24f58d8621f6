//! `slm generate`

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_model::{GenerateOptions, StopReason, generate};

use crate::commands::sampling_args::SamplingArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::tokenizer;

/// Continue a text, printing each word as it comes. Ctrl-C stops and keeps what was written.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    /// Text to continue
    #[arg(long)]
    prompt: String,
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 always takes the most likely token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Do not stop at an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
}

#[derive(Serialize)]
struct GenerateResult {
    prompt: String,
    text: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    stop: &'static str,
    prompt_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    device: &'static str,
    inference_path: String,
}

pub(crate) fn run(args: &GenerateArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let prompt_ids = tokenizer.encode_with_special_tokens(&args.prompt)?;
    if prompt_ids.is_empty() {
        return Err(Error::Usage(
            "--prompt: the prompt has no tokens; give at least one word to begin with".to_owned(),
        ));
    }
    let model = checkpoint.load_model(&context.device)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.options(args.temperature, 0),
        stop_ids: match args.ignore_eos {
            true => Vec::new(),
            false => checkpoint.config().tokenizer.eos_token_ids.clone(),
        },
    };
    // The stream knows the prompt, so that a leading space of the first new word is decoded as one.
    let mut stream = tokenizer.stream();
    for &id in &prompt_ids {
        stream.push(id)?;
    }
    let mut text = String::new();
    let mut failed = None;
    // Shown with the first token: until then a prompt that does not fit can still be refused.
    let mut prompt = Some(args.prompt.as_str());
    let output = generate(&model, &prompt_ids, &options, |id| {
        let printed = stream.push(id).map_err(Error::from).and_then(|piece| {
            text.push_str(&piece);
            context.output.stream(&[prompt.take().unwrap_or_default(), &piece].concat())
        });
        match printed {
            Ok(()) if context.interrupt.is_set() => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let rest = stream.finish()?;
    text.push_str(&rest);
    context.output.stream(&[prompt.unwrap_or_default(), &rest].concat())?;
    context.output.say("")?;
    let prompt_tokens = prompt_ids.len();
    let result = GenerateResult {
        prompt: args.prompt.clone(),
        text,
        prompt_ids,
        stop: match output.stop {
            StopReason::MaxNewTokens => "max_new_tokens",
            StopReason::StopId(_) => "end_of_text",
            StopReason::Interrupted => "interrupted",
        },
        prompt_tokens_per_second: per_second(prompt_tokens, output.prompt_time.as_secs_f64()),
        decode_tokens_per_second: per_second(output.decode_passes, output.decode_time.as_secs_f64()),
        ids: output.ids,
        device: context.device_name,
        inference_path: output.path.to_string(),
    };
    tracing::info!(
        "prompt {:.0} tokens/s, decode {:.0} tokens/s, on {}",
        result.prompt_tokens_per_second,
        result.decode_tokens_per_second,
        result.inference_path
    );
    context.output.result(&result)
}

fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
