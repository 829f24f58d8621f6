//! The part of `tokenizer.json` that a checkpoint must know: the ids of its tokens.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{Error, Result, json};

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<Token>,
    model: Model,
}

/// A token and its id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: u64,
    #[serde(default)]
    pub(crate) content: String,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
}

/// The ids of a vocabulary, which is a map from token to id, or (Unigram) a list in the order of the ids.
struct Vocabulary(Vec<u64>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;

        impl<'de> Visitor<'de> for Ids {
            type Value = Vec<u64>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: an object of ids or a list of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut ids = Vec::new();
                while let Some((_, id)) = map.next_entry::<IgnoredAny, u64>()? {
                    ids.push(id);
                }
                Ok(ids)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut ids = Vec::new();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    ids.push(ids.len() as u64);
                }
                Ok(ids)
            }
        }

        deserializer.deserialize_any(Ids).map(Self)
    }
}

/// Rejects a tokenizer whose vocabulary has ids of `vocab_size` or above: it belongs to another model. A model may have
/// more rows than its tokenizer has tokens, because many are padded to a round number.
///
/// Returns the tokens beyond `vocab_size` that were only added to the vocabulary, such as a padding token. The model
/// cannot have learned them, and they do no harm unless a text contains them.
pub(crate) fn check(path: &Path, bytes: &[u8], vocab_size: usize) -> Result<Vec<Token>> {
    let file: TokenizerFile = json::parse(path, bytes)?;
    let vocab_size_id = vocab_size as u64;
    let added: HashSet<u64> = file.added_tokens.iter().map(|token| token.id).collect();
    let own = file.model.vocab.0.iter().copied().filter(|id| *id >= vocab_size_id && !added.contains(id));
    if let Some(highest_id) = own.max() {
        return Err(Error::Vocabulary { path: path.to_owned(), highest_id, vocab_size });
    }
    Ok(file.added_tokens.into_iter().filter(|token| token.id >= vocab_size_id).collect())
}

#[cfg(test)]
mod tests {
    use slm_store::Error as StoreError;

    use super::*;

    fn check_text(text: &str, vocab_size: usize) -> Result<Vec<Token>> {
        check(Path::new("tokenizer.json"), text.as_bytes(), vocab_size)
    }

    #[test]
    fn the_highest_id_decides() {
        let bpe =
            r#"{"added_tokens":[{"id":7,"content":"<s>"}],"model":{"vocab":{"a":0,"b":5},"merges":[]}}"#;
        assert_eq!(check_text(bpe, 8).unwrap(), []);
        // An added token beyond `vocab_size` is returned, one of the vocabulary rejected.
        assert_eq!(check_text(bpe, 7).unwrap(), [Token { id: 7, content: "<s>".to_owned() }]);
        let error = check_text(bpe, 5).unwrap_err();
        assert!(matches!(error, Error::Vocabulary { highest_id: 5, vocab_size: 5, .. }), "{error}");
        let both = bpe.replace("\"b\":5", "\"b\":5,\"<s>\":7");
        assert_eq!(check_text(&both, 7).unwrap().len(), 1);
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
