//! Tokenizers that small models use, with ids and texts as the Hugging Face library gives them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use slm_text::Tokenizer;

/// The folder of the tokenizers; none, with a printed line, where it is not there.
fn folder() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("SLM_SHARED").map_or_else(beside, PathBuf::from).join("tokenizers");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no tokenizers at {}", folder.display());
    None
}

#[test]
fn ids_and_texts_are_as_recorded() {
    let Some(folder) = folder() else { return };
    let mut checked = 0;
    for name in ["gpt2", "qwen2", "gpt-neox", "mistral-v1"] {
        let dir = folder.join(name);
        let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        let recorded: Value =
            serde_json::from_slice(&fs::read(dir.join("tokenizer_cases.json")).unwrap()).unwrap();
        assert_eq!(
            tokenizer.vocab_size() as u64,
            recorded["vocab_size_with_added"].as_u64().unwrap(),
            "{name}"
        );
        for case in recorded["tokenizer_cases"].as_array().unwrap() {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode_with_special_tokens(text).unwrap(), ids("ids"), "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text).unwrap(), ids("ids_no_special"), "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids("ids")).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
            checked += 1;
        }
        // Whole texts: splitting them into pieces is where tokenizers go wrong.
        for bulk in recorded["bulk"].as_array().into_iter().flatten() {
            let file = bulk["file"].as_str().unwrap();
            let path = folder.join("..").join(file.trim_start_matches("shared/"));
            let text = fs::read(path).unwrap();
            let at = |key: &str| bulk[key].as_u64().unwrap() as usize;
            let text = std::str::from_utf8(&text[at("byte_start")..at("byte_end")]).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap().len(), at("n_tokens"), "{name}: {file}");
        }
    }
    assert!(checked > 100, "{checked} cases");
}
