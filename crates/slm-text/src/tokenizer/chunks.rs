//! Encoding of long texts in chunks, with the same ids as for the whole text.
//!
//! A tokenizer looks at a limited stretch of text of unknown length: to the end of a word, of a run of spaces, or, in a
//! tokenizer that does not split at all, of the text. Chunks therefore overlap. Two neighbors must have the same tokens
//! at the same positions throughout the middle of their overlap, away from the ends of both; from there on, the ids of
//! the second continue those of the first. If they differ, the chunk is extended, up to the whole text.

use crate::{Encoded, Result, Tokenizer};

/// Size of the first chunk in bytes. Later ones are longer.
const FIRST: usize = 16 << 10;
/// Maximum size of a chunk in bytes, unless neighbors disagree.
const LONGEST: usize = 256 << 10;
/// Size of the overlap of two chunks in bytes.
const OVERLAP: usize = 6 << 10;
/// Size in bytes of the margins of the overlap, in which tokens may depend on the end of a chunk.
const GUARD: usize = 1 << 10;

/// A token and its byte range, counted from the start of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    id: u32,
    start: usize,
    end: usize,
}

/// A chunk of the text with its tokens.
struct Chunk {
    start: usize,
    end: usize,
    tokens: Vec<Token>,
    /// Index of its first token that is not in the previous chunk.
    from: usize,
}

impl Chunk {
    /// Index of the first token at or after `place`.
    fn index_at(&self, place: usize) -> usize {
        self.tokens.iter().position(|token| token.start >= place).unwrap_or(self.tokens.len())
    }

    fn between(&self, low: usize, high: usize) -> &[Token] {
        &self.tokens[self.index_at(low)..self.index_at(high).max(self.index_at(low))]
    }
}

/// The part of a text that is in memory.
struct Buffer<'a> {
    text: String,
    /// Offset of `text` in the whole text.
    start: usize,
    ended: bool,
    more: &'a mut dyn FnMut(&mut String) -> Result<bool>,
}

impl Buffer<'_> {
    /// Reads until the text reaches `end`. Returns the last character boundary at or before it.
    fn reach(&mut self, end: usize) -> Result<usize> {
        while !self.ended && self.start + self.text.len() < end {
            self.ended = !(self.more)(&mut self.text)?;
        }
        Ok(self.start + self.text.floor_char_boundary(end - self.start))
    }

    fn is_end(&self, place: usize) -> bool {
        self.ended && place == self.start + self.text.len()
    }

    fn slice(&self, start: usize, end: usize) -> &str {
        &self.text[start - self.start..end - self.start]
    }

    /// Discards the text before `start`.
    fn forget(&mut self, start: usize) {
        self.text.drain(..start - self.start);
        self.start = start;
    }
}

impl Encoded {
    /// Appends the first tokens, up to `limit` in total.
    fn extend(&mut self, tokens: &[Token], limit: usize) {
        let tokens = &tokens[..tokens.len().min(limit - self.ids.len())];
        self.ids.extend(tokens.iter().map(|token| token.id));
        self.bytes = tokens.last().map_or(self.bytes, |token| token.end);
    }
}

/// Encodes the text that `more` appends in parts, until it returns `false`, to at most `limit` ids. It reads no more
/// text than they require.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    limit: usize,
    more: &mut dyn FnMut(&mut String) -> Result<bool>,
) -> Result<Encoded> {
    let mut buffer = Buffer { text: String::new(), start: 0, ended: false, more };
    let mut encoded = Encoded::default();
    let mut length = FIRST;
    let mut chunk = chunk_at(tokenizer, &mut buffer, 0, length)?;
    while !buffer.is_end(chunk.end) && encoded.ids.len() < limit {
        let start = buffer.reach(chunk.end.saturating_sub(OVERLAP))?;
        let longer = (2 * length).min(LONGEST);
        let mut next = chunk_at(tokenizer, &mut buffer, start, longer)?;
        let (low, high) = (start + GUARD, chunk.end - GUARD);
        let (mine, others) = (chunk.between(low, high), next.between(low, high));
        if mine.len() >= 2 && mine == others {
            let middle = mine[mine.len() / 2].start;
            let until = chunk.index_at(middle);
            encoded.extend(&chunk.tokens[chunk.from..until.max(chunk.from)], limit);
            next.from = next.index_at(middle);
            buffer.forget(start);
            (chunk, length) = (next, longer);
        } else {
            // The text before `from` was settled with the previous chunk.
            let kept = chunk.tokens.get(chunk.from).map_or(chunk.end, |token| token.start);
            let whole = 2 * (chunk.end - chunk.start);
            chunk = chunk_at(tokenizer, &mut buffer, chunk.start, whole)?;
            chunk.from = if kept == chunk.start { 0 } else { chunk.index_at(kept) };
        }
    }
    let rest = &chunk.tokens[chunk.from..];
    let is_whole = buffer.is_end(chunk.end) && rest.len() <= limit - encoded.ids.len();
    encoded.extend(rest, limit);
    if is_whole {
        // White space at the end may belong to no token.
        encoded.bytes = chunk.end;
    }
    Ok(encoded)
}

fn chunk_at(tokenizer: &Tokenizer, buffer: &mut Buffer<'_>, start: usize, length: usize) -> Result<Chunk> {
    let end = buffer.reach(start + length)?;
    // Finds out whether the text continues after `end`.
    buffer.reach(end + 4)?;
    let tokens = tokenizer.encode_with_places(buffer.slice(start, end))?;
    let tokens =
        tokens.into_iter().map(|(id, (from, to))| Token { id, start: start + from, end: start + to });
    Ok(Chunk { start, end, tokens: tokens.collect(), from: 0 })
}
