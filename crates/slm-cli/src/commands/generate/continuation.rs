//! Continuation of a text by a model.

use std::ops::ControlFlow;

use serde::Serialize;
use serde_json::Value;
use slm_model::{GenerateOptions, Generator, StopReason, Transformer};
use slm_text::{StopTexts, Tokenizer};

use super::prompt;
use super::request::Request;
use crate::commands::text_generation::generate_text;
use crate::context::Context;
use crate::error::Result;

/// Default number of new tokens.
const DEFAULT_NEW_TOKENS: usize = 128;

#[derive(Serialize)]
pub(super) struct GenerateResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
    prompt: String,
    text: String,
    prompt_ids: Vec<u32>,
    pub(super) ids: Vec<u32>,
    /// Reason for the end: `max_new_tokens`, `context_full`, `end_of_text`, `stop_text` or `interrupted`.
    pub(super) stop: &'static str,
    /// The end-of-text token or the stop text that ended the text.
    stopped_by: Option<String>,
    prompt_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    device: &'static str,
    inference_path: String,
}

impl GenerateResult {
    /// Logs the reason for the end, and the speed.
    pub(super) fn log(&self) {
        tracing::info!(
            "stopped by {}; prompt {:.0} tokens/s, decode {:.0} tokens/s, on {}",
            self.stopped_by.as_deref().unwrap_or(self.stop),
            self.prompt_tokens_per_second,
            self.decode_tokens_per_second,
            self.inference_path
        );
    }
}

/// A model with its tokenizer, ready to continue texts.
pub(super) struct Continuer<'m> {
    generator: Generator<'m>,
    tokenizer: &'m Tokenizer,
    positions: usize,
    eos_token_ids: &'m [u32],
}

impl<'m> Continuer<'m> {
    pub(super) fn new(model: &'m Transformer, tokenizer: &'m Tokenizer, eos_token_ids: &'m [u32]) -> Self {
        let positions = model.config().max_position_embeddings;
        Self { generator: Generator::new(model), tokenizer, positions, eos_token_ids }
    }

    /// Number of positions of the model.
    pub(super) fn positions(&self) -> usize {
        self.positions
    }

    /// Continues the prompt of `request`, and calls `on_text` with the prompt and each new piece of text.
    pub(super) fn run(
        &mut self,
        request: &Request,
        context: &Context,
        mut on_text: impl FnMut(&str) -> Result<()>,
    ) -> Result<GenerateResult> {
        let (tokenizer, positions) = (self.tokenizer, self.positions);
        let prompt_ids = prompt::encode(tokenizer, &request.prompt)?;
        let stop_tokens: Vec<u32> =
            request.stop.iter().filter_map(|text| tokenizer.hidden_token_id(text)).collect();
        // The last new token is chosen but never fed to the model. If there is no room, the model returns an error.
        let room = (positions + 1).saturating_sub(prompt_ids.len()).max(1);
        let wanted = request.max_new_tokens.unwrap_or(DEFAULT_NEW_TOKENS);
        let options = GenerateOptions {
            max_new_tokens: wanted.min(room),
            sampling: request.sampling.clone(),
            stop_ids: match request.ignore_eos {
                true => stop_tokens.clone(),
                false => [self.eos_token_ids, &stop_tokens].concat(),
            },
        };
        // The stream needs the prompt to decode a leading space of the first new word as a space.
        let mut stream = tokenizer.stream();
        for &id in &prompt_ids {
            stream.push(id)?;
        }
        let mut written = String::new();
        let mut stops = StopTexts::new(request.stop.iter().cloned());
        let mut stopped = None;
        // Shown with the first token, because a prompt that does not fit can be rejected until then.
        let mut shown = Some(request.prompt.as_str());
        let interrupt = &context.interrupt;
        let output =
            generate_text(&mut self.generator, &prompt_ids, &options, &mut stream, interrupt, |text| {
                let (piece, stop) = stops.push(&text);
                stopped = stop;
                written.push_str(&piece);
                on_text(&[shown.take().unwrap_or_default(), &piece].concat())?;
                Ok(if stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
        if stopped.is_none() {
            let (rest, stop) = stops.push(&stream.finish()?);
            let rest = if stop.is_some() { rest } else { rest + &stops.finish() };
            stopped = stop;
            written.push_str(&rest);
            on_text(&[shown.unwrap_or_default(), &rest].concat())?;
        }
        let (stop, stopped_by) = match output.stop {
            _ if stopped.is_some() => ("stop_text", stopped),
            StopReason::MaxNewTokens if room < wanted => ("context_full", None),
            StopReason::MaxNewTokens => ("max_new_tokens", None),
            StopReason::StopId(id) if stop_tokens.contains(&id) => ("stop_text", tokenizer.token(id)),
            StopReason::StopId(id) => ("end_of_text", tokenizer.token(id)),
            StopReason::Interrupted => ("interrupted", None),
        };
        let prompt_tokens = prompt_ids.len();
        Ok(GenerateResult {
            id: request.id.clone(),
            prompt: request.prompt.clone(),
            text: written,
            prompt_ids,
            stop,
            stopped_by,
            prompt_tokens_per_second: output.prompt_tokens_per_second(prompt_tokens),
            decode_tokens_per_second: output.decode_tokens_per_second(),
            ids: output.ids,
            device: context.device_name,
            inference_path: output.path.to_string(),
        })
    }
}
