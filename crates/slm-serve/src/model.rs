//! The model that is served.

use slm_chat::{ChatTemplate, RenderOptions};
use slm_model::Transformer;
use slm_text::Tokenizer;

/// A model and what turns requests into its tokens.
#[derive(Debug)]
pub struct ServedModel {
    /// Its name in the API.
    pub name: String,
    /// The model, on a device whose memory is the host's.
    pub model: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Ids that end a text.
    pub stop_ids: Vec<u32>,
    /// Conversion of conversations to text; without it there are no chat completions.
    pub chat: Option<Chat>,
}

/// A chat template and what belongs to it.
#[derive(Debug)]
pub struct Chat {
    /// The template.
    pub template: ChatTemplate,
    /// Options of the rendering.
    pub render: RenderOptions,
    /// Ids that end an answer.
    pub stop_ids: Vec<u32>,
}
