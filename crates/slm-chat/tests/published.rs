//! The templates of ten model families, compared with transformers' renderings.

use std::fs;

use serde_json::Value;
use slm_chat::{ChatTemplate, DateTime, Error, Message, RenderOptions};

/// The date in the reference renderings.
const DAY: DateTime = DateTime::constant(2026, 11, 27, 12, 0, 0, 0);

#[test]
fn published_templates_render_as_in_transformers() {
    let Some(dir) = slm_testing::shared_dir("templates") else { return };
    let reference: Value =
        serde_json::from_slice(&fs::read(dir.join("expected_renderings.json")).unwrap()).unwrap();
    let mut options = RenderOptions { now: Some(DAY), ..RenderOptions::default() };
    for (name, text) in
        [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")]
    {
        options.special_tokens.insert(name.to_owned(), text.to_owned());
    }
    let cases = reference["cases"].as_array().unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let file = case["template"].as_str().unwrap();
        let conversation = case["conversation"].as_str().unwrap();
        let messages: Vec<Message> =
            serde_json::from_value(reference["conversations"][conversation].clone()).unwrap();
        options.add_generation_prompt = case["add_generation_prompt"].as_bool().unwrap();
        let template = ChatTemplate::new(fs::read_to_string(dir.join(file)).unwrap()).unwrap();
        let rendered = template.render(&messages, &options);
        match case["rendered"].as_str() {
            Some(expected) => assert_eq!(rendered.as_deref(), Ok(expected), "{file}, {conversation}"),
            None => {
                let error = rendered.unwrap_err();
                assert!(matches!(error, Error::Refused { .. }), "{file}, {conversation}: {error}");
                let said = case["error"].as_str().unwrap();
                assert!(said.ends_with(&error.to_string().split_once(": ").unwrap().1), "{said}: {error}");
            }
        }
    }
}
