//! Text for small language models.
//!
//! - [`corpus`]: simple English stories from a stochastic grammar with exactly known entropy, so that a model's loss
//!   can be compared with the lowest possible loss.
//! - [`Tokenizer`]: byte-level BPE training, and loading of any Hugging Face `tokenizer.json`.
//! - [`sentencepiece`]: conversion of SentencePiece models (`tokenizer.model`) to such tokenizers.
//! - [`Data`]: a file of text or token ids in a common format, of which no more is read than needed.
//! - [`read_text`]: a whole text file, with an error that gives the position of invalid bytes.
//! - [`parse_ids`]: a file of token ids instead of text.
//!
//! ```
//! use slm_text::corpus::story;
//!
//! let story = story(7, 0);
//! assert!(story.text.ends_with('\n'));
//! // On average, no model needs fewer nats for a story than this.
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
pub use tokenizer::{Encoded, Prompt, TextStream, Tokenizer};

/// The special token between documents. A corpus file contains it on its own line after every story, and tokenizers
/// trained here treat it as one token.
pub const END_OF_TEXT: &str = "<|endoftext|>";
