//! Tokens that end a text or a turn, from `tokenizer_config.json`.
//!
//! `generation_config.json` and `config.json` contain ids. Many models name the token that ends a turn, or any end
//! token, only in the tokenizer's files: as `eos_token`, or in the chat template.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::tokenizer_settings::TokenizerSettings;
use crate::TokenizerInfo;

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

/// Adds the end tokens named by `settings` to `info`. A tokenizer that cannot be read adds nothing, because it is
/// checked elsewhere.
pub(super) fn add(
    settings: &TokenizerSettings,
    tokenizer_json: Option<&[u8]>,
    vocab_size: usize,
    mut info: TokenizerInfo,
) -> TokenizerInfo {
    let template = match settings.fields.get("chat_template") {
        Some(template) => template.to_string(),
        None => settings.template_file.clone().unwrap_or_default(),
    };
    let named = ["eos_token", "eot_token"].iter().filter_map(|key| settings.token(key));
    let turns = END_OF_TURN.iter().copied().filter(|token| template.contains(token));
    let tokens: Vec<&str> = named.chain(turns).collect();
    let Some(ids) = tokenizer_json.filter(|_| !tokens.is_empty()).and_then(ids_of) else { return info };
    for token in tokens {
        let id = ids(token).filter(|&id| (id as usize) < vocab_size);
        if let Some(id) = id.filter(|id| !info.eos_token_ids.contains(id)) {
            tracing::info!("{}: {token:?} (id {id}) ends a text too", settings.path.display());
            info.eos_token_ids.push(id);
        }
    }
    info
}

/// Returns a function that maps the text of a token to its id.
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
            fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
            let info = TokenizerInfo { eos_token_ids: vec![3], ..TokenizerInfo::default() };
            let settings = TokenizerSettings::read(dir.path()).unwrap_or_default();
            add(&settings, Some(tokenizer), 50, info).eos_token_ids
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
        fs::write(dir.path().join("chat_template.jinja"), "{{ x }}<|end|>").unwrap();
        assert_eq!(ids("{}"), [3, 9]);
    }
}
