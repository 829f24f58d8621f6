//! Settings of a Hugging Face tokenizer outside of its `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{documents, impostor};
use crate::{Result, StoreError, json};

const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// `tokenizer_config.json` and `chat_template.jinja` of a model, if they exist.
#[derive(Debug, Default)]
pub(super) struct TokenizerSettings {
    /// Path of `tokenizer_config.json`.
    pub(super) path: PathBuf,
    /// Its fields.
    pub(super) fields: Map<String, Value>,
    /// Text of `chat_template.jinja`.
    pub(super) template_file: Option<String>,
}

impl TokenizerSettings {
    /// Reads the files in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let fields = documents::read(&path, json::LARGE)?.unwrap_or_default();
        let template_path = dir.join(TEMPLATE_FILE);
        let template_file = match json::read_optional(&template_path, json::SMALL)? {
            Some(bytes) if bytes.is_empty() => None,
            Some(bytes) => {
                if let Some(error) = impostor::explain_template(&template_path, &bytes) {
                    return Err(error);
                }
                let text = String::from_utf8(documents::decode(&template_path, bytes)?);
                Some(text.map_err(|error| {
                    StoreError::field(&template_path, "chat_template", "UTF-8 text", error.utf8_error())
                })?)
            }
            None => None,
        };
        Ok(Self { path, fields, template_file })
    }

    /// Returns the text of the special token in the field `name`.
    pub(super) fn token(&self, name: &str) -> Option<&str> {
        token_text(self.fields.get(name)?)
    }
}

/// Returns the text of a token, which is a string or an object with `content`.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
