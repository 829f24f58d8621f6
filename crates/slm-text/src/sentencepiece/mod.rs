//! SentencePiece models (`tokenizer.model`) as tokenizers of the Hugging Face library.
//!
//! A model is a list of pieces with scores, and rules for spaces. What [`SentencePiece::to_json`] makes of it splits a text
//! into the same pieces: byte-pair encoding with the merges that the scores say, or the unigram model itself.

mod json;
mod proto;

use std::collections::HashMap;

pub use json::{Frame, template};

use crate::{Error, Result};

/// The sign that stands for a space in pieces.
pub const SPACE: char = '\u{2581}';
/// Bytes of the longest piece that merges are made for.
const LONGEST: usize = 256;

/// A SentencePiece model.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    /// The pieces, in the order of their ids.
    pub pieces: Vec<Piece>,
    /// Algorithm that splits a text into them.
    pub algorithm: Algorithm,
    /// Id of the piece for what no other is for.
    pub unknown_id: u32,
    /// Id of the piece before a text, if there is one.
    pub bos_id: Option<u32>,
    /// Id of the piece behind a text, if there is one.
    pub eos_id: Option<u32>,
    /// Splits characters without a piece into bytes.
    pub byte_fallback: bool,
    /// The compiled rules by which characters are replaced; empty where they stay.
    pub character_map: Vec<u8>,
    /// Puts a space in front of a text.
    pub add_space_prefix: bool,
    /// Leaves out spaces at the ends of a text, and merges several into one.
    pub collapse_spaces: bool,
}

/// Algorithm that splits a text into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// The pieces of the most likely split.
    Unigram,
    /// Pairs are merged, the best score first.
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
    /// The piece for what no other is for.
    Unknown,
    /// A sign such as the end of a text, which no text holds.
    Control,
    /// A piece that is found in a text as a whole.
    UserDefined,
    /// A piece that no text is split into.
    Unused,
    /// A byte.
    Byte,
}

impl SentencePiece {
    /// Parses the bytes of a `tokenizer.model`; `origin` says in errors where they came from.
    ///
    /// # Errors
    /// [`Error::TokenizerFormat`] for what is no such model, or of a kind that is not known here.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self> {
        let refuse = |detail: String| Error::TokenizerFormat { origin: origin.to_owned(), detail };
        if proto::is_tiktoken(bytes) {
            let what = "it is a list of byte pairs (tiktoken), without the rules by which texts are split; use the \
                        tokenizer.json of the model";
            return Err(refuse(what.to_owned()));
        }
        proto::parse(bytes).map_err(refuse)
    }

    /// The id of the piece `text`.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.pieces.iter().position(|piece| piece.text == text).map(|id| id as u32)
    }
}

/// The pairs of tokens that make another, the best score first; of one score, those of lower ids first.
///
/// `is_merged` says which tokens are made by merging. Tokens of more than 256 bytes are not.
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
