//! Pre-tokenizers, which llama.cpp knows by name and `tokenizer.json` by pattern.

use serde_json::{Value, json};

/// GPT-2's pattern, which is built into `ByteLevel` with `use_regex`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The split of a text before byte pairs are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Splits by a pattern.
    Pattern(&'static str),
    /// Splits off single digits, and the rest by GPT-2's pattern.
    Digits,
}

/// A pre-tokenizer: its name; its split; `true` if words of the vocabulary are used regardless of the merges; and
/// `true` if llama.cpp begins texts with BOS by default.
pub(crate) struct Pre {
    pub(crate) name: &'static str,
    pub(crate) split: Split,
    pub(crate) ignore_merges: bool,
    pub(crate) add_bos: bool,
}

const fn pre(name: &'static str, split: Split, ignore_merges: bool, add_bos: bool) -> Pre {
    Pre { name, split, ignore_merges, add_bos }
}

/// All known pre-tokenizers. If several are equivalent, the first one is written.
const KNOWN: &[Pre] = &[
    pre("gpt-2", Split::Pattern(GPT2), false, false),
    pre("phi-2", Split::Pattern(GPT2), false, false),
    pre("olmo", Split::Pattern(GPT2), false, false),
    pre("mpt", Split::Pattern(GPT2), false, false),
    pre("jais", Split::Pattern(GPT2), false, false),
    pre("trillion", Split::Pattern(GPT2), false, false),
    pre("granite-docling", Split::Pattern(GPT2), false, false),
    pre("exaone4", Split::Pattern(GPT2), false, false),
    pre("smollm", Split::Digits, false, false),
    pre("starcoder", Split::Digits, false, false),
    pre("refact", Split::Digits, false, false),
    pre("command-r", Split::Digits, false, false),
    pre("codeshell", Split::Digits, false, false),
    pre("exaone", Split::Digits, false, false),
    pre("minerva-7b", Split::Digits, false, false),
    pre("llama-bpe", Split::Pattern(LLAMA3), true, true),
    pre("llama3", Split::Pattern(LLAMA3), true, true),
    pre("llama-v3", Split::Pattern(LLAMA3), true, true),
    pre("falcon3", Split::Pattern(LLAMA3), true, true),
    pre("lfm2", Split::Pattern(LLAMA3), true, true),
    pre("dbrx", Split::Pattern(LLAMA3), false, false),
    pre("smaug-bpe", Split::Pattern(LLAMA3), false, false),
    pre("qwen2", Split::Pattern(QWEN2), false, false),
    pre("stablelm2", Split::Pattern(QWEN2), false, false),
    pre("deepseek-r1-qwen", Split::Pattern(QWEN2), false, false),
    pre("hunyuan", Split::Pattern(QWEN2), false, false),
    pre("gpt-4o", Split::Pattern(GPT4O), false, false),
    pre("llama4", Split::Pattern(GPT4O), false, false),
    pre("tekken", Split::Pattern(TEKKEN), true, true),
];

/// Returns the pre-tokenizer that llama.cpp calls `name`.
pub(crate) fn named(name: &str) -> Option<&'static Pre> {
    KNOWN.iter().find(|pre| pre.name == name)
}

/// Returns llama.cpp's name of a `pre_tokenizer`, or the part of it that is unknown.
pub(crate) fn name_of(pre_tokenizer: &Value, ignore_merges: bool) -> Result<&'static str, String> {
    let split = split_of(pre_tokenizer)?;
    let same = |pre: &&Pre| pre.split == split;
    let exact = KNOWN.iter().filter(same).find(|pre| pre.ignore_merges == ignore_merges);
    exact.map(|pre| pre.name).ok_or_else(|| {
        let which = if ignore_merges { "with" } else { "without" };
        format!("its pattern {which} ignore_merges is not one of llama.cpp's pre-tokenizers")
    })
}

fn split_of(pre_tokenizer: &Value) -> Result<Split, String> {
    let steps: Vec<&Value> = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().into_iter().flatten().collect(),
        Some(_) => vec![pre_tokenizer],
        None => Vec::new(),
    };
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("")).collect();
    let byte_level = |step: &Value, use_regex: bool| {
        step["use_regex"].as_bool().unwrap_or(true) == use_regex && step["add_prefix_space"] != json!(true)
    };
    match (&kinds[..], &steps[..]) {
        (["ByteLevel"], [step]) if byte_level(step, true) => return Ok(Split::Pattern(GPT2)),
        (["Digits", "ByteLevel"], [digits, step])
            if byte_level(step, true) && digits["individual_digits"] == json!(true) =>
        {
            return Ok(Split::Digits);
        }
        (["Split", "ByteLevel"], [split, step])
            if byte_level(step, false)
                && split["behavior"] == json!("Isolated")
                && split["invert"] != json!(true) =>
        {
            let pattern = split["pattern"]["Regex"].as_str().unwrap_or("");
            let known = [GPT2, LLAMA3, QWEN2, GPT4O, TEKKEN].into_iter().find(|known| *known == pattern);
            return match known {
                Some(pattern) => Ok(Split::Pattern(pattern)),
                None => Err(format!("its pattern is not one of llama.cpp's pre-tokenizers: {pattern:?}")),
            };
        }
        _ => {}
    }
    Err(format!("its pre-tokenizer is not one of llama.cpp's: {}", kinds.join(", ")))
}

impl Split {
    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(crate) fn to_json(self) -> Value {
        let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        match self {
            Self::Pattern(GPT2) => byte_level(true),
            Self::Digits => json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Digits", "individual_digits": true }, byte_level(true),
            ] }),
            Self::Pattern(pattern) => json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                byte_level(false),
            ] }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_has_a_name_and_comes_back() {
        for pre in KNOWN {
            let name = name_of(&pre.split.to_json(), pre.ignore_merges).unwrap();
            assert_eq!(named(name).unwrap().split, pre.split);
        }
        assert!(name_of(&json!({ "type": "Whitespace" }), false).unwrap_err().contains("Whitespace"));
        assert!(name_of(&json!(null), false).is_err());
    }
}
