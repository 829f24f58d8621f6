//! Tokenizers of llama2.c files.

use std::path::{Path, PathBuf};

use slm_store::json::{LARGE, read_optional};
use slm_text::Tokenizer;
use slm_text::sentencepiece::{Algorithm, Frame, Piece, PieceKind, SPACE, SentencePiece, is_byte};

use crate::{Error, Result};

/// The default file name of llama2.c.
const FILE: &str = "tokenizer.bin";
/// Ids of the special tokens, in the order of a SentencePiece model of Llama.
const UNKNOWN: usize = 0;
pub(super) const BEGIN: u32 = 1;
pub(super) const END: u32 = 2;

/// Reads the tokenizer of a model of `vocab_size` tokens as a `tokenizer.json`, from the named file or the one next to
/// the model. Returns the reason if there is none.
pub(super) fn read(
    model: &Path,
    named: Option<&Path>,
    vocab_size: usize,
) -> Result<std::result::Result<String, String>> {
    let beside = || model.parent().unwrap_or(Path::new("")).join(FILE);
    let path: PathBuf = named.map_or_else(beside, Path::to_owned);
    let Some(bytes) = read_optional(&path, LARGE)? else {
        return match named {
            Some(_) => Err(Error::damaged_file(&path, "tokenizer", "file", "it is not there".to_owned())),
            None => Ok(Err(format!("{} is not there: give the path of the tokenizer", path.display()))),
        };
    };
    let damaged = |problem: String| Error::damaged_file(&path, "tokenizer", "file", problem);
    let origin = path.display().to_string();
    let frame = Frame { begin: Some(BEGIN), ..Frame::default() };
    let json = match path.extension().and_then(|end| end.to_str()) {
        Some("json") => String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?,
        Some("model") => SentencePiece::parse(&bytes, &origin)?.to_json(&frame),
        _ => {
            let pieces = pieces(&bytes).map_err(damaged)?;
            if pieces.len() != vocab_size {
                let count = pieces.len();
                let what = format!("{origin} has {count} tokens, but the model has {vocab_size}");
                return match named {
                    Some(_) => Err(damaged(format!("it has {count} tokens, but the model has {vocab_size}"))),
                    None => Ok(Err(format!("{what}: give the path of the model's tokenizer"))),
                };
            }
            model_of(pieces).to_json(&frame)
        }
    };
    let tokenizer = Tokenizer::from_json(&json, &origin).map_err(|error| match error {
        // The text of the error asks for a tokenizer.json.
        slm_text::Error::TokenizerFormat { detail, .. } if !origin.ends_with(".json") => {
            damaged(format!("no tokenizer can be made of it: {detail}; give the path of another one"))
        }
        error => error.into(),
    });
    let ids = tokenizer?.try_out()?;
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(damaged(format!("it makes token {id}, but the model has {vocab_size} tokens"))),
        None => Ok(Ok(json)),
    }
}

/// Reads scores and texts: the length of the longest text, then each token's score, length and bytes.
fn pieces(bytes: &[u8]) -> std::result::Result<Vec<(f32, String)>, String> {
    let (head, mut rest) = bytes.split_first_chunk::<4>().ok_or("it is shorter than its header")?;
    let longest = u32::from_le_bytes(*head) as usize;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let number = pieces.len();
        let cut = || format!("it ends inside token {number}");
        let (score, behind) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let (len, behind) = behind.split_first_chunk::<4>().ok_or_else(cut)?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > longest {
            return Err(format!("token {number} is {len} bytes long, and the longest should be {longest}"));
        }
        let (text, behind) = behind.split_at_checked(len).ok_or_else(cut)?;
        let score = f32::from_le_bytes(*score);
        let text = std::str::from_utf8(text).map_err(|_| format!("token {number} is not UTF-8"))?;
        if text.is_empty() || !score.is_finite() {
            return Err(format!("token {number} is {text:?} with a score of {score}"));
        }
        pieces.push((score, text.to_owned()));
        rest = behind;
    }
    match pieces.len() {
        0..=2 => Err(format!("it has {} tokens", pieces.len())),
        _ => Ok(pieces),
    }
}

/// Builds the SentencePiece model of the tokens. llama2.c writes a plain space for SentencePiece's space character, and
/// line breaks around the two special tokens.
fn model_of(pieces: Vec<(f32, String)>) -> SentencePiece {
    let piece = |(id, (score, text)): (usize, (f32, String))| {
        let kind = match id {
            UNKNOWN => PieceKind::Unknown,
            1 | 2 => PieceKind::Control,
            _ if is_byte(&text) => PieceKind::Byte,
            _ => PieceKind::Normal,
        };
        let text = if matches!(kind, PieceKind::Control) { text.trim().to_owned() } else { text };
        Piece { text: text.replace(' ', &SPACE.to_string()), score, kind }
    };
    SentencePiece {
        pieces: pieces.into_iter().enumerate().map(piece).collect(),
        algorithm: Algorithm::BytePairs,
        unknown_id: UNKNOWN as u32,
        bos_id: Some(BEGIN),
        eos_id: Some(END),
        byte_fallback: true,
        character_map: Vec::new(),
        add_space_prefix: true,
        collapse_spaces: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_cut_files_refused() {
        let mut bytes = 9_u32.to_le_bytes().to_vec();
        for (text, score) in
            [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), ("<0x61>", 0.0), (" a", -1.0_f32)]
        {
            bytes.extend(score.to_le_bytes());
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        let model = model_of(pieces(&bytes).unwrap());
        let found: Vec<(&str, PieceKind)> =
            model.pieces.iter().map(|piece| (piece.text.as_str(), piece.kind)).collect();
        let expected = [
            ("<unk>", PieceKind::Unknown),
            ("<s>", PieceKind::Control),
            ("</s>", PieceKind::Control),
            ("<0x61>", PieceKind::Byte),
            ("\u{2581}a", PieceKind::Normal),
        ];
        assert_eq!(found, expected);
        for end in 0..bytes.len() {
            let whole = pieces(&bytes[..end]).is_ok();
            assert!(!whole || pieces(&bytes[..end]).unwrap().len() < 5, "{end}");
        }
        let mut long = bytes;
        long[8] = 0xff;
        assert!(pieces(&long).unwrap_err().contains("longest"));
    }
}
