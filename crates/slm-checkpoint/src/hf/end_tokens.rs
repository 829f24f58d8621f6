//! Tokens that end a text or a turn, as `tokenizer_config.json` names them.
//!
//! `generation_config.json` and `config.json` have ids. Many models have the token that ends a turn, or any, in the
//! tokenizer's files alone: as `eos_token`, or in the chat template.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{TokenizerInfo, json as json_file};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Tokens that end a turn in the templates of known models.
const END_OF_TURN: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<|return|>",
];

#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// Adds to `info` the end tokens that the tokenizer's files in `dir` name. What cannot be read adds nothing: the files are
/// checked elsewhere.
pub(super) fn add(
    dir: &Path,
    tokenizer_json: Option<&[u8]>,
    vocab_size: usize,
    mut info: TokenizerInfo,
) -> TokenizerInfo {
    let read = |name: &str| json_file::read_optional(&dir.join(name), json_file::SMALL).ok().flatten();
    let config: Map<String, Value> =
        read(TOKENIZER_CONFIG).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let template = match (config.get("chat_template"), read(CHAT_TEMPLATE)) {
        (Some(template), _) => template.to_string(),
        (None, Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        (None, None) => String::new(),
    };
    let named = ["eos_token", "eot_token"].iter().filter_map(|key| content(config.get(*key)?));
    let turns = END_OF_TURN.iter().copied().filter(|token| template.contains(token));
    let tokens: Vec<&str> = named.chain(turns).collect();
    let Some(ids) = tokenizer_json.filter(|_| !tokens.is_empty()).and_then(ids_of) else { return info };
    for token in tokens {
        let id = ids(token).filter(|&id| (id as usize) < vocab_size);
        if let Some(id) = id.filter(|id| !info.eos_token_ids.contains(id)) {
            tracing::info!("{}: {token:?} (id {id}) ends a text too", dir.join(TOKENIZER_CONFIG).display());
            info.eos_token_ids.push(id);
        }
    }
    info
}

/// A token, written as a text or as an object with its `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Ids of tokens by what they are written as.
fn ids_of(tokenizer_json: &[u8]) -> Option<impl Fn(&str) -> Option<u32>> {
    let file: Tokenizer = serde_json::from_slice(tokenizer_json).ok()?;
    let added: HashMap<String, u32> =
        file.added_tokens.into_iter().map(|token| (token.content, token.id)).collect();
    Some(move |token: &str| {
        let in_vocabulary = || file.model.as_ref()?.get("vocab")?.get(token)?.as_u64()?.try_into().ok();
        added.get(token).copied().or_else(in_vocabulary)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn tokens_come_from_the_config_and_the_template() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = br#"{"added_tokens":[{"id":7,"content":"<|im_end|>"},{"id":9,"content":"<|end|>"}],
            "model":{"vocab":{"</s>":2,"<eot>":99}}}"#;
        let ids = |config: &str| {
            fs::write(dir.path().join(TOKENIZER_CONFIG), config).unwrap();
            let info = TokenizerInfo { eos_token_ids: vec![3], ..TokenizerInfo::default() };
            add(dir.path(), Some(tokenizer), 50, info).eos_token_ids
        };
        assert_eq!(ids("{}"), [3]);
        assert_eq!(ids(r#"{"eos_token": "</s>"}"#), [3, 2]);
        assert_eq!(ids(r#"{"eos_token": {"content": "<|im_end|>", "lstrip": false}}"#), [3, 7]);
        assert_eq!(ids(r#"{"eos_token": "</s>", "chat_template": "x<|im_end|>\n"}"#), [3, 2, 7]);
        assert_eq!(
            ids(r#"{"eot_token": "<eot>", "eos_token": "unknown"}"#),
            [3],
            "beyond the vocabulary, unknown"
        );
        assert_eq!(ids("not JSON"), [3]);
        fs::write(dir.path().join(CHAT_TEMPLATE), "{{ x }}<|end|>").unwrap();
        assert_eq!(ids("{}"), [3, 9]);
    }
}
