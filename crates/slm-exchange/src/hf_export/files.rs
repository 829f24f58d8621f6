//! The files of a Hugging Face directory other than config and weights.

use std::path::Path;

use serde_json::{Map, Value, json};
use slm_checkpoint::Checkpoint;
use slm_store::{WEIGHTS, json as json_file};

use crate::Result;

pub(crate) const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// All files that an export writes.
pub(crate) const FILES: [&str; 6] =
    [CONFIG, WEIGHTS, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE];

/// Writes tokenizer, tokenizer settings, chat template and generation defaults into `dir`.
pub(crate) fn write(checkpoint: &Checkpoint, dir: &Path) -> Result<()> {
    let config = checkpoint.config();
    let info = &config.tokenizer;
    let put = |name: &str, value: &Value| json_file::write(&dir.join(name), value);
    let mut generation = Map::new();
    if let Some(bos) = info.bos_token_id {
        generation.insert("bos_token_id".to_owned(), bos.into());
    }
    match info.eos_token_ids[..] {
        [] => {}
        [eos] => drop(generation.insert("eos_token_id".to_owned(), eos.into())),
        _ => drop(generation.insert("eos_token_id".to_owned(), info.eos_token_ids.clone().into())),
    }
    put(GENERATION_CONFIG, &Value::Object(generation))?;
    let Some(tokenizer) = checkpoint.tokenizer_json() else { return Ok(()) };
    json_file::write_new(&dir.join(TOKENIZER), tokenizer)?;
    let tokens: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let text = |id: u32| {
        let added = tokens["added_tokens"].as_array()?.iter().find(|token| token["id"] == json!(id));
        let in_vocabulary =
            || tokens["model"]["vocab"].as_object()?.iter().find(|(_, found)| **found == json!(id));
        added
            .and_then(|token| token["content"].as_str())
            .or_else(|| in_vocabulary().map(|(token, _)| token.as_str()))
            .map(str::to_owned)
    };
    let mut settings = Map::from_iter([
        ("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast")),
        ("clean_up_tokenization_spaces".to_owned(), json!(false)),
        ("model_max_length".to_owned(), json!(config.model.max_position_embeddings)),
    ]);
    let ids = [("bos_token", info.bos_token_id), ("eos_token", info.eos_token_ids.first().copied())];
    for (name, id) in ids {
        if let Some(token) = id.and_then(text) {
            settings.insert(name.to_owned(), token.into());
        }
    }
    if let Some(chat) = &info.chat {
        // Tokens that the template uses take precedence over those that end a generation.
        for (name, token) in &chat.special_tokens {
            settings.insert(name.clone(), token.as_str().into());
        }
        json_file::write_new(&dir.join(CHAT_TEMPLATE), chat.template.as_bytes())?;
    }
    Ok(put(TOKENIZER_CONFIG, &Value::Object(settings))?)
}
