//! As much of `tokenizer.json` as a checkpoint needs to know: the highest id it can make.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{Error, Result, json};

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
}

/// Highest id of a vocabulary, which is a map from token to id, or (Unigram) a list in the order of the ids.
struct Vocabulary(Option<u64>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Highest;

        impl<'de> Visitor<'de> for Highest {
            type Value = Option<u64>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: an object of ids or a list of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut highest = None;
                while let Some((_, id)) = map.next_entry::<IgnoredAny, u64>()? {
                    highest = highest.max(Some(id));
                }
                Ok(highest)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut count = 0_u64;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(count.checked_sub(1))
            }
        }

        deserializer.deserialize_any(Highest).map(Self)
    }
}

/// Refuses a tokenizer that makes ids of `vocab_size` and above. A model may have more rows than its
/// tokenizer has tokens: many are padded to a round number.
pub(crate) fn check(path: &Path, bytes: &[u8], vocab_size: usize) -> Result<()> {
    let file: TokenizerFile = json::parse(path, bytes)?;
    let highest = file.added_tokens.iter().map(|token| token.id).max().max(file.model.vocab.0);
    match highest {
        Some(highest_id) if highest_id >= vocab_size as u64 => {
            Err(Error::Vocabulary { path: path.to_owned(), highest_id, vocab_size })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use slm_store::Error as StoreError;

    use super::*;

    fn check_text(text: &str, vocab_size: usize) -> Result<()> {
        check(Path::new("tokenizer.json"), text.as_bytes(), vocab_size)
    }

    #[test]
    fn the_highest_id_decides() {
        let bpe =
            r#"{"added_tokens":[{"id":7,"content":"<s>"}],"model":{"vocab":{"a":0,"b":5},"merges":[]}}"#;
        check_text(bpe, 8).unwrap();
        let error = check_text(bpe, 7).unwrap_err();
        assert!(matches!(error, Error::Vocabulary { highest_id: 7, vocab_size: 7, .. }), "{error}");
        let unigram = r#"{"model":{"vocab":[["a",-1.0],["b",-2.0],["c",-3.0]]}}"#;
        check_text(unigram, 3).unwrap();
        assert!(check_text(unigram, 2).is_err());
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for text in ["", "{}", "[]", r#"{"model":{"vocab":3}}"#, r#"{"model":{"vocab":{"a":-1}}}"#] {
            assert!(matches!(check_text(text, 10), Err(Error::Store(StoreError::Json { .. }))), "{text}");
        }
    }
}
