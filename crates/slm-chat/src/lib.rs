//! Chat templates: the conversion of a conversation to the text that a model was trained on.
//!
//! A template is a Jinja program that comes with a model's tokenizer. [`ChatTemplate`] renders it as
//! `transformers.PreTrainedTokenizer.apply_chat_template` does: with its variables (`messages`, `add_generation_prompt`,
//! `bos_token`, …), its functions (`raise_exception`, `strftime_now`), its `tojson`, and Python's methods of strings and
//! dictionaries.
//!
//! ```
//! use slm_chat::{ChatTemplate, Message, RenderOptions};
//!
//! let template = ChatTemplate::new(
//!     "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}\
//!      {% if add_generation_prompt %}<|assistant|>{% endif %}",
//! )?;
//! let conversation = [Message::user(" Hello! ")];
//! assert_eq!(template.render(&conversation, &RenderOptions::default())?, "<|user|>Hello!\n<|assistant|>");
//! # Ok::<(), slm_chat::Error>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod functions;
mod python;
mod template;

pub use error::{Error, Result};
pub use jiff::civil::DateTime;
pub use template::{ChatTemplate, Message, RenderOptions};
