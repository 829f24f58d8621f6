//! Readers of untrusted bytes as functions of the bytes alone. The targets in `fuzz/` run them, and the test
//! `regressions` of `slm-checkpoint` runs them on all inputs that fuzzing has found. Not part of the public API.
//!
//! Each reader may reject its input, but must neither panic nor accept contradictory input.

use std::path::Path;

use crate::sentencepiece::{Frame, SentencePiece};
use crate::{Tokenizer, ids_to_json, parse_ids};

/// A file of token ids.
pub fn ids(bytes: &[u8]) {
    let path = Path::new("ids.json");
    let Ok(ids) = parse_ids(path, bytes) else { return };
    assert!(!ids.is_empty() && ids.iter().all(|sequence| !sequence.is_empty()));
    let read = ids_to_json(path, ids.clone()).and_then(|bytes| parse_ids(path, &bytes));
    assert!(read.is_ok_and(|read| read == ids), "ids do not survive being written");
}

/// `tokenizer.json`, as a tokenizer that encodes and decodes.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    let Ok(tokenizer) = Tokenizer::from_json(json, "tokenizer.json") else { return };
    let _refused = tokenizer.encode("Once upon a time\u{1f642}, 12 <|endoftext|>\n");
    if let Ok(ids) = tokenizer.encode_with_special_tokens(" a b") {
        let _refused = tokenizer.decode(&ids);
    }
    let size = tokenizer.vocab_size() as u32;
    let mut stream = tokenizer.stream();
    for id in [0, 1, size.wrapping_sub(1), size, u32::MAX] {
        let _refused = stream.push(id);
    }
    let _refused = stream.finish();
    assert!(tokenizer.to_json().is_ok(), "a tokenizer does not survive being written");
}

/// A SentencePiece model, as a tokenizer that encodes.
pub fn sentencepiece(bytes: &[u8]) {
    let Ok(model) = SentencePiece::parse(bytes, "tokenizer.model") else { return };
    assert!(model.pieces.len() <= bytes.len(), "pieces that are not in the file");
    let frame = Frame { begin: model.bos_id, end: model.eos_id, added: Vec::new() };
    let Ok(tokenizer) = Tokenizer::from_json(&model.to_json(&frame), "tokenizer.model") else { return };
    if let Ok(ids) = tokenizer.encode_with_special_tokens("Once upon a time\u{1f642}, 12 <s>\n") {
        let _refused = tokenizer.decode(&ids);
    }
}
