//! The tokenizer of a Hugging Face directory: `tokenizer.json`, or one built from `tokenizer.model` (SentencePiece), or
//! from `vocab.json` and `merges.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use slm_text::Tokenizer;
use slm_text::sentencepiece::{Frame, SentencePiece};

use super::tokenizer_settings::{TokenizerSettings, token_text};
use super::{Warnings, documents, impostor, no_weights, place};
use crate::{Error, Result, json as json_file, tokenizer};
use slm_store::Error as StoreError;

const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// The class of a tokenizer of any kind, which says no more than an absent one.
const ANY_CLASS: &str = "PreTrainedTokenizer";
/// The remedy for a tokenizer that cannot be made of its file.
const DAMAGED_REMEDY: &str = "download the file again, or the model's tokenizer.json, or remove the file to import the \
                              model without a tokenizer";
/// Names of a SentencePiece model.
const SENTENCE_PIECE: [&str; 2] = ["tokenizer.model", "spiece.model"];

/// Returns the content of `tokenizer.json`, which is loaded and tested; `None` if there is no tokenizer.
pub(super) fn read(
    dir: &Path,
    settings: &TokenizerSettings,
    model_type: &str,
    vocab_size: usize,
    warnings: &mut Warnings,
) -> Result<Option<Vec<u8>>> {
    let path = dir.join(TOKENIZER);
    if place::is_link_to_nothing(&path) {
        return Err(place::link_to_nothing(&path));
    }
    let (path, bytes) = match json_file::read_optional(&path, json_file::LARGE)? {
        Some(bytes) => {
            let bytes = documents::decode(&path, bytes)?;
            if let Some(error) = impostor::explain(&path, &bytes[..bytes.len().min(512)]) {
                return Err(error);
            }
            (path, bytes)
        }
        None => match build(dir, model_type, settings, warnings)? {
            Some(made) => made,
            None => return Ok(None),
        },
    };
    let beyond = tokenizer::check(&path, &bytes, vocab_size)?;
    if !beyond.is_empty() {
        let tokens = beyond.iter().map(|token| format!("{} ({})", token.content, token.id));
        let what = format!(
            "tokens beyond the model's vocab_size = {vocab_size}, which it cannot read: {}",
            no_weights::shortened(tokens)
        );
        warnings.add(&path, &what);
    }
    try_out(&path, &bytes, vocab_size, settings, warnings)?;
    Ok(Some(bytes))
}

/// Loads a tokenizer and encodes a text, so that an unusable one is rejected here and not at its first use.
fn try_out(
    path: &Path,
    bytes: &[u8],
    vocab_size: usize,
    settings: &TokenizerSettings,
    warnings: &mut Warnings,
) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let remedy = match &*name {
        TOKENIZER => {
            "save the tokenizer again with a version of tokenizers up to 0.23, or remove the file to import the model \
             without it"
        }
        // The tokenizer was made of this file.
        _ => DAMAGED_REMEDY,
    };
    let refuse =
        |problem: String| Error::Unusable { path: path.to_owned(), problem, remedy: remedy.to_owned() };
    let unreadable = |error: slm_text::Error| {
        refuse(match error {
            // The text of the error asks for a tokenizer.json.
            slm_text::Error::TokenizerFormat { detail, .. } if name != TOKENIZER => {
                format!("it is damaged, or no tokenizer can be made of it: {detail}")
            }
            error => format!("this version cannot read the tokenizer: {error}"),
        })
    };
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(format!("it is not UTF-8: {error}")))?;
    let tokenizer = Tokenizer::from_json(text, &name).map_err(unreadable)?;
    let unusable = |error: slm_text::Error| refuse(format!("the tokenizer cannot be used: {error}"));
    let ids = tokenizer.try_out().map_err(unusable)?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(refuse(format!(
            "the tokenizer puts token {id} around every text, but the model's vocab_size is {vocab_size}"
        )));
    }
    // The tokens around a text are defined in tokenizer.json; tokenizer_config.json may contradict it.
    let puts_bos = !tokenizer.prefix().map_err(unusable)?.is_empty();
    match settings.fields.get("add_bos_token").and_then(Value::as_bool) {
        Some(wanted) if wanted != puts_bos => {
            let (does, holds) = match puts_bos {
                true => ("puts a token in front of every text", "it is put there all the same"),
                false => ("puts no token in front of a text", "none is put there"),
            };
            warnings.add(
                &settings.path,
                &format!("add_bos_token is {wanted}, and tokenizer.json {does}: {holds}"),
            );
        }
        _ => {}
    }
    Ok(())
}

/// Builds a `tokenizer.json` from the files of older tokenizers. Returns it with the file it was built from.
fn build(
    dir: &Path,
    model_type: &str,
    settings: &TokenizerSettings,
    warnings: &mut Warnings,
) -> Result<Option<(PathBuf, Vec<u8>)>> {
    for path in SENTENCE_PIECE.map(|name| dir.join(name)) {
        if place::is_link_to_nothing(&path) {
            return Err(place::link_to_nothing(&path));
        }
        if let Some(bytes) = json_file::read_optional(&path, json_file::LARGE)? {
            let made = of_sentence_piece(dir, &path, &bytes, settings)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            warnings.add(dir, &format!("tokenizer.json is not there: one was made of {name}"));
            return Ok(Some((path, made)));
        }
    }
    let made = of_byte_pairs(dir, model_type, &settings.fields, warnings)?;
    Ok(made.map(|bytes| (dir.join(VOCABULARY), bytes)))
}

/// Builds a `tokenizer.json` from a SentencePiece model. A text begins with BOS unless `tokenizer_config.json` disables
/// it.
fn of_sentence_piece(dir: &Path, path: &Path, bytes: &[u8], settings: &TokenizerSettings) -> Result<Vec<u8>> {
    let unusable = |problem: String| Error::Unusable {
        path: path.to_owned(),
        problem,
        remedy: DAMAGED_REMEDY.to_owned(),
    };
    if let Some(error) = impostor::explain(path, &bytes[..bytes.len().min(512)]) {
        return Err(error);
    }
    let model = SentencePiece::parse(bytes, &path.display().to_string())
        .map_err(|error| unusable(error.to_string()))?;
    let id_of = |field: &str, own: Option<u32>| settings.token(field).and_then(|text| model.id(text)).or(own);
    let flag = |field: &str| settings.fields.get(field).and_then(Value::as_bool);
    let vocabulary: BTreeMap<String, u64> = BTreeMap::new();
    let mut added = Vec::new();
    for token in added_tokens(dir, &settings.fields, &vocabulary)? {
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let (Some(id), Some(text)) = (id, token["content"].as_str()) else { continue };
        // Tokens of the model are already there, with the kind that the model gives them.
        if model.pieces.get(id as usize).is_none() {
            added.push((id, text.to_owned(), token["special"].as_bool().unwrap_or(true)));
        }
    }
    let frame = Frame {
        begin: id_of("bos_token", model.bos_id).filter(|_| flag("add_bos_token").unwrap_or(true)),
        end: id_of("eos_token", model.eos_id).filter(|_| flag("add_eos_token").unwrap_or(false)),
        added,
    };
    Ok(model.to_json(&frame).into_bytes())
}

/// Builds a `tokenizer.json` from `vocab.json` and `merges.txt`, for tokenizers with known rules for splitting text.
fn of_byte_pairs(
    dir: &Path,
    model_type: &str,
    config: &Map<String, Value>,
    warnings: &mut Warnings,
) -> Result<Option<Vec<u8>>> {
    let convert = "make one with transformers: \
                   AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)";
    let (vocabulary, merges) = (dir.join(VOCABULARY), dir.join(MERGES));
    let tekken = dir.join("tekken.json");
    if tekken.exists() {
        let what =
            format!("it is not read, and tokenizer.json is not there: the model has no tokenizer; {convert}");
        warnings.add(&tekken, &what);
        return Ok(None);
    }
    if !vocabulary.exists() || !merges.exists() {
        if let Some(file) = [&vocabulary, &merges].into_iter().find(|file| file.exists()) {
            let what = format!(
                "it is one of two files, {VOCABULARY} and {MERGES}: the model has no tokenizer; {convert}"
            );
            warnings.add(file, &what);
        }
        return Ok(None);
    }
    let class = config
        .get("tokenizer_class")
        .and_then(Value::as_str)
        .map(|class| class.trim_end_matches("Fast"))
        .filter(|&class| class != ANY_CLASS);
    let rules = match (class, model_type) {
        (Some("GPT2Tokenizer"), _) | (None, "gpt2") => gpt2_rules(config),
        (Some("Qwen2Tokenizer"), _) | (None, "qwen2" | "qwen3") => qwen2_rules(),
        (Some("GPTNeoXTokenizer"), _) | (None, "gpt_neox") => gpt_neox_rules(),
        (class, _) => {
            let class = class.unwrap_or("(not given)");
            let what = format!(
                "no tokenizer is made of it and {MERGES} for the tokenizer_class {class}: the model has none; {convert}"
            );
            warnings.add(&vocabulary, &what);
            return Ok(None);
        }
    };
    let tokens: BTreeMap<String, u64> = documents::read(&vocabulary, json_file::LARGE)?.unwrap_or_default();
    let text = read_text(&merges)?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let merge_list: Vec<&str> = lines.collect();
    let added = added_tokens(dir, config, &tokens)?;
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": tokens, "merges": merge_list,
        },
    });
    if let (Some(file), Value::Object(rules)) = (file.as_object_mut(), rules) {
        file.extend(rules);
    }
    warnings.add(dir, &format!("tokenizer.json is not there: one was made of {VOCABULARY} and {MERGES}"));
    Ok(Some(serde_json::to_vec(&file).map_err(Error::json(&vocabulary))?))
}

/// The parts of GPT-2's `tokenizer.json` that split text.
fn gpt2_rules(config: &Map<String, Value>) -> Value {
    let prefix = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    json!({
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true },
        "post_processor": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
    })
}

/// The parts of GPT-NeoX's `tokenizer.json` that normalize and split text.
fn gpt_neox_rules() -> Value {
    json!({
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
    })
}

/// The parts of Qwen2's `tokenizer.json` that normalize and split text.
fn qwen2_rules() -> Value {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    json!({
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        ] },
        "post_processor": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
    })
}

/// Returns the tokens that are matched as a whole: those of `added_tokens_decoder` and `added_tokens.json`, and the
/// special ones of the vocabulary.
fn added_tokens(
    dir: &Path,
    config: &Map<String, Value>,
    vocabulary: &BTreeMap<String, u64>,
) -> Result<Vec<Value>> {
    let mut tokens: BTreeMap<u64, (String, bool)> = BTreeMap::new();
    let file: BTreeMap<String, u64> =
        documents::read(&dir.join("added_tokens.json"), json_file::LARGE)?.unwrap_or_default();
    tokens.extend(file.into_iter().map(|(token, id)| (id, (token, true))));
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str);
        if let (Ok(id), Some(content)) = (id.parse(), content) {
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(true);
            tokens.insert(id, (content.to_owned(), special));
        }
    }
    let text = |value: &Value| token_text(value).map(str::to_owned);
    let named =
        ["bos_token", "eos_token", "unk_token", "pad_token"].map(|name| config.get(name).and_then(text));
    for token in named.into_iter().flatten().chain(["<|endoftext|>".to_owned()]) {
        if let Some(&id) = vocabulary.get(&token) {
            tokens.entry(id).or_insert((token, true));
        }
    }
    let token = |(id, (content, special)): (u64, (String, bool))| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special })
    };
    Ok(tokens.into_iter().map(token).collect())
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = json_file::read(path, json_file::LARGE, "it is one of two files of the tokenizer")?;
    let bytes = documents::decode(path, bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        Error::Store(StoreError::Io {
            path: path.to_owned(),
            action: "read as UTF-8",
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Splits the tokenizers of the shared folder into old files, rebuilds them, and checks all of their recorded
    /// cases.
    #[test]
    fn tokenizers_that_are_made_give_the_recorded_ids() {
        let Some(folder) = slm_testing::shared_dir("tokenizers") else { return };
        for (name, class) in
            [("gpt2", "GPT2TokenizerFast"), ("qwen2", "Qwen2Tokenizer"), ("gpt-neox", "GPTNeoXTokenizerFast")]
        {
            let read = |file: &str| -> Value {
                serde_json::from_slice(&fs::read(folder.join(name).join(file)).unwrap()).unwrap()
            };
            let (whole, recorded) = (read("tokenizer.json"), read("tokenizer_cases.json"));
            let dir = tempfile::tempdir().unwrap();
            let merges = whole["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
                Value::Array(pair) => {
                    format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())
                }
                merge => format!("{}\n", merge.as_str().unwrap()),
            });
            fs::write(dir.path().join(MERGES), merges.collect::<String>()).unwrap();
            fs::write(dir.path().join(VOCABULARY), whole["model"]["vocab"].to_string()).unwrap();
            let added = whole["added_tokens"].as_array().unwrap().iter();
            let added: Map<String, Value> =
                added.map(|token| (token["id"].to_string(), token.clone())).collect();
            let config = json!({ "tokenizer_class": class, "added_tokens_decoder": added });
            fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();

            let mut warnings = Warnings::default();
            let settings = TokenizerSettings::read(dir.path()).unwrap();
            let made = super::read(dir.path(), &settings, "", 151_936, &mut warnings).unwrap().unwrap();
            assert!(warnings.0[0].contains("one was made"), "{:?}", warnings.0);
            let made = Tokenizer::from_json(std::str::from_utf8(&made).unwrap(), name).unwrap();
            for case in recorded["tokenizer_cases"].as_array().unwrap() {
                let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
                let text = case["text"].as_str().unwrap();
                assert_eq!(made.encode_with_special_tokens(text).unwrap(), ids, "{name}: {text:?}");
                let decoded = made.decode_with_special_tokens(&ids).unwrap();
                assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn a_class_for_any_tokenizer_is_like_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(VOCABULARY), r#"{ "a": 0, "b": 1, "ab": 2 }"#).unwrap();
        fs::write(dir.path().join(MERGES), "a b\n").unwrap();
        for class in [None, Some("PreTrainedTokenizerFast"), Some("PreTrainedTokenizer")] {
            let config = json!({ "tokenizer_class": class });
            fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            let settings = TokenizerSettings::read(dir.path()).unwrap();
            let made = super::read(dir.path(), &settings, "gpt2", 3, &mut Warnings::default()).unwrap();
            assert!(made.is_some(), "{class:?}");
        }
    }

    /// Builds a tokenizer from its SentencePiece file in the shared folder, and checks all of its recorded cases.
    #[test]
    fn a_sentence_piece_model_gives_the_recorded_ids() {
        let Some(folder) = slm_testing::shared_dir("tokenizers") else { return };
        let folder = folder.join("mistral-v1");
        let dir = tempfile::tempdir().unwrap();
        fs::copy(folder.join("tokenizer.model"), dir.path().join("tokenizer.model")).unwrap();
        let recorded: Value =
            serde_json::from_slice(&fs::read(folder.join("tokenizer_cases.json")).unwrap()).unwrap();
        let mut warnings = Warnings::default();
        let made = |config: Value, warnings: &mut Warnings| {
            fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            let settings = TokenizerSettings::read(dir.path()).unwrap();
            super::read(dir.path(), &settings, "mistral", 32_001, warnings).unwrap().unwrap()
        };
        let added = json!({ "32000": { "content": "<|im_end|>", "special": true } });
        let json = made(
            json!({ "tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": added }),
            &mut warnings,
        );
        assert!(warnings.0[0].contains("one was made of tokenizer.model"), "{:?}", warnings.0);
        let tokenizer = Tokenizer::from_json(std::str::from_utf8(&json).unwrap(), "made").unwrap();
        for case in recorded["tokenizer_cases"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode_with_special_tokens(text).unwrap(), ids, "{text:?}");
            let plain: Vec<u32> = serde_json::from_value(case["ids_no_special"].clone()).unwrap();
            let decoded = tokenizer.decode_with_special_tokens(&plain).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{text:?}");
        }
        assert_eq!(tokenizer.encode("<|im_end|>").unwrap(), [32_000]);
        let json = made(json!({ "add_bos_token": false, "add_eos_token": true }), &mut warnings);
        let tokenizer = Tokenizer::from_json(std::str::from_utf8(&json).unwrap(), "made").unwrap();
        let ids = tokenizer.encode_with_special_tokens("a").unwrap();
        assert_eq!((ids.len(), ids.last()), (2, Some(&2)));

        // Other files are rejected by name.
        let unreadable = [
            &fs::read(folder.join("tokenizer.model")).unwrap()[..],
            &[0x1a, 8, 0x12, 6, 0x04, 0, 0, 0, 0xff, 0xff],
        ]
        .concat();
        for (bytes, part) in [
            (&b"IQ== 0\nIg== 1\n"[..], "tiktoken"),
            (b"version https://git-lfs", "LFS"),
            (b"\xff\xff", "SentencePiece"),
            // A table of characters that the library cannot read.
            (&unreadable, "download the file again"),
        ] {
            fs::write(dir.path().join("tokenizer.model"), bytes).unwrap();
            let settings = TokenizerSettings::read(dir.path()).unwrap();
            let error =
                super::read(dir.path(), &settings, "mistral", 32_001, &mut warnings).unwrap_err().to_string();
            assert!(error.contains("tokenizer.model") && error.contains(part), "{error}");
            assert!(!error.contains("up to 0.23"), "{error}");
        }
    }
}
