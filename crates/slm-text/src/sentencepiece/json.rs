//! Conversion of a SentencePiece model to a `tokenizer.json`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Algorithm, PieceKind, SPACE, SentencePiece, merges};

/// Tokens around a text, and tokens that are missing in the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Id of the token before a text.
    pub begin: Option<u32>,
    /// Id of the token after a text.
    pub end: Option<u32>,
    /// Additional tokens that are matched as a whole: id, text, and whether decoding omits them.
    pub added: Vec<(u32, String, bool)>,
}

impl SentencePiece {
    /// Returns the text of a `tokenizer.json` that splits texts into the same pieces.
    pub fn to_json(&self, frame: &Frame) -> String {
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(frame),
            "normalizer": self.normalizer(),
            "pre_tokenizer": null,
            "post_processor": self.post_processor(frame),
            "decoder": self.decoder(),
            "model": self.model(),
        })
        .to_string()
    }

    fn model(&self) -> Value {
        match self.algorithm {
            Algorithm::Unigram => {
                let lowest = self.pieces.iter().map(|piece| f64::from(piece.score)).fold(0.0, f64::min);
                // The library has no unused pieces; a score so low that a piece is never chosen has the same effect.
                let score = |piece: &super::Piece| match piece.kind {
                    PieceKind::Unused => lowest - 1e6,
                    _ => f64::from(piece.score),
                };
                let vocabulary: Vec<Value> =
                    self.pieces.iter().map(|piece| json!([piece.text, score(piece)])).collect();
                json!({
                    "type": "Unigram", "unk_id": self.unknown_id, "vocab": vocabulary,
                    "byte_fallback": self.byte_fallback,
                })
            }
            Algorithm::BytePairs => {
                let mut ids: Map<String, Value> = Map::new();
                for (id, piece) in self.pieces.iter().enumerate() {
                    // If two pieces have the same text, the first one counts.
                    ids.entry(piece.text.clone()).or_insert(id.into());
                }
                let texts: Vec<&str> = self.pieces.iter().map(|piece| piece.text.as_str()).collect();
                let scores: Vec<f32> = self.pieces.iter().map(|piece| piece.score).collect();
                let is_merged =
                    |id: usize| matches!(self.pieces[id].kind, PieceKind::Normal | PieceKind::UserDefined);
                json!({
                    "type": "BPE", "dropout": null, "unk_token": self.pieces.get(self.unknown_id as usize).map(|piece| &piece.text),
                    "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                    "byte_fallback": self.byte_fallback, "ignore_merges": false, "vocab": ids,
                    "merges": merges(&texts, &scores, is_merged),
                })
            }
        }
    }

    /// Returns the tokens that are matched as a whole, from the model and from `frame`, sorted by id.
    fn added_tokens(&self, frame: &Frame) -> Vec<Value> {
        let mut added: Vec<(u32, Value)> = Vec::new();
        let token = |id: u32, content: &str, special: bool, normalized: bool| {
            let value = json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": normalized, "special": special,
            });
            (id, value)
        };
        for (id, piece) in self.pieces.iter().enumerate() {
            let id = id as u32;
            if frame.added.iter().any(|(other, ..)| *other == id) {
                continue;
            }
            match piece.kind {
                PieceKind::Control | PieceKind::Unknown => added.push(token(id, &piece.text, true, false)),
                PieceKind::UserDefined => match piece.text.contains(SPACE) {
                    false => added.push(token(id, &piece.text, false, false)),
                    // The library matches it after spaces are replaced. With a space in front of each part of a text it
                    // would not match, so it stays an ordinary piece.
                    true if !self.add_space_prefix => added.push(token(id, &piece.text, false, true)),
                    true => {}
                },
                _ => {}
            }
        }
        added.extend(frame.added.iter().map(|(id, text, special)| token(*id, text, *special, false)));
        added.sort_by_key(|(id, _)| *id);
        added.into_iter().map(|(_, value)| value).collect()
    }

    fn normalizer(&self) -> Value {
        let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
        let mut steps = Vec::new();
        if !self.character_map.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": STANDARD.encode(&self.character_map) }));
        }
        if self.collapse_spaces {
            steps.push(replace(json!({ "Regex": "^ +| +$" }), ""));
            steps.push(replace(json!({ "Regex": " {2,}" }), " "));
        }
        if self.add_space_prefix {
            steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
        }
        steps.push(replace(json!({ "String": " " }), &SPACE.to_string()));
        json!({ "type": "Sequence", "normalizers": steps })
    }

    fn decoder(&self) -> Value {
        let mut steps = vec![json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " })];
        if self.byte_fallback {
            steps.push(json!({ "type": "ByteFallback" }));
        }
        steps.push(json!({ "type": "Fuse" }));
        if self.add_space_prefix {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    fn post_processor(&self, frame: &Frame) -> Value {
        let piece = |id: Option<u32>| {
            let id = id?;
            Some((id, self.pieces.get(id as usize)?.text.as_str()))
        };
        template(piece(frame.begin), piece(frame.end))
    }
}

/// Returns the post-processor that puts a token before and after a text; null for neither.
pub fn template(begin: Option<(u32, &str)>, end: Option<(u32, &str)>) -> Value {
    if begin.is_none() && end.is_none() {
        return Value::Null;
    }
    let special = |text: &str, sequence: u8| json!({ "SpecialToken": { "id": text, "type_id": sequence } });
    let sequence = |name: &str, number: u8| {
        let mut parts: Vec<Value> = begin.iter().map(|(_, text)| special(text, number)).collect();
        parts.push(json!({ "Sequence": { "id": name, "type_id": number } }));
        parts.extend(end.iter().map(|(_, text)| special(text, number)));
        parts
    };
    let mut tokens = Map::new();
    for (id, text) in begin.iter().chain(&end) {
        tokens.insert((*text).to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    let pair: Vec<Value> = sequence("A", 0).into_iter().chain(sequence("B", 1)).collect();
    json!({ "type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": tokens })
}
