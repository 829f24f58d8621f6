//! Streaming decoder of ids.

use std::collections::HashMap;

use super::{Tokenizer, guarded};
use crate::{Error, Result};

/// Character that replaces invalid bytes.
const REPLACEMENT: char = '\u{fffd}';

/// Minimum number of ids kept before new ones, as context for the decoder.
const CONTEXT: usize = 8;

/// Decodes ids one by one, and holds text back while a character is incomplete. Any ids can be decoded: bytes that are
/// not UTF-8 become U+FFFD.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens that represent one byte each, if the tokenizer falls back to bytes.
    bytes: HashMap<u32, u8>,
    ids: Vec<u32>,
    /// Text of `ids` that was already returned.
    returned: String,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, bytes: byte_tokens(tokenizer), ids: Vec::new(), returned: String::new() }
    }

    /// Adds the next id and returns the text that became certain, which may be empty.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let mut text = self.decode(&self.ids)?;
        let held = text.ends_with(REPLACEMENT);
        if held {
            // The last character may be incomplete.
            text.pop();
        }
        let new = self.new_part(&text)?;
        // Shortens the context from time to time. Text that is held back depends only on the last ids.
        if self.ids.len() > 2 * CONTEXT {
            self.ids.drain(..self.ids.len() - CONTEXT);
            text = self.decode(&self.ids)?;
            if held && text.ends_with(REPLACEMENT) {
                text.pop();
            }
        }
        self.returned = text;
        Ok(new)
    }

    /// Ends the stream and returns the text that was held back: incomplete characters, as U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn finish(self) -> Result<String> {
        let text = self.decode(&self.ids)?;
        Ok(text.strip_prefix(&self.returned).unwrap_or_default().to_owned())
    }

    /// Returns the part of `text` after the text that was already returned. If a decoder changes earlier text (such as
    /// spaces before punctuation), the last id is decoded alone.
    fn new_part(&self, text: &str) -> Result<String> {
        if let Some(new) = text.strip_prefix(&self.returned) {
            return Ok(new.to_owned());
        }
        if self.returned.starts_with(text) {
            return Ok(String::new());
        }
        self.decode(&self.ids[self.ids.len() - 1..])
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        let replaced = self.replace_bytes(ids);
        let ids = replaced.as_deref().unwrap_or(ids);
        guarded(|| self.tokenizer.inner.decode(ids, true))
            .map_err(|detail| Error::Tokenizer { what: "decode the stream", detail })
    }

    /// Replaces bytes that are not UTF-8 by the bytes of U+FFFD. Returns `None` if there are none.
    ///
    /// The library decodes a run of byte tokens with one bad byte to U+FFFD only, although the text before that byte
    /// may have been returned.
    fn replace_bytes(&self, ids: &[u32]) -> Option<Vec<u32>> {
        if !ids.iter().any(|id| self.bytes.contains_key(id)) {
            return None;
        }
        let token_of: HashMap<u8, u32> = self.bytes.iter().map(|(&id, &byte)| (byte, id)).collect();
        let mut replaced = Vec::with_capacity(ids.len());
        for run in ids.chunk_by(|a, b| self.bytes.contains_key(a) == self.bytes.contains_key(b)) {
            let bytes: Option<Vec<u8>> = run.iter().map(|id| self.bytes.get(id).copied()).collect();
            match bytes {
                Some(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    replaced.extend(text.bytes().filter_map(|byte| token_of.get(&byte).copied()));
                }
                None => replaced.extend_from_slice(run),
            }
        }
        Some(replaced)
    }
}

/// Returns the tokens `<0x00>` to `<0xFF>`, if the tokenizer decodes them as bytes.
fn byte_tokens(tokenizer: &Tokenizer) -> HashMap<u32, u8> {
    let decoder = tokenizer.inner.get_decoder().map(serde_json::to_string);
    if !decoder.is_some_and(|json| json.is_ok_and(|json| json.contains("ByteFallback"))) {
        return HashMap::new();
    }
    let of = |byte: u8| Some((tokenizer.token_id(&format!("<0x{byte:02X}>"))?, byte));
    (0..=u8::MAX).filter_map(of).collect()
}
