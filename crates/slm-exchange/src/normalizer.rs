//! Normalization of texts by a tokenizer, which not every program performs.

use serde_json::{Value as Json, json};
use slm_text::sentencepiece::SPACE;

/// Returns the note that `program` skips steps of the `normalizer` of a `tokenizer.json`; `None` if there is nothing to
/// skip.
pub(crate) fn note(program: &str, normalizer: &Json) -> Option<String> {
    let mut skipped: Vec<String> = Vec::new();
    for step in steps(normalizer).into_iter().filter_map(describe) {
        if !skipped.contains(&step) {
            skipped.push(step);
        }
    }
    (!skipped.is_empty())
        .then(|| format!("{program} does not {} as the tokenizer does: do it before", skipped.join(", or ")))
}

/// The single steps of a normalizer, in order.
fn steps(normalizer: &Json) -> Vec<&Json> {
    match normalizer["normalizers"].as_array() {
        Some(several) => several.iter().flat_map(steps).collect(),
        None => vec![normalizer],
    }
}

/// Describes a step; `None` if it only writes spaces in SentencePiece's way, which all programs do.
fn describe(step: &Json) -> Option<String> {
    let kind = step["type"].as_str()?;
    let is_space = |text: &Json| *text == json!({ "String": " " });
    match kind {
        "Prepend" => None,
        "Replace" if is_space(&step["pattern"]) && step["content"] == json!(SPACE.to_string()) => None,
        "Replace" => {
            let pattern = &step["pattern"];
            let pattern =
                pattern["Regex"].as_str().or_else(|| pattern["String"].as_str()).unwrap_or_default();
            Some(match pattern.contains(' ') {
                true => "remove extra spaces".to_owned(),
                false => format!("replace {pattern:?}"),
            })
        }
        "NFC" => Some("compose characters (NFC)".to_owned()),
        "Precompiled" => Some("map characters by SentencePiece's rules (such as nmt_nfkc)".to_owned()),
        other => Some(format!("normalize texts ({other})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_that_a_program_would_skip_are_noted() {
        let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" });
        let prefix = json!({ "type": "Prepend", "prepend": "\u{2581}" });
        let sequence = |steps: Vec<Json>| json!({ "type": "Sequence", "normalizers": steps });
        for plain in [json!(null), space.clone(), sequence(vec![prefix.clone(), space.clone()])] {
            assert_eq!(note("llama.cpp", &plain), None, "{plain}");
        }
        let extra = json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " });
        let map = json!({ "type": "Precompiled", "precompiled_charsmap": "AA==" });
        let all = note("llama.cpp", &sequence(vec![map, extra.clone(), extra, prefix, space])).unwrap();
        assert!(all.starts_with("llama.cpp does not map characters") && all.contains("nmt_nfkc"), "{all}");
        assert_eq!(all.matches("remove extra spaces").count(), 1, "{all}");
        assert!(note("llama.cpp", &json!({ "type": "NFC" })).unwrap().contains("compose characters (NFC)"));
    }
}
