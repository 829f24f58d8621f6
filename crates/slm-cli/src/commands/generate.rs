//! `slm generate`

mod prompt;

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_model::{GenerateOptions, Generator, StopReason};
use slm_text::StopTexts;

use crate::commands::kv_cache_args::KvCacheArgs;
use crate::commands::sampling_args::SamplingArgs;
use crate::commands::text_generation::generate_text;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::tokenizer;
use prompt::PromptArgs;

/// Continue a text, printing each word as it comes. Ctrl-C stops and keeps what was written.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Maximum number of new tokens [default: 128, or as many as fit into the model's positions]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// 0 always takes the most likely token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    kv_cache: KvCacheArgs,
    /// Stop before this text, or at this special token (may be repeated)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Do not stop at an end-of-text or end-of-turn token
    #[arg(long)]
    ignore_eos: bool,
}

/// New tokens unless the user says otherwise, as far as the model has positions.
const DEFAULT_NEW_TOKENS: usize = 128;

#[derive(Serialize)]
struct GenerateResult {
    prompt: String,
    text: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    /// Reason for the end: `max_new_tokens`, `context_full`, `end_of_text`, `stop_text` or `interrupted`.
    stop: &'static str,
    /// The end-of-text token or the stop text that ended it.
    stopped_by: Option<String>,
    prompt_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    device: &'static str,
    inference_path: String,
}

pub(crate) fn run(args: &GenerateArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let text = args.prompt.read()?;
    let prompt_ids = prompt::encode(&tokenizer, &text)?;
    if args.stop.iter().any(String::is_empty) {
        return Err(Error::Usage("--stop: the text to stop before is empty".to_owned()));
    }
    let stop_tokens: Vec<u32> = args.stop.iter().filter_map(|text| tokenizer.hidden_token_id(text)).collect();
    let mut model = checkpoint.load_model(&context.device)?;
    args.kv_cache.apply(&mut model);
    // The last new token is only chosen, never run. Where there is no room, the model says so.
    let positions = model.config().max_position_embeddings;
    let room = (positions + 1).saturating_sub(prompt_ids.len()).max(1);
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens.unwrap_or(DEFAULT_NEW_TOKENS.min(room)),
        sampling: args.sampling.options(args.temperature, 0),
        stop_ids: match args.ignore_eos {
            true => stop_tokens.clone(),
            false => [&checkpoint.config().tokenizer.eos_token_ids[..], &stop_tokens].concat(),
        },
    };
    // The stream knows the prompt, so that a leading space of the first new word is decoded as one.
    let mut stream = tokenizer.stream();
    for &id in &prompt_ids {
        stream.push(id)?;
    }
    let mut written = String::new();
    let mut stops = StopTexts::new(args.stop.iter().cloned());
    let mut stopped = None;
    // Shown with the first token: until then a prompt that does not fit can still be refused.
    let mut prompt = Some(text.as_str());
    let mut generator = Generator::new(&model);
    let output =
        generate_text(&mut generator, &prompt_ids, &options, &mut stream, &context.interrupt, |text| {
            let (piece, stop) = stops.push(&text);
            stopped = stop;
            written.push_str(&piece);
            context.output.stream(&[prompt.take().unwrap_or_default(), &piece].concat())?;
            Ok(if stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    if stopped.is_none() {
        let (rest, stop) = stops.push(&stream.finish()?);
        let rest = if stop.is_some() { rest } else { rest + &stops.finish() };
        stopped = stop;
        written.push_str(&rest);
        context.output.stream(&[prompt.unwrap_or_default(), &rest].concat())?;
    }
    context.output.headline("")?;
    let (stop, stopped_by) = match output.stop {
        _ if stopped.is_some() => ("stop_text", stopped),
        StopReason::MaxNewTokens if args.max_new_tokens.is_none() && room < DEFAULT_NEW_TOKENS => {
            tracing::warn!("stopped: the model's {positions} positions are full");
            ("context_full", None)
        }
        StopReason::MaxNewTokens => ("max_new_tokens", None),
        StopReason::StopId(id) if stop_tokens.contains(&id) => ("stop_text", tokenizer.token(id)),
        StopReason::StopId(id) => ("end_of_text", tokenizer.token(id)),
        StopReason::Interrupted => ("interrupted", None),
    };
    if stop == "max_new_tokens" && context.output.width().is_some() {
        let tokens = output.ids.len();
        context.output.say(format!("[cut after {tokens} tokens; --max-new-tokens allows more]"))?;
    }
    let prompt_tokens = prompt_ids.len();
    let result = GenerateResult {
        prompt: text,
        text: written,
        prompt_ids,
        stop,
        stopped_by,
        prompt_tokens_per_second: output.prompt_tokens_per_second(prompt_tokens),
        decode_tokens_per_second: output.decode_tokens_per_second(),
        ids: output.ids,
        device: context.device_name,
        inference_path: output.path.to_string(),
    };
    tracing::info!(
        "stopped by {}; prompt {:.0} tokens/s, decode {:.0} tokens/s, on {}",
        result.stopped_by.as_deref().unwrap_or(result.stop),
        result.prompt_tokens_per_second,
        result.decode_tokens_per_second,
        result.inference_path
    );
    context.output.result(&result)
}
