//! `slm serve`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use slm_model::CpuEngine;
use slm_serve::{Chat, Limits, ServedModel, Server, ServerOptions};

use crate::chat_setup::ChatSetup;
use crate::commands::kv_cache_args::KvCacheArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::text::tokenizer;

/// Environment variable of the API key.
const API_KEY: &str = "SLM_API_KEY";
/// Interval for checking the Ctrl-C flag.
const POLL: Duration = Duration::from_millis(50);

/// Serve a model over HTTP, with the part of OpenAI's API that all clients use.
///
/// POST /v1/chat/completions and /v1/completions, whole or streamed, GET /v1/models, /health and /metrics (Prometheus).
/// Requests are decoded together. The model's name in requests is ignored: there is one model. Ctrl-C or SIGTERM lets
/// running answers finish; a second one ends the program.
///
/// If the environment variable SLM_API_KEY is set, requests to /v1 must carry it as their API key.
///
/// The base URL for OpenAI's clients is http://127.0.0.1:8080/v1.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    /// Address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Name of the model in answers [default: that of the checkpoint's directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Jinja file to use instead of the checkpoint's chat template
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    #[command(flatten)]
    kv_cache: KvCacheArgs,
    /// Requests that are decoded together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Requests that wait for a place; those beyond get status 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: u16,
    /// Maximum number of tokens in an answer, whatever a request asks for
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Seconds that a request may take, after which its answer is cut off
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

/// JSON output of a server that has started.
#[derive(Serialize)]
struct Started {
    url: String,
    model: String,
    chat: bool,
}

pub(crate) fn run(args: &ServeArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let chat = match ChatSetup::load(&checkpoint, &tokenizer, args.template.as_deref()) {
        Ok(ChatSetup { template, render, stop_ids }) => Some(Chat { template, render, stop_ids }),
        Err(error) if args.template.is_some() => return Err(error),
        Err(error) => {
            tracing::warn!("/v1/chat/completions will be refused: {error}");
            None
        }
    };
    let name = args.name.clone().unwrap_or_else(|| directory_name(&args.checkpoint));
    let api_key = match std::env::var(API_KEY) {
        Ok(key) if key.is_empty() => {
            return Err(Error::Usage(format!("{API_KEY} is empty; unset it, or set a key")));
        }
        Ok(key) => Some(key),
        Err(std::env::VarError::NotPresent) => None,
        Err(error) => return Err(Error::Usage(format!("{API_KEY}: {error}"))),
    };
    let stop_ids = checkpoint.config().tokenizer.eos_token_ids.clone();
    let mut model = context.load_model(&checkpoint)?;
    args.kv_cache.apply(&mut model);
    if !CpuEngine::supports(&model) {
        return Err(Error::Usage(format!(
            "--device {}: slm serve computes on the CPU; leave --device out",
            context.device_name
        )));
    }
    let options = ServerOptions {
        api_key,
        limits: Limits {
            parallel: args.parallel.into(),
            queue: args.queue.into(),
            new_tokens: args.max_new_tokens as usize,
            request_time: Duration::from_secs(args.timeout.into()),
            ..Limits::default()
        },
    };
    let has_chat = chat.is_some();
    let served = ServedModel { name: name.clone(), model, tokenizer, stop_ids, chat };
    let host = match args.host.contains(':') && !args.host.starts_with('[') {
        true => format!("[{}]", args.host),
        false => args.host.clone(),
    };
    let server = Server::bind(&format!("{host}:{}", args.port), served, options)?;
    let url = format!("http://{}/v1", server.address());
    context.output.headline(format!("serving {name} at {url}; Ctrl-C ends"))?;
    context.output.line(&Started { url, model: name, chat: has_chat })?;
    Ok(server.run(stopped(context.interrupt.clone()))?)
}

/// Completes after Ctrl-C or SIGTERM.
async fn stopped(interrupt: Interrupt) {
    while !interrupt.is_set() {
        tokio::time::sleep(POLL).await;
    }
    tracing::info!("stopping: answers that run are finished; Ctrl-C again ends at once");
}

fn directory_name(path: &std::path::Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or_else(|| "slm".to_owned(), |name| name.to_string_lossy().into_owned())
}
