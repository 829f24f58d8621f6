//! The model that answers.

use std::ops::ControlFlow;

use serde::Serialize;
use slm_chat::{ChatTemplate, Message, RenderOptions};
use slm_checkpoint::Checkpoint;
use slm_model::{GenerateOptions, Generator, SamplingOptions, StopReason, Transformer};
use slm_text::Tokenizer;

use super::ChatArgs;
use crate::chat_setup::ChatSetup;
use crate::commands::text_generation::generate_text;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::tokenizer;

pub(super) struct Partner<'m> {
    /// Keeps keys and values, so that earlier turns of a conversation are not recomputed.
    generator: Generator<'m>,
    /// Number of positions of the model.
    positions: usize,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    render: RenderOptions,
    stop_ids: Vec<u32>,
    max_new_tokens: usize,
    sampling: SamplingOptions,
    last: Option<Answer>,
}

/// Data about an answer, apart from its text.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answer {
    stop: &'static str,
    /// Number of tokens in the conversation before the answer.
    prompt_tokens: usize,
    /// Number of prompt tokens that were kept from the previous turn and not recomputed.
    prompt_tokens_kept: usize,
    /// Number of tokens in the answer.
    tokens: usize,
    /// Number of positions left in the model's context.
    positions_left: usize,
    prompt_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

impl Answer {
    /// Remark about an incomplete answer; `None` for a complete one.
    pub(super) fn remark(&self) -> Option<String> {
        match self.stop {
            "end_of_turn" => None,
            "interrupted" => Some("stopped".to_owned()),
            "context_full" => Some("cut: the model has no positions left; /reset starts over".to_owned()),
            _ => Some(format!("cut after {} tokens; --max-new-tokens allows more", self.tokens)),
        }
    }
}

/// Loads the model of a checkpoint.
pub(super) fn load_model(checkpoint: &Checkpoint, args: &ChatArgs, context: &Context) -> Result<Transformer> {
    let mut model = context.load_model(checkpoint)?;
    args.kv_cache.apply(&mut model);
    Ok(model)
}

impl<'m> Partner<'m> {
    /// Creates the partner; `model` must be that of `checkpoint`.
    pub(super) fn new(checkpoint: &Checkpoint, model: &'m Transformer, args: &ChatArgs) -> Result<Self> {
        let tokenizer = tokenizer(checkpoint)?;
        let ChatSetup { template, render, stop_ids } =
            ChatSetup::load(checkpoint, &tokenizer, args.template.as_deref())?;
        if stop_ids.is_empty() {
            tracing::warn!("no token is known that ends an answer: each has --max-new-tokens tokens");
        }
        Ok(Self {
            generator: Generator::new(model),
            positions: model.config().max_position_embeddings,
            tokenizer,
            template,
            render,
            stop_ids,
            max_new_tokens: args.max_new_tokens,
            sampling: args.sampling.options(args.temperature, 0)?,
            last: None,
        })
    }

    pub(super) fn set_temperature(&mut self, temperature: f64) {
        self.sampling.temperature = temperature;
    }

    /// Answers the last of `messages`, printing text as it is generated.
    pub(super) fn answer(&mut self, messages: &[Message], context: &Context) -> Result<(String, Answer)> {
        let text = self.template.render(messages, &self.render)?;
        let prompt = self.tokenizer.encode(&text)?;
        let positions = self.positions;
        // The last new token is chosen but never fed to the model.
        let room = (positions + 1).saturating_sub(prompt.len());
        if room < 2 {
            return Err(Error::Usage(format!(
                "the conversation has {} tokens and the model {positions} positions; /reset starts over",
                prompt.len()
            )));
        }
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens.min(room),
            sampling: self.sampling.clone(),
            stop_ids: self.stop_ids.clone(),
        };
        let mut stream = self.tokenizer.stream();
        let mut content = String::new();
        let mut typing = context.output.typing();
        let interrupt = &context.interrupt;
        let output = generate_text(&mut self.generator, &prompt, &options, &mut stream, interrupt, |piece| {
            content.push_str(&piece);
            typing.push(&piece)?;
            Ok(ControlFlow::Continue(()))
        });
        // Ctrl-C stops only the answer.
        context.interrupt.clear()?;
        let output = output?;
        let rest = stream.finish()?;
        content.push_str(&rest);
        typing.push(&rest)?;
        typing.finish()?;
        let answer = Answer {
            stop: match output.stop {
                StopReason::StopId(_) => "end_of_turn",
                StopReason::Interrupted => "interrupted",
                StopReason::MaxNewTokens if options.max_new_tokens < self.max_new_tokens => "context_full",
                StopReason::MaxNewTokens => "max_new_tokens",
            },
            prompt_tokens: prompt.len(),
            prompt_tokens_kept: output.prompt_reused,
            tokens: output.ids.len(),
            positions_left: positions.saturating_sub(prompt.len() + output.ids.len()),
            prompt_tokens_per_second: output.prompt_tokens_per_second(prompt.len()),
            decode_tokens_per_second: output.decode_tokens_per_second(),
        };
        self.last = Some(answer.clone());
        Ok((content, answer))
    }

    /// Statistics of the last answer.
    pub(super) fn stats(&self) -> String {
        match &self.last {
            None => "nothing was answered yet".to_owned(),
            Some(answer) => format!(
                "prompt   {} tokens, {} of them kept from before; the others at {:.0} tokens/s\n\
                 answer   {} tokens at {:.0} tokens/s, ended by {}\n\
                 context  {} positions left",
                answer.prompt_tokens,
                answer.prompt_tokens_kept,
                answer.prompt_tokens_per_second,
                answer.tokens,
                answer.decode_tokens_per_second,
                answer.stop.replace('_', " "),
                answer.positions_left
            ),
        }
    }
}
