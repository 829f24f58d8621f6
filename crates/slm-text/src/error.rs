//! Errors of texts and tokenizers.

use std::io;
use std::path::PathBuf;

/// Errors of this crate. Each names the file or text at fault, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}; check that the folder exists and may be written to", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A text file is not UTF-8.
    #[error("{} is not UTF-8: byte {offset} (line {line}) is 0x{byte:02x}; {remedy}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset in bytes of the first byte that is not part of a UTF-8 sequence.
        offset: usize,
        /// Line of that byte, counted from 1.
        line: usize,
        /// The value of that byte.
        byte: u8,
        /// Command or program that converts the file.
        remedy: &'static str,
    },
    /// A file is something else than a text.
    #[error("{} is {what}; {remedy}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Kind of file.
        what: String,
        /// Way to get a text from it.
        remedy: &'static str,
    },
    /// A JSON file holds neither texts nor token ids.
    #[error(
        "{}: {detail}; expected JSON Lines of {{\"text\": \"...\"}}, token ids as {{\"ids\": [[1, 2, ...], ...]}}, or \
         plain text (in a file that is not named .json)",
        path.display()
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// Description of the problem, with its line or item.
        detail: String,
    },
    /// A text file holds nothing but white space.
    #[error("{} holds no text ({bytes} bytes of white space); give a file with text in it", path.display())]
    EmptyText {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: usize,
    },
    /// A file of token ids could not be understood.
    #[error("{}: {detail}", path.display())]
    Ids {
        /// The file.
        path: PathBuf,
        /// Description of the problem and of accepted values.
        detail: String,
    },
    /// A `tokenizer.json` could not be understood.
    #[error(
        "{origin} is not a tokenizer this version reads: {detail}; expected the tokenizer.json that the \
         Hugging Face tokenizers library writes"
    )]
    TokenizerFormat {
        /// The file, or a description of where the JSON came from.
        origin: String,
        /// Message of the tokenizers library.
        detail: String,
    },
    /// The vocabulary asked for cannot be trained.
    #[error("tokenizer vocabulary of {vocab_size} is too small; byte-level BPE needs at least {minimum}")]
    VocabularyTooSmall {
        /// Tokens asked for.
        vocab_size: usize,
        /// The 256 bytes and the special tokens.
        minimum: usize,
    },
    /// The text is too small for the vocabulary asked for.
    #[error(
        "the training text yields a vocabulary of {found} tokens where {vocab_size} were asked for; \
         use a vocabulary of at most {found}, or more text"
    )]
    VocabularyNotReached {
        /// Tokens asked for.
        vocab_size: usize,
        /// Tokens the text yields.
        found: usize,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("tokenizer cannot {what}: {detail}")]
    Tokenizer {
        /// The operation.
        what: &'static str,
        /// Message of the tokenizers library.
        detail: String,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
