//! The model that answers.

use std::fs;
use std::ops::ControlFlow;

use serde::Serialize;
use slm_chat::{ChatTemplate, Message, RenderOptions};
use slm_checkpoint::Checkpoint;
use slm_model::{GenerateOptions, SamplingOptions, StopReason, Transformer};
use slm_text::Tokenizer;

use super::ChatArgs;
use crate::commands::text_generation::generate_text;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::tokenizer;

pub(super) struct Partner {
    model: Transformer,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    render: RenderOptions,
    stop_ids: Vec<u32>,
    max_new_tokens: usize,
    sampling: SamplingOptions,
    last: Option<Answer>,
}

/// Facts about an answer, next to its text.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answer {
    stop: &'static str,
    /// Tokens of the conversation before the answer.
    prompt_tokens: usize,
    /// Tokens of the answer.
    tokens: usize,
    /// Positions of the model that are left for what follows.
    positions_left: usize,
    prompt_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

impl Answer {
    /// Why the answer is not whole, if it is not.
    pub(super) fn remark(&self) -> Option<String> {
        match self.stop {
            "end_of_turn" => None,
            "interrupted" => Some("stopped".to_owned()),
            "context_full" => Some("cut: the model has no positions left; /reset begins anew".to_owned()),
            _ => Some(format!("cut after {} tokens; --max-new-tokens allows more", self.tokens)),
        }
    }
}

impl Partner {
    pub(super) fn load(args: &ChatArgs, context: &Context) -> Result<Self> {
        let checkpoint = context.open_to_load(&args.checkpoint)?;
        let tokenizer = tokenizer(&checkpoint)?;
        let info = checkpoint.config().tokenizer.chat.clone().unwrap_or_default();
        let template = template(args, &checkpoint, &info.template)?;
        let render = RenderOptions { special_tokens: info.special_tokens, ..RenderOptions::default() };
        let mut stop_ids = checkpoint.config().tokenizer.eos_token_ids.clone();
        stop_ids.extend(end_of_turn(&template, &render, &tokenizer));
        if stop_ids.is_empty() {
            tracing::warn!("no token is known that ends an answer: each goes on for --max-new-tokens");
        }
        Ok(Self {
            model: checkpoint.load_model(&context.device)?,
            tokenizer,
            template,
            render,
            stop_ids,
            max_new_tokens: args.max_new_tokens,
            sampling: args.sampling.options(args.temperature, 0),
            last: None,
        })
    }

    pub(super) fn set_temperature(&mut self, temperature: f64) {
        self.sampling.temperature = temperature;
    }

    /// Answers the last of `messages`, printing words as they come.
    pub(super) fn answer(&mut self, messages: &[Message], context: &Context) -> Result<(String, Answer)> {
        let text = self.template.render(messages, &self.render)?;
        let prompt = self.tokenizer.encode(&text)?;
        let positions = self.model.config().max_position_embeddings;
        // The last new token is chosen and never run.
        let room = (positions + 1).saturating_sub(prompt.len());
        if room < 2 {
            return Err(Error::Usage(format!(
                "the conversation has {} tokens and the model {positions} positions; /reset begins anew",
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
        let interrupt = &context.interrupt;
        let output = generate_text(&self.model, &prompt, &options, &mut stream, interrupt, |piece| {
            content.push_str(&piece);
            context.output.stream(&piece)?;
            Ok(ControlFlow::Continue(()))
        });
        // Ctrl-C stops the answer and not the program.
        context.interrupt.clear();
        let output = output?;
        let rest = stream.finish()?;
        content.push_str(&rest);
        context.output.say(&rest)?;
        let answer = Answer {
            stop: match output.stop {
                StopReason::StopId(_) => "end_of_turn",
                StopReason::Interrupted => "interrupted",
                StopReason::MaxNewTokens if options.max_new_tokens < self.max_new_tokens => "context_full",
                StopReason::MaxNewTokens => "max_new_tokens",
            },
            prompt_tokens: prompt.len(),
            tokens: output.ids.len(),
            positions_left: positions.saturating_sub(prompt.len() + output.ids.len()),
            prompt_tokens_per_second: output.prompt_tokens_per_second(prompt.len()),
            decode_tokens_per_second: output.decode_tokens_per_second(),
        };
        self.last = Some(answer.clone());
        Ok((content, answer))
    }

    /// The last answer in figures.
    pub(super) fn stats(&self) -> String {
        match &self.last {
            None => "nothing was answered yet".to_owned(),
            Some(answer) => format!(
                "prompt {} tokens at {:.0} tokens/s; answer {} tokens at {:.0} tokens/s, ended by {}; {} positions left",
                answer.prompt_tokens,
                answer.prompt_tokens_per_second,
                answer.tokens,
                answer.decode_tokens_per_second,
                answer.stop.replace('_', " "),
                answer.positions_left
            ),
        }
    }
}

/// The template that the user names, or the checkpoint's.
fn template(args: &ChatArgs, checkpoint: &Checkpoint, own: &str) -> Result<ChatTemplate> {
    let (path, source) = match &args.template {
        Some(path) => (path.clone(), fs::read_to_string(path).map_err(|error| Error::file(path, error))?),
        None if own.is_empty() => {
            return Err(Error::file(
                checkpoint.dir(),
                "the checkpoint has no chat template: the model was not trained for conversations, or was imported \
                 before slm kept templates; import it again, name one with --template FILE, or use slm generate",
            ));
        }
        None => (checkpoint.dir().join("config.json"), own.to_owned()),
    };
    ChatTemplate::new(source).map_err(|error| Error::file(path, error))
}

/// The special token that the template puts after an answer: the model ends with it, whether or not it is among the
/// tokens that end a text.
fn end_of_turn(template: &ChatTemplate, render: &RenderOptions, tokenizer: &Tokenizer) -> Option<u32> {
    const ANSWER: &str = "0f5ca1d9";
    let render = RenderOptions { add_generation_prompt: false, ..render.clone() };
    let text = template.render(&[Message::user("1"), Message::assistant(ANSWER)], &render).ok()?;
    let (_, after) = text.rsplit_once(ANSWER)?;
    let id = *tokenizer.encode(after.trim_start()).ok()?.first()?;
    // Decoding leaves special tokens out.
    tokenizer.decode(&[id]).is_ok_and(|text| text.is_empty()).then_some(id)
}
