//! The chat template of a Hugging Face model, and the special tokens that it uses.

use std::fmt::Display;
use std::path::Path;

use serde_json::Value;

use super::tokenizer_settings::TokenizerSettings;
use crate::{ChatInfo, Result, StoreError};

const SETTING: &str = "chat_template";
/// Names of the special tokens that templates use.
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// Name of the template that is used by default.
const DEFAULT: &str = "default";

/// Reads the template of a model: the file `chat_template.jinja`, or else `chat_template` of `tokenizer_config.json`,
/// which is a string, or several by name, of which `default` is used. Returns `None` if there is neither.
pub(super) fn read(settings: &TokenizerSettings) -> Result<Option<ChatInfo>> {
    let template = match &settings.template_file {
        Some(text) => Some(text.clone()),
        None => find(&settings.path, settings.fields.get(SETTING))?,
    };
    let token = |name: &&str| Some(((*name).to_owned(), settings.token(name)?.to_owned()));
    Ok(template.map(|template| ChatInfo {
        template,
        special_tokens: SPECIAL_TOKENS.iter().filter_map(token).collect(),
    }))
}

/// Finds the template in the setting `value` of the file `path`.
fn find(path: &Path, value: Option<&Value>) -> Result<Option<String>> {
    let refuse = |found: &dyn Display| {
        let expected = "a string, or a list of objects with name and template, one of them \"default\"";
        Err(StoreError::field(path, SETTING, expected, found).into())
    };
    let named: Vec<(Option<&str>, Option<&str>)> = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(template)) => return Ok(Some(template.clone())),
        Some(Value::Array(entries)) => {
            entries.iter().map(|entry| (entry["name"].as_str(), entry["template"].as_str())).collect()
        }
        Some(Value::Object(entries)) => {
            entries.iter().map(|(name, template)| (Some(name.as_str()), template.as_str())).collect()
        }
        Some(other) => return refuse(other),
    };
    let mut chosen = None;
    for &(name, template) in &named {
        let (Some(name), Some(template)) = (name, template) else {
            return refuse(&"an entry without name or template");
        };
        if name == DEFAULT || named.len() == 1 {
            chosen = Some(template.to_owned());
        }
    }
    match chosen {
        None if !named.is_empty() => refuse(&"several templates without a default"),
        chosen => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn read(dir: &Path) -> Result<Option<ChatInfo>> {
        super::read(&TokenizerSettings::read(dir)?)
    }

    fn template(setting: &Value) -> Result<Option<String>> {
        find(Path::new("tokenizer_config.json"), Some(setting))
    }

    #[test]
    fn every_form_of_the_setting_is_read() {
        assert_eq!(template(&json!(null)).unwrap(), None);
        assert_eq!(template(&json!("a")).unwrap().unwrap(), "a");
        let named = json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
        assert_eq!(template(&named).unwrap().unwrap(), "d");
        assert_eq!(template(&json!({ "only": "o" })).unwrap().unwrap(), "o");
        assert_eq!(template(&json!([])).unwrap(), None);
    }

    #[test]
    fn other_forms_are_refused() {
        for setting in [json!(1), json!([{ "name": "a" }]), json!({ "a": 1 }), json!({ "a": "x", "b": "y" })]
        {
            let error = template(&setting).unwrap_err().to_string();
            assert!(error.contains("tokenizer_config.json") && error.contains("chat_template"), "{error}");
        }
    }

    #[test]
    fn a_file_comes_before_the_setting_and_tokens_are_texts_or_objects() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let settings = json!({
            "chat_template": "setting",
            "bos_token": "<s>",
            "eos_token": { "content": "</s>", "lstrip": false },
            "pad_token": null,
        });
        fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        let info = read(dir.path()).unwrap().unwrap();
        assert_eq!(info.template, "setting");
        let tokens: Vec<(&str, &str)> =
            info.special_tokens.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(tokens, [("bos_token", "<s>"), ("eos_token", "</s>")]);
        fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().template, "file");
        fs::write(dir.path().join("chat_template.jinja"), [0xff]).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("chat_template.jinja"));
    }
}
