//! Conversion of SentencePiece models (`tokenizer.model`) to tokenizers of the Hugging Face library.
//!
//! A model is a list of pieces with scores, and rules for spaces. [`SentencePiece::to_json`] returns a tokenizer that
//! splits a text into the same pieces: byte-pair encoding with the merges that the scores imply, or the unigram model
//! itself.

mod json;
mod proto;

use std::collections::HashMap;

pub use json::{Frame, template};

use crate::{Error, Result};

/// The character that represents a space in pieces.
pub const SPACE: char = '\u{2581}';
/// Size limit in bytes of pieces for which merges are computed.
const LONGEST: usize = 256;

/// A SentencePiece model.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    /// The pieces, in the order of their ids.
    pub pieces: Vec<Piece>,
    /// Algorithm that splits a text into pieces.
    pub algorithm: Algorithm,
    /// Id of the piece for unknown text.
    pub unknown_id: u32,
    /// Id of the piece before a text, if any.
    pub bos_id: Option<u32>,
    /// Id of the piece after a text, if any.
    pub eos_id: Option<u32>,
    /// Whether characters without a piece are split into bytes.
    pub byte_fallback: bool,
    /// The compiled rules for replacing characters; empty if there are none.
    pub character_map: Vec<u8>,
    /// Whether a space is put before a text.
    pub add_space_prefix: bool,
    /// Whether spaces at the ends of a text are removed, and consecutive ones merged.
    pub collapse_spaces: bool,
}

/// Algorithm that splits a text into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// Chooses the pieces of the most likely split.
    Unigram,
    /// Merges pairs, best score first.
    BytePairs,
}

/// A piece of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with [`SPACE`] for a space.
    pub text: String,
    /// Its score.
    pub score: f32,
    /// Kind of the piece.
    pub kind: PieceKind,
}

/// Kind of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PieceKind {
    /// Part of a text.
    Normal,
    /// The piece for unknown text.
    Unknown,
    /// A control symbol such as the end of a text, which text never contains.
    Control,
    /// A piece that is matched as a whole.
    UserDefined,
    /// A piece that no text is split into.
    Unused,
    /// A single byte.
    Byte,
}

impl SentencePiece {
    /// Parses the bytes of a `tokenizer.model`; errors name their origin as `origin`.
    ///
    /// # Errors
    /// [`Error::TokenizerFormat`] for an invalid model, or one of an unsupported kind.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self> {
        let refuse = |detail: String| Error::TokenizerFormat { origin: origin.to_owned(), detail };
        if proto::is_tiktoken(bytes) {
            let what = "it is a list of byte pairs (tiktoken), without the rules by which texts are split; use the \
                        tokenizer.json of the model";
            return Err(refuse(what.to_owned()));
        }
        proto::parse(bytes).map_err(refuse)
    }

    /// Returns the id of the piece `text`.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.pieces.iter().position(|piece| piece.text == text).map(|id| id as u32)
    }
}

/// Returns the pairs of tokens that form another token, best score first, and for equal scores lower ids first.
///
/// `is_merged` tells which tokens can result from merging. Tokens of more than 256 bytes are excluded.
pub fn merges<'a>(
    tokens: &'a [impl AsRef<str>],
    scores: &[f32],
    is_merged: impl Fn(usize) -> bool,
) -> Vec<[&'a str; 2]> {
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_ref(), id)).collect();
    let mut merges: Vec<(f32, [usize; 2], [&str; 2])> = Vec::new();
    for (id, (token, &score)) in tokens.iter().zip(scores).enumerate() {
        let token = token.as_ref();
        if !is_merged(id) || token.len() > LONGEST {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&a), Some(&b)) = (ids.get(left), ids.get(right)) {
                merges.push((score, [a, b], [left, right]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    merges.into_iter().map(|(_, _, pair)| pair).collect()
}

/// Returns `true` if a token is the name of a byte, such as `<0x0A>`.
pub fn is_byte(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
}
