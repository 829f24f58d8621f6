//! `slm generate`

mod continuation;
mod lines;
mod prompt;
mod request;

use std::path::PathBuf;

use clap::Args;

use crate::commands::kv_cache_args::KvCacheArgs;
use crate::commands::sampling_args::SamplingArgs;
use crate::context::Context;
use crate::error::Result;
use crate::text::tokenizer;
use continuation::Continuer;
use prompt::{PromptArgs, Prompts};
use request::Request;

/// Continue a text, printing each word as it comes. Ctrl-C stops and keeps the text so far.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Maximum number of new tokens; the model's positions limit them further [default: 128]
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

impl GenerateArgs {
    /// Creates the request for `prompt` from the options.
    fn request(&self, prompt: String) -> Result<Request> {
        let request = Request {
            id: None,
            prompt,
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.options(self.temperature, 0)?,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
        };
        request.validate()?;
        Ok(request)
    }
}

pub(crate) fn run(args: &GenerateArgs, context: &Context) -> Result<()> {
    // Invalid options are reported before anything is read.
    args.request(String::new())?;
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let requests = match args.prompt.read(context)? {
        Prompts::One(text) => {
            // An empty prompt is reported before the weights are read.
            prompt::encode(&tokenizer, &text)?;
            vec![args.request(text)?]
        }
        Prompts::Lines { path, text } => lines::parse(&path, &text, &args.request(String::new())?)?,
    };
    let mut model = context.load_model(&checkpoint)?;
    args.kv_cache.apply(&mut model);
    let mut continuer = Continuer::new(&model, &tokenizer, &checkpoint.config().tokenizer.eos_token_ids);
    match &requests[..] {
        [request] if !args.prompt.is_lines() => one(&mut continuer, request, context),
        requests => several(&mut continuer, requests, context),
    }
}

/// Continues one text, printing it as it is generated.
fn one(continuer: &mut Continuer<'_>, request: &Request, context: &Context) -> Result<()> {
    let mut typing = context.output.typing();
    let result = continuer.run(request, context, |text| typing.push(text))?;
    typing.finish()?;
    result.log();
    if result.stop == "context_full" {
        tracing::warn!("stopped: the model's {} positions are full", continuer.positions());
    }
    if result.stop == "max_new_tokens" && context.output.width().is_some() {
        let tokens = result.ids.len();
        context.output.say(format!("[cut after {tokens} tokens; --max-new-tokens allows more]"))?;
    }
    context.output.result(&result)
}

/// Continues several texts and prints a line of JSON for each.
fn several(continuer: &mut Continuer<'_>, requests: &[Request], context: &Context) -> Result<()> {
    let bar = context.progress.bar("generating", requests.len());
    for request in requests {
        let result = continuer.run(request, context, |_| Ok(()))?;
        result.log();
        // A terminal shows both the bar and the lines.
        bar.suspend(|| context.output.json_line(&result))?;
        bar.inc(1);
        context.interrupt.check()?;
    }
    bar.finish_and_clear();
    Ok(())
}
