//! The chat template of a checkpoint, with its rendering options and stop tokens.

use std::fs;
use std::path::Path;

use slm_chat::{ChatTemplate, Message, RenderOptions};
use slm_checkpoint::Checkpoint;
use slm_text::Tokenizer;

use crate::error::{Error, Result};

/// A chat template with its rendering options and stop tokens.
pub(crate) struct ChatSetup {
    pub(crate) template: ChatTemplate,
    pub(crate) render: RenderOptions,
    /// Ids of the tokens that end an answer.
    pub(crate) stop_ids: Vec<u32>,
}

impl ChatSetup {
    /// Loads the template from the file `template`, or the checkpoint's own.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        template: Option<&Path>,
    ) -> Result<Self> {
        let info = checkpoint.config().tokenizer.chat.clone().unwrap_or_default();
        let template = load_template(checkpoint, template, &info.template)?;
        let render = RenderOptions { special_tokens: info.special_tokens, ..RenderOptions::default() };
        let mut stop_ids = checkpoint.config().tokenizer.eos_token_ids.clone();
        stop_ids.extend(end_of_turn(&template, &render, tokenizer));
        Ok(Self { template, render, stop_ids })
    }
}

/// Loads the template that the user names, or else the checkpoint's.
fn load_template(checkpoint: &Checkpoint, file: Option<&Path>, own: &str) -> Result<ChatTemplate> {
    let (path, source) = match file {
        Some(path) => (
            path.to_owned(),
            fs::read_to_string(path)
                .map_err(|source| slm_text::Error::Read { path: path.to_owned(), source })?,
        ),
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

/// Returns the special token that the template puts after an answer. The model ends with it, even if it is not among
/// the tokens that end a text.
fn end_of_turn(template: &ChatTemplate, render: &RenderOptions, tokenizer: &Tokenizer) -> Option<u32> {
    const ANSWER: &str = "0f5ca1d9";
    let render = RenderOptions { add_generation_prompt: false, ..render.clone() };
    let text = template.render(&[Message::user("1"), Message::assistant(ANSWER)], &render).ok()?;
    let (_, after) = text.rsplit_once(ANSWER)?;
    let id = *tokenizer.encode(after.trim_start()).ok()?.first()?;
    tokenizer.is_hidden(id).then_some(id)
}
