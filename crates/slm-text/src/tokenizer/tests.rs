use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::corpus::Corpus;

fn trained(vocab_size: usize) -> Tokenizer {
    Tokenizer::train(&Corpus::new(1).text(300), vocab_size).unwrap()
}

#[test]
fn training_reaches_the_vocabulary_and_is_deterministic() {
    let (a, b) = (trained(400), trained(400));
    assert_eq!(a.vocab_size(), 400);
    assert_eq!(a.to_json().unwrap(), b.to_json().unwrap());
    assert_eq!(a.token_id(END_OF_TEXT), Some(0));
    assert_eq!(a.token(0).as_deref(), Some(END_OF_TEXT));
}

#[test]
fn words_become_short() {
    let tokenizer = Tokenizer::train(&Corpus::new(1).text(1000), 1024).unwrap();
    let text = Corpus::new(2).text(200);
    let ids = tokenizer.encode(&text).unwrap();
    println!("{:.2} bytes a token", text.len() as f64 / ids.len() as f64);
    assert!(ids.len() * 3 < text.len(), "{} tokens for {} bytes", ids.len(), text.len());
    assert_eq!(tokenizer.decode_with_special_tokens(&ids).unwrap(), text);
}

#[test]
fn the_separator_is_one_token() {
    let tokenizer = trained(300);
    let ids = tokenizer.encode(&format!("a\n{END_OF_TEXT}\nb")).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 1);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "a\n\nb");
}

#[test]
fn impossible_vocabularies_are_refused() {
    assert!(matches!(Tokenizer::train("text", 100), Err(Error::VocabularyTooSmall { minimum: 257, .. })));
    let error = Tokenizer::train("so little text", 5000).unwrap_err();
    assert!(matches!(error, Error::VocabularyNotReached { vocab_size: 5000, .. }), "{error}");
    assert!(error.to_string().contains("at most 2"), "{error}");
}

#[test]
fn saving_and_loading_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let tokenizer = trained(320);
    tokenizer.save(&path).unwrap();
    assert_eq!(Tokenizer::from_file(&path).unwrap().to_json().unwrap(), tokenizer.to_json().unwrap());
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let missing = Tokenizer::from_file(&path).unwrap_err();
    assert!(matches!(missing, Error::Read { .. }), "{missing}");
    fs::write(&path, "{\"version\": \"1.0\"").unwrap();
    let truncated = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(truncated.contains("tokenizer.json") && truncated.contains("Hugging Face"), "{truncated}");
    let unwritable = trained(257).save(dir.path().join("no/such/folder.json")).unwrap_err();
    assert!(matches!(unwritable, Error::Write { .. }), "{unwritable}");
}

#[test]
fn truncation_in_a_file_is_switched_off() {
    let mut json: Value = serde_json::from_str(&trained(257).to_json().unwrap()).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    });
    let tokenizer = Tokenizer::from_json(&json.to_string(), "test").unwrap();
    assert_eq!(tokenizer.encode("twelve bytes").unwrap().len(), 12);
}

#[test]
fn a_stream_holds_back_incomplete_characters() {
    let tokenizer = trained(257);
    let ids = tokenizer.encode("aé🙂b").unwrap();
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["a", "", "é", "", "", "", "🙂", "b"]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn a_stream_that_ends_inside_a_character_says_so() {
    let tokenizer = trained(257);
    let ids = tokenizer.encode("ok 🙂").unwrap();
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for &id in &ids[..ids.len() - 1] {
        text += &stream.push(id).unwrap();
    }
    assert_eq!(text, "ok ");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}[ \n\t]{0,3}\\PC{0,40}") {
        let tokenizer = trained(300);
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode_with_special_tokens(&ids).unwrap(), text);
    }
}

#[test]
fn golden_tokenizer_cases_of_every_model() {
    let root = std::env::var_os("SLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let Ok(models) = fs::read_dir(root.join("models")) else {
        println!("skipped: no shared test data at {}", root.display());
        return;
    };
    let mut checked = 0;
    for model in models.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let tokenizer = Tokenizer::from_file(model.join("tokenizer.json")).unwrap();
        let expected: Value =
            serde_json::from_slice(&fs::read(model.join("expected.json")).unwrap()).unwrap();
        for case in expected["tokenizer_cases"].as_array().unwrap() {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            let text = case["text"].as_str().unwrap();
            let name = format!("{}: {text:?}", model.display());
            assert_eq!(tokenizer.encode_with_special_tokens(text).unwrap(), ids("ids"), "{name}");
            assert_eq!(tokenizer.encode(text).unwrap(), ids("ids_no_special"), "{name}");
            assert_eq!(tokenizer.decode(&ids("ids")).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
            checked += 1;
        }
        for prompt in expected["prompts"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(prompt["greedy_ids"].clone()).unwrap();
            let mut stream = tokenizer.stream();
            let mut text = String::new();
            for &id in &ids {
                text += &stream.push(id).unwrap();
            }
            text += &stream.finish().unwrap();
            assert_eq!(text, tokenizer.decode(&ids).unwrap(), "{}: streamed", model.display());
        }
    }
    assert!(checked > 0, "no tokenizer case under {}", root.display());
    println!("{checked} tokenizer cases");
}

/// Wherever the file is cut off, and with any byte of it missing, the library is not allowed to end the program.
#[test]
fn damaged_files_are_refused_without_a_panic() {
    let json = trained(257).to_json().unwrap();
    let bytes = json.as_bytes();
    for at in (0..bytes.len()).filter(|at| at % 7 == 0 || *at < 700) {
        let cut = Tokenizer::from_bytes(&bytes[..at], "cut.json").unwrap_err().to_string();
        assert!(cut.contains("cut.json") && !cut.contains("panicked"), "{cut}");
        let mut without = bytes.to_vec();
        without.remove(at);
        if let Err(error) = Tokenizer::from_bytes(&without, "damaged.json") {
            assert!(error.to_string().starts_with("damaged.json is not a tokenizer"), "{error}");
        }
    }
}
