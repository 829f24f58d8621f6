//! Conversion of a file's tokenizer to a `tokenizer.json`.

use serde_json::{Map, Value as Json, json};
use slm_checkpoint::{ChatInfo, TokenizerInfo};
use slm_text::Tokenizer;
use slm_text::sentencepiece::{SPACE, is_byte, merges, template};

use super::pre;
use super::tokenizer::{CHAT_TEMPLATE, CHAT_TOKENS, HF_JSON, SPECIAL, token_type};
use crate::gguf::{Array, GgufFile, Value};
use crate::{Error, Result};

/// The keys of tokens that end a text.
const ENDS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

/// The tokenizer and chat template of a file.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// Content of a `tokenizer.json`.
    pub(crate) json: Option<Vec<u8>>,
    pub(crate) info: TokenizerInfo,
    /// Notes on what was ignored.
    pub(crate) notes: Vec<String>,
}

/// Reads the tokenizer, its special tokens and the chat template of a model of `vocab_size` rows.
///
/// # Errors
/// [`Error::Damaged`] for a tokenizer that is inconsistent or cannot be used.
pub(crate) fn read(file: &GgufFile, vocab_size: usize) -> Result<Texts> {
    let keys = Keys { file, vocab_size };
    let mut texts = Texts { info: keys.info()?, notes: keys.contradictions(), ..Texts::default() };
    let json = match file.get(HF_JSON).and_then(Value::as_str) {
        Some(json) => Ok(json.as_bytes().to_vec()),
        None => keys.build()?,
    };
    match json {
        Ok(json) => {
            keys.try_out(&json)?;
            texts.json = Some(json);
        }
        Err(note) => texts.notes.push(note),
    }
    Ok(texts)
}

struct Keys<'a> {
    file: &'a GgufFile,
    vocab_size: usize,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.file.get(&format!("tokenizer.ggml.{key}"))
    }

    fn wrong(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::damaged(self.file.path(), format!("tokenizer.ggml.{key}"), problem)
    }

    fn array(&self, key: &str) -> Option<&'a Array> {
        self.get(key).and_then(Value::as_array)
    }

    fn tokens(&self) -> &'a [String] {
        self.array("tokens").and_then(Array::as_strings).unwrap_or_default()
    }

    /// The id under `key`, if the model has that token.
    fn id(&self, key: &str) -> Option<u32> {
        let id = u32::try_from(self.get(key)?.as_u64()?).ok()?;
        ((id as usize) < self.vocab_size).then_some(id)
    }

    /// Notes on ids outside of the vocabulary, and on a vocabulary size that is not the embedding's.
    fn contradictions(&self) -> Vec<String> {
        let rows = self.vocab_size;
        let mut notes = Vec::new();
        let named = SPECIAL.map(|(key, _)| key).into_iter().filter(|key| !ENDS.contains(key));
        for key in ENDS.into_iter().chain(named) {
            if let Some(id) = self.get(key).and_then(Value::as_u64).filter(|&id| id >= rows as u64) {
                notes.push(format!(
                    "tokenizer.ggml.{key} is {id}, but the embedding has {rows} rows: it is ignored"
                ));
            }
        }
        let architecture = self.file.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
        let key = format!("{architecture}.vocab_size");
        if let Some(size) = self.file.get(&key).and_then(Value::as_u64).filter(|&size| size != rows as u64) {
            notes.push(format!(
                "{key} is {size}, but the embedding has {rows} rows: the vocabulary is that of the embedding"
            ));
        }
        notes
    }

    fn info(&self) -> Result<TokenizerInfo> {
        let mut eos_token_ids: Vec<u32> = Vec::new();
        for id in ENDS.iter().filter_map(|key| self.id(key)) {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
        let chat = match self.file.get(CHAT_TEMPLATE) {
            None => None,
            Some(Value::String(template)) => {
                let text = |&(key, name): &(&str, &str)| {
                    let id = self.id(key)?;
                    Some((name.to_owned(), self.tokens().get(id as usize)?.clone()))
                };
                let own = self.file.get(CHAT_TOKENS).and_then(Value::as_str);
                let own = own.and_then(|tokens| serde_json::from_str(tokens).ok());
                let special_tokens = own.unwrap_or_else(|| SPECIAL.iter().filter_map(text).collect());
                Some(ChatInfo { template: template.clone(), special_tokens })
            }
            Some(_) => return Err(Error::damaged(self.file.path(), CHAT_TEMPLATE, "is not a text")),
        };
        Ok(TokenizerInfo { bos_token_id: self.id("bos_token_id"), eos_token_ids, chat })
    }

    /// Builds a `tokenizer.json`, or returns the reason why there is none.
    fn build(&self) -> Result<std::result::Result<Vec<u8>, String>> {
        let model = self.get("model").and_then(Value::as_str).unwrap_or("none");
        let tokens = self.tokens();
        if tokens.is_empty() {
            return Ok(Err("the file has no tokens: texts cannot be read with this checkpoint".to_owned()));
        }
        if tokens.len() > self.vocab_size {
            let problem = format!("are {}, but the embedding has {} rows", tokens.len(), self.vocab_size);
            return Err(self.wrong("tokens", problem));
        }
        let types = match self.array("token_type") {
            None => vec![i64::from(token_type::NORMAL); tokens.len()],
            Some(array) => array.to_i64().filter(|types| types.len() == tokens.len()).ok_or_else(|| {
                self.wrong(
                    "token_type",
                    format!("is not a list of {} types, one for each token", tokens.len()),
                )
            })?,
        };
        let vocabulary = Vocabulary { tokens, types };
        let unsupported = |what: String| {
            format!(
                "{what}: the checkpoint has no tokenizer; put a tokenizer.json into its directory and import again"
            )
        };
        let parts = match model {
            "gpt2" => {
                let name = self.get("pre").and_then(Value::as_str).unwrap_or("default");
                match pre::named(name) {
                    Some(pre) => self.byte_pairs(&vocabulary, pre)?,
                    None => return Ok(Err(unsupported(format!("the pre-tokenizer {name:?} is not known")))),
                }
            }
            "llama" => self.sentence_piece(&vocabulary)?,
            other => return Ok(Err(unsupported(format!("a tokenizer of the kind {other:?} is not known")))),
        };
        let mut file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": vocabulary.added(),
        });
        if let (Some(file), Json::Object(parts)) = (file.as_object_mut(), parts) {
            file.extend(parts);
        }
        Ok(Ok(file.to_string().into_bytes()))
    }

    fn byte_pairs(&self, vocabulary: &Vocabulary<'_>, pre: &pre::Pre) -> Result<Json> {
        let merges = self.array("merges").and_then(Array::as_strings);
        let merges = merges.ok_or_else(|| self.wrong("merges", "is not a list of texts"))?;
        let composes = matches!(pre.name, "qwen2" | "deepseek-r1-qwen");
        Ok(json!({
            "normalizer": if composes { json!({ "type": "NFC" }) } else { Json::Null },
            "pre_tokenizer": pre.split.to_json(),
            "post_processor": self.post_processor(pre.add_bos),
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
            },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.ignore_merges, "vocab": vocabulary.ids(), "merges": merges,
            },
        }))
    }

    fn sentence_piece(&self, vocabulary: &Vocabulary<'_>) -> Result<Json> {
        let scores = self.array("scores").and_then(Array::as_f32);
        let scores = scores.filter(|scores| scores.len() == vocabulary.tokens.len());
        let scores =
            scores.ok_or_else(|| self.wrong("scores", "is not a list with a number for each token"))?;
        let prefix = self.get("add_space_prefix").and_then(Value::as_bool).unwrap_or(true);
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        let normalizer = match prefix {
            true => json!({ "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": SPACE }, replace,
            ] }),
            false => replace,
        };
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown = self.id("unknown_token_id").unwrap_or(0);
        Ok(json!({
            "normalizer": normalizer,
            "pre_tokenizer": null,
            "post_processor": self.post_processor(true),
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": vocabulary.tokens.get(unknown as usize),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary.ids(),
                "merges": merges(vocabulary.tokens, scores, |id| vocabulary.is_merged(id)),
            },
        }))
    }

    /// Returns the post-processor that adds tokens around a text. If the file does not specify it, `add_bos` decides
    /// about BOS.
    fn post_processor(&self, add_bos: bool) -> Json {
        let flag = |key: &str, default: bool| self.get(key).and_then(Value::as_bool).unwrap_or(default);
        let token = |key: &str, wanted: bool| {
            let id = self.id(key).filter(|_| wanted)?;
            Some((id, self.tokens().get(id as usize)?))
        };
        let begin = token("bos_token_id", flag("add_bos_token", add_bos));
        let end = token("eos_token_id", flag("add_eos_token", false));
        if begin.is_none() && end.is_none() {
            return json!({
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true
            });
        }
        let text = |token: Option<(u32, &'a String)>| token.map(|(id, text)| (id, text.as_str()));
        template(text(begin), text(end))
    }

    /// Loads the tokenizer and encodes a test text.
    fn try_out(&self, json: &[u8]) -> Result<()> {
        let refuse = |problem: String| Error::damaged(self.file.path(), "tokenizer", problem);
        let text = std::str::from_utf8(json).map_err(|error| refuse(error.to_string()))?;
        let origin = self.file.path().display().to_string();
        let unusable = |error: slm_text::Error| refuse(format!("it cannot be used: {error}"));
        let tokenizer = Tokenizer::from_json(text, &origin).map_err(unusable)?;
        let ids = tokenizer.try_out().map_err(unusable)?;
        match ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => {
                let size = self.vocab_size;
                Err(refuse(format!("it makes token {id}, but the embedding has {size} rows")))
            }
            None => Ok(()),
        }
    }
}

/// The tokens of a file and their types.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Vec<i64>,
}

impl Vocabulary<'_> {
    /// Returns `true` if a token is only padding of the vocabulary, which no text produces.
    fn is_padding(&self, id: usize) -> bool {
        self.types.get(id) == Some(&i64::from(token_type::UNUSED)) && self.tokens[id] == format!("[PAD{id}]")
    }

    /// The id of every token that is not padding.
    fn ids(&self) -> Map<String, Json> {
        let used = self.tokens.iter().enumerate().filter(|&(id, _)| !self.is_padding(id));
        used.map(|(id, token)| (token.clone(), Json::from(id))).collect()
    }

    /// The tokens that are matched as a whole in a text.
    fn added(&self) -> Vec<Json> {
        let whole = [token_type::CONTROL, token_type::USER_DEFINED, token_type::UNKNOWN].map(i64::from);
        let added = self.types.iter().enumerate().filter(|(_, kind)| whole.contains(kind));
        added
            .map(|(id, &kind)| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": kind != i64::from(token_type::USER_DEFINED),
                })
            })
            .collect()
    }

    /// Returns `true` if a SentencePiece token is the concatenation of two others.
    fn is_merged(&self, id: usize) -> bool {
        self.types.get(id) == Some(&i64::from(token_type::NORMAL)) && !is_byte(&self.tokens[id])
    }
}
