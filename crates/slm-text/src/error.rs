//! Errors of texts and tokenizers.

use std::io;
use std::path::PathBuf;

/// Error of this crate. Its message names the file or text at fault and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {source}; check that the folder exists and may be written to", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A text file that is not UTF-8.
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
    /// A file that is not text.
    #[error("{} is {what}; {remedy}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Detected kind of the file.
        what: String,
        /// Way to get a text from it.
        remedy: &'static str,
    },
    /// A JSON file without texts or token ids.
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
    /// A text file with only white space.
    #[error("{} holds no text ({bytes} bytes of white space); give a file with text in it", path.display())]
    EmptyText {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: usize,
    },
    /// An invalid file of token ids.
    #[error("{}: {detail}", path.display())]
    Ids {
        /// The file.
        path: PathBuf,
        /// Description of the problem and of the accepted values.
        detail: String,
    },
    /// An invalid `tokenizer.json`.
    #[error(
        "{origin} is not a supported tokenizer: {detail}; expected the tokenizer.json that the \
         Hugging Face tokenizers library writes"
    )]
    TokenizerFormat {
        /// The file, or a description of the origin of the JSON.
        origin: String,
        /// Message of the tokenizers library.
        detail: String,
    },
    /// A requested vocabulary that is too small to train.
    #[error("tokenizer vocabulary of {vocab_size} is too small; byte-level BPE needs at least {minimum}")]
    VocabularyTooSmall {
        /// Requested number of tokens.
        vocab_size: usize,
        /// Minimum number of tokens: the 256 bytes and the special tokens.
        minimum: usize,
    },
    /// A text that is too small for the requested vocabulary.
    #[error(
        "the training text yields a vocabulary of {found} tokens where {vocab_size} were asked for; \
         use a vocabulary of at most {found}, or more text"
    )]
    VocabularyNotReached {
        /// Requested number of tokens.
        vocab_size: usize,
        /// Number of tokens that the text yields.
        found: usize,
    },
    /// A failure of the tokenizer on a text or on ids.
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
