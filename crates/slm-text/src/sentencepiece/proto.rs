//! The file format: the fields of `sentencepiece_model.proto` that are needed here.

use prost::Message;

use super::{Algorithm, Piece, PieceKind, SentencePiece};

/// `ModelProto`.
#[derive(Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<ModelPiece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

/// `ModelProto.SentencePiece`.
#[derive(Message)]
struct ModelPiece {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// `TrainerSpec`.
#[derive(Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
}

/// `NormalizerSpec`.
#[derive(Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Returns `true` for a tiktoken file: each line has a token in Base64 and its rank.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut parts = line.split(|&byte| byte == b' ');
    let is_base64 = |part: &[u8]| {
        !part.is_empty() && part.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
    };
    let is_number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.next().is_some_and(is_base64) && parts.next().is_some_and(is_number) && parts.next().is_none()
}

pub(super) fn parse(bytes: &[u8]) -> Result<SentencePiece, String> {
    let model = Model::decode(bytes).map_err(|error| format!("it is not a SentencePiece model: {error}"))?;
    let trainer = model.trainer.unwrap_or_default();
    let normalizer = model.normalizer.unwrap_or_default();
    let algorithm = match trainer.model_type {
        None | Some(1) => Algorithm::Unigram,
        Some(2) => Algorithm::BytePairs,
        Some(3) => {
            return Err("it splits texts into words (model_type WORD), which is not known here".to_owned());
        }
        Some(4) => {
            return Err(
                "it splits texts into characters (model_type CHAR), which is not known here".to_owned()
            );
        }
        Some(other) => return Err(format!("its model_type is {other}, which is not known here")),
    };
    if trainer.treat_whitespace_as_suffix == Some(true) || normalizer.escape_whitespaces == Some(false) {
        return Err("it writes spaces in another way than before words, which is not known here".to_owned());
    }
    let kind = |kind: Option<i32>| match kind {
        None | Some(1) => Ok(PieceKind::Normal),
        Some(2) => Ok(PieceKind::Unknown),
        Some(3) => Ok(PieceKind::Control),
        Some(4) => Ok(PieceKind::UserDefined),
        Some(5) => Ok(PieceKind::Unused),
        Some(6) => Ok(PieceKind::Byte),
        Some(other) => Err(format!("a piece is of type {other}, which is not known here")),
    };
    let mut pieces = Vec::with_capacity(model.pieces.len());
    for piece in model.pieces {
        let (text, score) = (piece.text.unwrap_or_default(), piece.score.unwrap_or_default());
        if text.is_empty() || !score.is_finite() {
            return Err(format!("piece {} is {text:?} with a score of {score}", pieces.len()));
        }
        pieces.push(Piece { text, score, kind: kind(piece.kind)? });
    }
    let unknown = pieces.iter().position(|piece| piece.kind == PieceKind::Unknown);
    let unknown_id = unknown.ok_or_else(|| "none of its pieces is the unknown one".to_owned())? as u32;
    let count = pieces.len();
    let id = |id: Option<i32>, default: u32| match id {
        None => Some(default).filter(|&id| (id as usize) < count),
        Some(id) => u32::try_from(id).ok().filter(|&id| (id as usize) < count),
    };
    Ok(SentencePiece {
        algorithm,
        unknown_id,
        bos_id: id(trainer.bos_id, 1),
        eos_id: id(trainer.eos_id, 2),
        byte_fallback: trainer.byte_fallback.unwrap_or(false),
        character_map: normalizer.precompiled_charsmap.unwrap_or_default(),
        add_space_prefix: normalizer.add_dummy_prefix.unwrap_or(true),
        collapse_spaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
        pieces,
    })
}
