//! Tokenizers of small models, compared with ids and texts of the Hugging Face library.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use slm_text::Tokenizer;

/// Returns the folder of the tokenizers; prints a line and returns `None` if it does not exist.
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
            // The recorded text contains the special tokens that it spells out, but not those put around it.
            let decoded = tokenizer.decode_with_special_tokens(&ids("ids_no_special")).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}: {text:?}");
            checked += 1;
        }
        // Whole texts cover the splitting into pieces, in which tokenizers differ most.
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
