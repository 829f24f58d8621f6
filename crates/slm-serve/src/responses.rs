//! Responses in OpenAI's format.

use serde::Serialize;
use serde_json::{Value, json};
use slm_text::Tokenizer;

use crate::sequence::{FinishReason, TokenLogprob};

/// The two kinds of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// Fields that all parts of a response share.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

/// Token counts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(crate) fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

impl Head {
    /// A whole response, or one part of a streamed one.
    fn object(&self, streamed: bool, choices: Value, usage: Option<Usage>) -> Value {
        let object = match (self.kind, streamed) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        };
        let mut value = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        if let Some(usage) = usage {
            value["usage"] = json!(usage);
        }
        value
    }

    /// A whole response.
    pub(crate) fn whole(&self, choices: Vec<Choice>, usage: Usage, tokenizer: &Tokenizer) -> Value {
        let choices = choices.into_iter().enumerate().map(|(index, choice)| {
            let logprobs = choice.logprobs.as_deref().map(|all| self.logprobs(all, 0, tokenizer));
            let finish = choice.reason.name();
            match self.kind {
                Kind::Chat => json!({
                    "index": index, "message": {"role": "assistant", "content": choice.text},
                    "logprobs": logprobs, "finish_reason": finish,
                }),
                Kind::Completion => json!({
                    "index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": finish,
                }),
            }
        });
        let choices = choices.collect();
        self.object(false, choices, Some(usage))
    }

    /// The first part of a streamed chat answer, which names the role.
    pub(crate) fn opening(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
        (self.kind == Kind::Chat).then(|| self.object(true, json!([choice]), None))
    }

    /// The next part of a streamed answer. `offset` is the number of characters that were sent before it.
    pub(crate) fn part(
        &self,
        index: usize,
        text: &str,
        offset: usize,
        logprob: Option<&TokenLogprob>,
        reason: Option<FinishReason>,
        tokenizer: &Tokenizer,
    ) -> Value {
        let logprobs = logprob.map(|one| self.logprobs(std::slice::from_ref(one), offset, tokenizer));
        let finish = reason.map(FinishReason::name);
        let choice = match self.kind {
            Kind::Chat => {
                let delta = if text.is_empty() { json!({}) } else { json!({ "content": text }) };
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
            }
            Kind::Completion => {
                json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
            }
        };
        self.object(true, json!([choice]), None)
    }

    /// The last part of a stream, with the token counts; sent only if the request asks for it.
    pub(crate) fn usage(&self, usage: Usage) -> Value {
        self.object(true, json!([]), Some(usage))
    }

    fn logprobs(&self, all: &[TokenLogprob], mut offset: usize, tokenizer: &Tokenizer) -> Value {
        let text = |id: u32| token_text(tokenizer, id);
        match self.kind {
            Kind::Chat => {
                let entry = |id: u32, logprob: f32| {
                    let token = text(id);
                    let bytes = (!token.contains('\u{fffd}')).then(|| token.as_bytes().to_vec());
                    json!({"token": token, "logprob": logprob, "bytes": bytes})
                };
                let content = all.iter().map(|one| {
                    let mut value = entry(one.id, one.logprob);
                    value["top_logprobs"] = one.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
                    value
                });
                json!({"content": content.collect::<Vec<_>>()})
            }
            Kind::Completion => {
                let mut offsets = Vec::with_capacity(all.len());
                for one in all {
                    offsets.push(offset);
                    offset += text(one.id).chars().count();
                }
                let top = |one: &TokenLogprob| -> Value {
                    one.top.iter().map(|&(id, logprob)| (text(id), json!(logprob))).collect()
                };
                json!({
                    "tokens": all.iter().map(|one| text(one.id)).collect::<Vec<_>>(),
                    "token_logprobs": all.iter().map(|one| one.logprob).collect::<Vec<_>>(),
                    "top_logprobs": all.iter().map(top).collect::<Vec<_>>(),
                    "text_offset": offsets,
                })
            }
        }
    }
}

/// One of the answers to a request.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
    pub(crate) logprobs: Option<Vec<TokenLogprob>>,
}

/// The text of a single token, or its name if it has no text.
fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    match tokenizer.decode_with_special_tokens(&[id]) {
        Ok(text) if !text.is_empty() => text,
        _ => tokenizer.token(id).unwrap_or_default(),
    }
}
