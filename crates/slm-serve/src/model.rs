//! The served model.

use slm_chat::{ChatTemplate, RenderOptions};
use slm_model::Transformer;
use slm_text::Tokenizer;

/// A model with its tokenizer and chat template.
#[derive(Debug)]
pub struct ServedModel {
    /// Its name in the API.
    pub name: String,
    /// The model, on a device whose memory is the host's.
    pub model: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Ids of the tokens that end a completion.
    pub stop_ids: Vec<u32>,
    /// Conversion of conversations to text; `None` disables chat completions.
    pub chat: Option<Chat>,
}

/// A chat template with its rendering options and stop tokens.
#[derive(Debug)]
pub struct Chat {
    /// The template.
    pub template: ChatTemplate,
    /// Options of the rendering.
    pub render: RenderOptions,
    /// Ids of the tokens that end an answer.
    pub stop_ids: Vec<u32>,
}
