//! Text for small language models.
//!
//! - [`corpus`]: simple English stories from a stochastic grammar whose entropy is known exactly, so that a
//!   model's loss can be compared with the best loss any model could have.
//! - [`Tokenizer`]: byte-level BPE training, and loading of any Hugging Face `tokenizer.json`.
//! - [`sentencepiece`]: models of SentencePiece (`tokenizer.model`) as such tokenizers.
//! - [`Data`]: a file of text or token ids, in the forms that people have them in, read no further than needed.
//! - [`read_text`]: a whole text, or an error that says where it stops being one.
//! - [`parse_ids`]: the token ids of a file that holds them instead of text.
//!
//! ```
//! use slm_text::corpus::story;
//!
//! let story = story(7, 0);
//! assert!(story.text.ends_with('\n'));
//! // No model can, on average, need fewer than this many nats for the story.
//! assert!(story.nats > 0.0);
//! ```
#![forbid(unsafe_code)]

pub mod corpus;
mod data;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
pub mod sentencepiece;
mod split;
mod stop_texts;
mod tokenizer;

pub use data::{Data, TextReader, read_plain, read_text};
pub use error::{Error, Result};
pub use ids::{ids_to_json, parse_ids};
pub use split::split;
pub use stop_texts::StopTexts;
pub use tokenizer::{Prompt, TextStream, Tokenizer};

/// The special token between documents. A corpus file holds it on a line of its own after every story, and
/// tokenizers trained here know it as one token.
pub const END_OF_TEXT: &str = "<|endoftext|>";
