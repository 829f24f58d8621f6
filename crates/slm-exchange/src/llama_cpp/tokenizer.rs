//! The tokenizer of a model as metadata.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;
use slm_checkpoint::TokenizerInfo;
use slm_text::Tokenizer;
use slm_text::sentencepiece::{SPACE, is_byte};

use super::pre;
use crate::gguf::Value;
use crate::{Error, Result, normalizer};

/// The types of tokens.
pub(crate) mod token_type {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

/// The program that reads the keys.
const PROGRAM: &str = "llama.cpp";
/// The key of a complete `tokenizer.json`, which GGUF's specification defines.
pub(crate) const HF_JSON: &str = "tokenizer.huggingface.json";
/// The key of the chat template.
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The key of the special tokens that the chat template uses, as a JSON object. llama.cpp has keys for some of them, and
/// for tokens that the template does not use.
pub(crate) const CHAT_TOKENS: &str = "slm.chat_special_tokens";

/// The special tokens: their keys in `tokenizer.ggml`, and their names in chat templates.
pub(crate) const SPECIAL: [(&str, &str); 4] = [
    ("bos_token_id", "bos_token"),
    ("eos_token_id", "eos_token"),
    ("unknown_token_id", "unk_token"),
    ("padding_token_id", "pad_token"),
];

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Json,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    unk_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair([String; 2]),
}

impl Merge {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Text(text) => text.split_once(' '),
            Self::Pair([left, right]) => Some((left, right)),
        }
    }
}

/// The metadata of a tokenizer, and notes on what llama.cpp does differently.
#[derive(Debug, Default)]
pub(crate) struct TokenizerKeys {
    pub(crate) pairs: Vec<(String, Value)>,
    pub(crate) notes: Vec<String>,
}

impl TokenizerKeys {
    fn add(&mut self, key: &str, value: impl Into<Value>) {
        self.pairs.push((format!("tokenizer.ggml.{key}"), value.into()));
    }
}

/// The metadata of the tokenizer of `json`, for a model of `vocab_size` rows that the file calls `name`.
///
/// # Errors
/// [`Error::Unsupported`] for a tokenizer that llama.cpp does not support.
pub(crate) fn keys(
    path: &Path,
    json: &[u8],
    info: &TokenizerInfo,
    vocab_size: usize,
    name: &str,
) -> Result<TokenizerKeys> {
    let refuse = |what: String| {
        let what =
            format!("the tokenizer cannot be exported, as llama.cpp would read texts otherwise: {what}");
        Error::not_in_format(path, what)
    };
    let file: File = serde_json::from_slice(json).map_err(|error| refuse(error.to_string()))?;
    let mut keys = TokenizerKeys::default();
    let Json::Object(vocab) = &file.model.vocab else {
        return Err(refuse("it is not a byte-pair encoding".to_owned()));
    };
    if file.model.kind.as_deref().unwrap_or("BPE") != "BPE" {
        return Err(refuse(format!("its model is {}", file.model.kind.unwrap_or_default())));
    }
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; vocab_size];
    let mut place = |id: u64, token: &str, kind: i32| {
        if let Some(slot) = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id)) {
            *slot = Some((token.to_owned(), kind));
        }
    };
    let sentence_piece = file.model.byte_fallback;
    for (token, id) in vocab {
        let kind = match sentence_piece && is_byte(token) {
            true => token_type::BYTE,
            false => token_type::NORMAL,
        };
        place(id.as_u64().unwrap_or(u64::MAX), token, kind);
    }
    for added in &file.added_tokens {
        let kind = match added.special {
            true => token_type::CONTROL,
            false => token_type::USER_DEFINED,
        };
        let unknown = sentence_piece && file.model.unk_token.as_ref() == Some(&added.content);
        place(added.id, &added.content, if unknown { token_type::UNKNOWN } else { kind });
    }
    let (texts, types): (Vec<String>, Vec<i32>) = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), token_type::UNUSED)))
        .unzip();
    if sentence_piece {
        sentence_piece_keys(&mut keys, &file, &texts).map_err(refuse)?;
    } else {
        byte_pair_keys(&mut keys, &file).map_err(refuse)?;
    }
    keys.notes.extend(normalizer::note(PROGRAM, &file.normalizer));
    keys.notes.extend(strip_note(&file, name));
    special_keys(&mut keys, path, json, info, &texts)?;
    keys.add("tokens", texts);
    keys.add("token_type", types);
    if let Ok(text) = std::str::from_utf8(json) {
        keys.pairs.push((HF_JSON.to_owned(), text.into()));
    }
    Ok(keys)
}

/// Returns `true` if the tokenizer of `json` strips spaces after its special tokens, as that of Phi-3 does.
pub(crate) fn strips_right(json: &[u8]) -> bool {
    let file: Result<File, _> = serde_json::from_slice(json);
    file.is_ok_and(|file| file.added_tokens.iter().any(|token| token.special && token.rstrip))
}

/// Returns `true` if llama.cpp takes a model called `name` for Phi-3, and strips spaces after its special tokens.
pub(crate) fn is_named_phi3(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.contains("phi-3") || lower.contains("phi3")
}

/// The note on added tokens that swallow the spaces around them. llama.cpp keeps those spaces, except after the special
/// tokens of Phi-3.
fn strip_note(file: &File, name: &str) -> Option<String> {
    /// Tokens of Phi-3 after which llama.cpp keeps spaces.
    const KEEP: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];
    let phi3 = |token: &Added| is_named_phi3(name) && token.special && !KEEP.contains(&&*token.content);
    let swallows = |token: &&Added| token.lstrip || (token.rstrip && !phi3(token));
    let mut tokens = file.added_tokens.iter().filter(swallows).map(|token| token.content.as_str());
    let first = tokens.next()?;
    let more = match tokens.count() {
        0 => String::new(),
        count => format!(" and {count} more tokens"),
    };
    Some(format!(
        "{PROGRAM} keeps the spaces around {first}{more} that the tokenizer removes (lstrip, rstrip): remove them before"
    ))
}

fn byte_pair_keys(keys: &mut TokenizerKeys, file: &File) -> Result<(), String> {
    let pre = pre::name_of(&file.pre_tokenizer, file.model.ignore_merges)?;
    match file.normalizer["type"].as_str() {
        None | Some("NFC") => {}
        Some(other) => return Err(format!("its normalizer is {other}")),
    }
    keys.add("model", "gpt2");
    keys.add("pre", pre);
    let merges = file.model.merges.iter().map(|merge| {
        let (left, right) = merge.parts().ok_or("a merge is not two tokens")?;
        Ok(format!("{left} {right}"))
    });
    keys.add("merges", merges.collect::<Result<Vec<String>, String>>()?);
    Ok(())
}

/// Writes the keys for SentencePiece, which merges the pair whose token has the highest score. The score of a token is
/// the negated position of its merge.
fn sentence_piece_keys(keys: &mut TokenizerKeys, file: &File, texts: &[String]) -> Result<(), String> {
    let normalizer = file.normalizer.to_string();
    let replaces = normalizer.contains("\"Replace\"") && normalizer.contains(SPACE);
    let prepends = normalizer.contains("\"Prepend\"");
    let (replaces, prepends) = match file.pre_tokenizer["type"].as_str() {
        None => (replaces, prepends),
        // Gemma: spaces are replaced earlier, and the pieces keep theirs.
        Some("Split") => (replaces, prepends),
        Some("Metaspace") => {
            let scheme = file.pre_tokenizer["prepend_scheme"].as_str().unwrap_or("always");
            (true, scheme != "never")
        }
        Some(other) => return Err(format!("its pre-tokenizer is {other}")),
    };
    if !replaces {
        return Err("its spaces are not those of SentencePiece".to_owned());
    }
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for merge in &file.model.merges {
        let (left, right) = merge.parts().ok_or("a merge is not two tokens")?;
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    let last = ranks.len();
    let score = |text: &String| match (ranks.get(text), is_byte(text)) {
        (Some(&rank), _) => -(rank as f32),
        (None, true) => 0.0,
        (None, false) => -(last as f32),
    };
    keys.add("model", "llama");
    keys.add("pre", "default");
    keys.add("scores", texts.iter().map(score).collect::<Vec<f32>>());
    keys.add("add_space_prefix", prepends);
    Ok(())
}

/// Writes the ids of special tokens, and the tokens that the tokenizer adds around a text.
fn special_keys(
    keys: &mut TokenizerKeys,
    path: &Path,
    json: &[u8],
    info: &TokenizerInfo,
    texts: &[String],
) -> Result<()> {
    let text = std::str::from_utf8(json).unwrap_or_default();
    let tokenizer = Tokenizer::from_json(text, &path.display().to_string())?;
    let (plain, around) = (tokenizer.encode("a")?, tokenizer.encode_with_special_tokens("a")?);
    let begins = around.len() > plain.len() && around.first() != plain.first();
    let ends = around.len() > plain.len() && around.last() != plain.last();
    let bos = if begins { around.first().copied() } else { None }.or(info.bos_token_id);
    let eos = if ends { around.last().copied() } else { None }.or(info.eos_token_ids.first().copied());
    let chat = info.chat.as_ref();
    let named = |name: &str| {
        let text = chat?.special_tokens.get(name)?;
        texts.iter().position(|token| token == text).and_then(|id| u32::try_from(id).ok())
    };
    for (key, name) in SPECIAL {
        let id = match key {
            "bos_token_id" => bos.or_else(|| named(name)),
            "eos_token_id" => eos.or_else(|| named(name)),
            _ => named(name),
        };
        match id {
            Some(id) => keys.add(key, id),
            None if key == "bos_token_id" || key == "eos_token_id" => keys.notes.push(format!(
                "the model has no {name}: llama.cpp takes the one that it has for all files of this kind"
            )),
            None => {}
        }
    }
    // Additional tokens that end a text.
    if let Some(&end) = info.eos_token_ids.get(1) {
        keys.add("eot_token_id", end);
    }
    if info.eos_token_ids.len() > 2 {
        let rest: Vec<String> = info.eos_token_ids[2..].iter().map(u32::to_string).collect();
        keys.notes.push(format!("tokens {} end a text too, which GGUF has no key for", rest.join(", ")));
    }
    keys.add("add_bos_token", begins);
    keys.add("add_eos_token", ends);
    if let Some(chat) = chat {
        keys.pairs.push((CHAT_TEMPLATE.to_owned(), chat.template.as_str().into()));
        let tokens = serde_json::to_string(&chat.special_tokens).unwrap_or_default();
        keys.pairs.push((CHAT_TOKENS.to_owned(), tokens.into()));
    }
    Ok(())
}
