//! A byte-level BPE tokenizer, trained here or loaded from any Hugging Face `tokenizer.json`.

mod chunks;
mod panics;
mod stream;

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use serde::de::IgnoredAny;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::{END_OF_TEXT, Error, Result};

pub use stream::TextStream;

/// A text with letters, marks, digits, spaces, line ends and symbols.
const SAMPLE: &str = "Hello, w\u{f6}rld! 12 \u{4f60}\u{597d}\n\tif (x == 1) { \u{1f600} }";

/// Converts text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// An encoded text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids of the text, or of its beginning if there is a limit.
    pub ids: Vec<u32>,
    /// Length in bytes of the text that these ids encode.
    pub bytes: usize,
}

/// An encoded prompt, as a model expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids of the prompt.
    pub ids: Vec<u32>,
    /// True if the text contained the beginning-of-sequence token that the tokenizer adds anyway.
    pub doubled: bool,
}

impl Tokenizer {
    /// Trains byte-level BPE on `text` as in GPT-2 (Radford et al., 2019): every byte is a token, so any text can be
    /// encoded and decoded exactly.
    ///
    /// [`END_OF_TEXT`] becomes a special token with id 0; its occurrences in `text` separate documents and do not take
    /// part in merges. The result depends only on the arguments.
    ///
    /// # Errors
    /// - [`Error::VocabularyTooSmall`] for fewer than 257 tokens.
    /// - [`Error::VocabularyNotReached`] if the text has too few distinct pieces.
    pub fn train(text: &str, vocab_size: usize) -> Result<Self> {
        const MINIMUM: usize = 256 + 1;
        if vocab_size < MINIMUM {
            return Err(Error::VocabularyTooSmall { vocab_size, minimum: MINIMUM });
        }
        let failed = |error: tokenizers::Error| Error::Tokenizer { what: "train", detail: error.to_string() };
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let byte_level = ByteLevel::new(false, false, true);
        let mut inner = TokenizerBuilder::<
            BPE,
            tokenizers::NormalizerWrapper,
            ByteLevel,
            tokenizers::PostProcessorWrapper,
            ByteLevel,
        >::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(byte_level))
        .with_decoder(Some(byte_level))
        .build()
        .map_err(failed)?;
        inner.train(&mut trainer, text.split(END_OF_TEXT)).map_err(failed)?;
        // The builder returns a more specific type; a round trip through JSON gives the general one.
        let json = inner.to_string(false).map_err(failed)?;
        let tokenizer = Self::from_json(&json, "the trained tokenizer")?;
        match tokenizer.vocab_size() {
            found if found < vocab_size => Err(Error::VocabularyNotReached { vocab_size, found }),
            _ => Ok(tokenizer),
        }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// Truncation and padding in the file are disabled, because they would cut or pad whole texts.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::TokenizerFormat`] naming the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes, &path.display().to_string())
    }

    /// Parses the text of a `tokenizer.json`; errors name its origin as `origin`.
    ///
    /// # Errors
    /// [`Error::TokenizerFormat`].
    pub fn from_json(json: &str, origin: &str) -> Result<Self> {
        Self::from_bytes(json.as_bytes(), origin)
    }

    fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self> {
        let refuse = |detail: String| Error::TokenizerFormat { origin: origin.to_owned(), detail };
        // The library panics if the JSON of a decoder is truncated.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| refuse(error.to_string()))?;
        let inner = guarded(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_truncation(None)?.with_padding(None);
            Ok(inner)
        });
        Ok(Self { inner: inner.map_err(refuse)? })
    }

    /// Returns the tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it cannot be serialized.
    pub fn to_json(&self) -> Result<String> {
        self.inner
            .to_string(false)
            .map_err(|error| Error::Tokenizer { what: "serialize", detail: error.to_string() })
    }

    /// Writes a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Write`], and the errors of [`Tokenizer::to_json`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        fs::write(path, self.to_json()?).map_err(|source| Error::Write { path: path.to_owned(), source })
    }

    /// Encodes `text` without the special tokens (such as a beginning-of-sequence token) that the tokenizer would put
    /// around it. Special tokens that are spelled out in the text become their id.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, false)
    }

    /// Encodes `text` with the special tokens that the tokenizer puts around it, as a model expects a prompt.
    ///
    /// # Errors
    /// Same as [`Tokenizer::encode`].
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, true)
    }

    /// Returns the id of a special token that decoding omits, such as `<|im_end|>`. A search in decoded text cannot
    /// find it.
    pub fn hidden_token_id(&self, token: &str) -> Option<u32> {
        self.token_id(token).filter(|&id| self.is_hidden(id))
    }

    /// Returns `true` if decoding omits the token.
    pub fn is_hidden(&self, id: u32) -> bool {
        self.decode(&[id]).is_ok_and(|shown| shown.is_empty())
    }

    /// Encodes a prompt as [`Tokenizer::encode_with_special_tokens`] does, without duplicating a beginning-of-sequence
    /// token that the text spells out.
    ///
    /// # Errors
    /// Same as [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Prompt> {
        let mut ids = self.encode_with_special_tokens(text)?;
        let prefix = self.prefix()?;
        let doubled = !prefix.is_empty() && ids.starts_with(&[&prefix[..], &prefix[..]].concat());
        if doubled {
            ids.drain(..prefix.len());
        }
        Ok(Prompt { ids, doubled })
    }

    /// Encodes a text that may be long to at most `limit` ids, piece by piece. The ids are those of
    /// [`Tokenizer::encode`].
    ///
    /// `more` appends the next part of the text, of any length and cut anywhere, to the string that it receives, and
    /// returns `false` at the end. It is not called again once there are `limit` ids, so `limit` bounds time and memory
    /// even for a very long text.
    ///
    /// # Errors
    /// The errors of [`Tokenizer::encode`] and of `more`.
    pub fn encode_in_chunks(
        &self,
        limit: usize,
        more: &mut dyn FnMut(&mut String) -> Result<bool>,
    ) -> Result<Encoded> {
        chunks::encode(self, limit, more)
    }

    /// The ids of [`Tokenizer::encode_in_chunks`] for a text in memory.
    ///
    /// # Errors
    /// Same as [`Tokenizer::encode`].
    pub fn encode_long(&self, text: &str, limit: usize) -> Result<Vec<u32>> {
        const CHUNK: usize = 64 << 10;
        let mut rest = text;
        let encoded = self.encode_in_chunks(limit, &mut |buffer| {
            let (chunk, after) = rest.split_at(rest.floor_char_boundary(CHUNK));
            buffer.push_str(chunk);
            rest = after;
            Ok(!rest.is_empty())
        });
        Ok(encoded?.ids)
    }

    /// Returns the ids that [`Tokenizer::encode_with_special_tokens`] puts before a text, such as a
    /// beginning-of-sequence token. Empty for a tokenizer that adds none.
    ///
    /// # Errors
    /// Same as [`Tokenizer::encode`].
    pub fn prefix(&self) -> Result<Vec<u32>> {
        // The text is not empty, since some tokenizers add nothing to an empty one.
        let (plain, mut ids) = (self.encode("a")?, self.encode_with_special_tokens("a")?);
        let at = ids.windows(plain.len().max(1)).position(|window| window == plain);
        ids.truncate(at.unwrap_or(0));
        Ok(ids)
    }

    fn encode_as(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special_tokens));
        let ids = encoding.map(|encoding| encoding.get_ids().to_vec());
        ids.map_err(|detail| Error::Tokenizer { what: "encode the text", detail })
    }

    /// Encodes `text`, and returns each id with its byte range in the text.
    fn encode_with_places(&self, text: &str) -> Result<Vec<(u32, (usize, usize))>> {
        let encoding = guarded(|| self.inner.encode(text, false))
            .map_err(|detail| Error::Tokenizer { what: "encode the text", detail })?;
        Ok(encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().copied()).collect())
    }

    /// Decodes `ids` without special tokens. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_as(ids, true)
    }

    /// Decodes `ids` including special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode_with_special_tokens(&self, ids: &[u32]) -> Result<String> {
        self.decode_as(ids, false)
    }

    fn decode_as(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special_tokens))
            .map_err(|detail| Error::Tokenizer { what: "decode the ids", detail })
    }

    /// Encodes and decodes a text in several scripts, so that an unusable tokenizer is detected before its first use.
    /// Returns the ids, including the special tokens around the text.
    ///
    /// # Errors
    /// The errors of [`Tokenizer::encode`] and [`Tokenizer::decode`].
    pub fn try_out(&self) -> Result<Vec<u32>> {
        let ids = self.encode_with_special_tokens(SAMPLE)?;
        self.decode(&ids)?;
        Ok(ids)
    }

    /// Starts decoding a stream of ids, which returns text as soon as it is certain.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// Number of tokens, including added ones. A model's vocabulary may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the id of a token, given as written in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns a token as written in the vocabulary (byte-level BPE writes a space as `Ġ`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// Calls the tokenizers library and turns a panic, which some inconsistent tokenizers cause, into an error.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    // The calls do not modify the tokenizer.
    match panics::quietly(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(payload) => {
            let message = payload.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| payload.downcast_ref::<&str>().copied());
            Err(format!("the tokenizers library panicked: {}", message.unwrap_or("no message")))
        }
    }
}

#[cfg(test)]
mod tests;
