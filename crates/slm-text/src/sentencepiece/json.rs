//! A model as a `tokenizer.json`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Algorithm, PieceKind, SPACE, SentencePiece, merges};

/// Tokens put around a text, and tokens that the model does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Id before a text.
    pub begin: Option<u32>,
    /// Id behind a text.
    pub end: Option<u32>,
    /// Further tokens that are found in a text as a whole: id, text, and whether decoding leaves them out.
    pub added: Vec<(u32, String, bool)>,
}

impl SentencePiece {
    /// The text of a `tokenizer.json` that splits texts into the same pieces.
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
                // The library knows no unused pieces: one that is never the best is as good.
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
                    // Of two with one text, the first.
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

    /// Pieces that are found in a text as a whole, and further ones, in the order of their ids.
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
                    // It is found where spaces are replaced already; with a space in front of each part of a text it
                    // would not be, and is an ordinary piece.
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

/// The post-processor that puts a token before and behind a text; null for none.
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
