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

/// A truncated file, or one without one of its bytes, must not end the program.
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
            assert!(error.to_string().starts_with("damaged.json is not a supported tokenizer"), "{error}");
        }
    }
}

/// Byte-level, SentencePiece-like and trained tokenizers: those of the shared data if available, and one trained here.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    let root = std::env::var_os("SLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let mut found = vec![("trained here".to_owned(), trained(400))];
    for folder in [
        "tokenizers/gpt2",
        "tokenizers/qwen2",
        "tokenizers/gpt-neox",
        "tokenizers/mistral-v1",
        "models/stories260k",
        "models/tiny-gemma3",
    ] {
        match Tokenizer::from_file(root.join(folder).join("tokenizer.json")) {
            Ok(tokenizer) => found.push((folder.to_owned(), tokenizer)),
            Err(_) => println!("skipped: no {folder} under {}", root.display()),
        }
    }
    found
}

/// Texts that are hard to cut: long words, runs of spaces, digits, a single repeated character, special tokens,
/// combining marks.
fn hard_text(seed: u64, length: usize) -> String {
    let mut state = seed;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let story = Corpus::new(seed).text(40);
    let mut text = String::new();
    while text.len() < length {
        let from = story.floor_char_boundary(random(story.len()));
        match random(12) {
            0 => text.push_str(&" ".repeat(random(300))),
            1 => text.push_str(&"\n".repeat(random(50))),
            2 => (0..random(3000)).for_each(|i| text.push((b'0' + (i * i % 7) as u8) as char)),
            3 => text.push_str(&"a".repeat(random(9000))),
            4 => text.push_str("<|endoftext|>"),
            5 => (0..random(200)).for_each(|_| text.push('é')),
            6 => (0..random(200)).for_each(|_| text.push_str("e\u{301}")),
            7 => (0..random(400)).for_each(|i| text.push(['天', '地', '玄', '黄', '。'][i * i % 5])),
            8 => (0..random(100)).for_each(|_| text.push('🙂')),
            _ => {
                text.push_str(&story[from..story.floor_char_boundary((from + random(4000)).min(story.len()))])
            }
        }
    }
    text
}

#[test]
fn chunks_have_the_ids_of_the_whole() {
    for (name, tokenizer) in tokenizers() {
        for seed in 0..3 {
            let text = if seed == 0 { Corpus::new(3).text(400) } else { hard_text(seed, 60_000) };
            let all = tokenizer.encode(&text).unwrap();
            let pieces = tokenizer.encode_long(&text, usize::MAX).unwrap();
            assert!(pieces == all, "{name}, seed {seed}: {} ids and {}", pieces.len(), all.len());
            for limit in [0, 1, 700] {
                assert_eq!(tokenizer.encode_long(&text, limit).unwrap(), all[..limit], "{name}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_prefix_is_what_a_prompt_gets_in_front() {
    for (name, tokenizer) in tokenizers() {
        let (plain, special) =
            (tokenizer.encode("Once").unwrap(), tokenizer.encode_with_special_tokens("Once").unwrap());
        assert_eq!([tokenizer.prefix().unwrap(), plain].concat(), special, "{name}");
    }
}

/// Any ids can be streamed, and the text equals the library's unless the library drops good bytes next to bad ones.
#[test]
fn any_ids_can_be_streamed() {
    for (name, tokenizer) in tokenizers() {
        let size = tokenizer.vocab_size() as u64;
        for seed in 0..60_u64 {
            let mut state = seed;
            let ids: Vec<u32> = (0..1 + seed % 60)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    // Half of the ids are small, where the byte tokens are.
                    let id = state >> 33;
                    (if id % 2 == 0 { id / 2 % size } else { id / 2 % 260.min(size) }) as u32
                })
                .collect();
            let mut stream = tokenizer.stream();
            let mut text = String::new();
            for &id in &ids {
                text += &stream.push(id).unwrap();
            }
            text += &stream.finish().unwrap();
            let whole = tokenizer.decode(&ids).unwrap();
            if !whole.contains('\u{fffd}') {
                assert_eq!(text, whole, "{name}: {ids:?}");
            }
            let plain = |text: &str| text.replace('\u{fffd}', "");
            if !name.contains("mistral") && !name.contains("stories260k") && !name.contains("gemma") {
                assert_eq!(text, whole, "{name}: {ids:?}");
            } else {
                // The library drops good bytes next to bad ones.
                assert!(plain(&text).len() >= plain(&whole).len(), "{name}: {ids:?}: {text:?} {whole:?}");
            }
        }
    }
}

#[test]
fn a_bad_byte_costs_nothing_that_comes_before_or_after_it() {
    for (name, tokenizer) in tokenizers() {
        if !name.contains("mistral") && !name.contains("stories260k") {
            continue;
        }
        let id = |token: &str| tokenizer.token_id(token).unwrap();
        let mut stream = tokenizer.stream();
        let ids = ["▁a", "<0x0A>", "<0xE2>", "b", "<0xE2>", "<0x82>", "<0xAC>", "<0xE2>", "▁a"];
        let mut text: String = ids.iter().map(|token| stream.push(id(token)).unwrap()).collect();
        text += &stream.finish().unwrap();
        assert_eq!(text, "a\n\u{fffd}b€\u{fffd} a", "{name}");
    }
}

/// Ids and texts of real tokenizers as in the Hugging Face library, also for a long text in chunks.
#[test]
fn real_tokenizers_give_the_recorded_ids() {
    let root = std::env::var_os("SLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let Ok(folders) = fs::read_dir(root.join("tokenizers")) else {
        println!("skipped: no shared test data at {}", root.display());
        return;
    };
    let mut checked = 0;
    for folder in folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
        let expected = fs::read(folder.join("tokenizer_cases.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        for case in expected["tokenizer_cases"].as_array().unwrap() {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            let text = case["text"].as_str().unwrap();
            let name = format!("{}: {text:?}", folder.display());
            assert_eq!(tokenizer.encode_with_special_tokens(text).unwrap(), ids("ids"), "{name}");
            assert_eq!(tokenizer.encode(text).unwrap(), ids("ids_no_special"), "{name}");
            assert_eq!(tokenizer.encode_long(text, usize::MAX).unwrap(), ids("ids_no_special"), "{name}");
            let decoded = tokenizer.decode_with_special_tokens(&ids("ids_no_special")).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}");
            checked += 1;
        }
        for bulk in expected["bulk"].as_array().unwrap() {
            let name = bulk["file"].as_str().unwrap();
            let range = ["byte_start", "byte_end"].map(|key| bulk[key].as_u64().unwrap() as usize);
            let bytes = fs::read(root.join(name.trim_start_matches("shared/"))).unwrap();
            let text = String::from_utf8_lossy(&bytes[range[0]..range[1]]).into_owned();
            let ids = tokenizer.encode_long(&text, usize::MAX).unwrap();
            assert_eq!(ids, tokenizer.encode(&text).unwrap(), "{}: {name}", folder.display());
            assert_eq!(ids.len() as u64, bulk["n_tokens"].as_u64().unwrap(), "{}: {name}", folder.display());
        }
    }
    assert!(checked > 0, "no tokenizer case under {}", root.display());
}
