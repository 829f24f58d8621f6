//! A corpus that is token ids already, such as text sampled from a model.

use std::fs;
use std::path::Path;

use slm_text::parse_ids;

use crate::{Error, Result};

/// Sequences of token ids. In a file: `{"ids": [[...], ...]}`, the form that `slm logits` reads too.
///
/// Unlike a text, sequences have bounds: no training window crosses from one into the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// The sequences.
    pub ids: Vec<Vec<u32>>,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Sequences {
    /// Reads a file of sequences for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Text`] for a file of another form or without sequences; [`Error::Sequences`] for an
    /// id outside the vocabulary.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let ids = parse_ids(path, &bytes)?;
        for (index, sequence) in ids.iter().enumerate() {
            if let Some(id) = sequence.iter().find(|&&id| id as usize >= vocab_size) {
                let detail = format!(
                    "ids[{index}] has token {id}, and the model has {vocab_size} tokens; use sequences of the \
                     same tokenizer"
                );
                return Err(Error::Sequences { path: path.to_owned(), detail });
            }
        }
        Ok(Self { ids, sha256: slm_checkpoint::sha256(&bytes) })
    }
}

/// What a model is trained on.
#[derive(Debug, Clone, Copy)]
pub enum Corpus<'a> {
    /// A text.
    Text(&'a str),
    /// Token ids.
    Sequences(&'a Sequences),
}

impl Corpus<'_> {
    pub(crate) fn sha256(&self) -> String {
        match self {
            Self::Text(text) => slm_checkpoint::sha256(text.as_bytes()),
            Self::Sequences(sequences) => sequences.sha256.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_that_the_model_does_not_know_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("ids.json");
        let ids = vec![vec![1, 2, 3], vec![4]];
        fs::write(&path, slm_text::ids_to_json(&path, ids.clone()).unwrap()).unwrap();
        assert_eq!(Sequences::read(&path, 5).unwrap().ids, ids);
        let refused = |path: &Path| Sequences::read(path, 4).unwrap_err().to_string();
        assert!(refused(&path).contains("ids[1] has token 4, and the model has 4 tokens"));
        fs::write(&path, "{\"ids\": []}").unwrap();
        assert!(refused(&path).contains("at least one sequence"), "{}", refused(&path));
        assert!(matches!(Sequences::read(&root.path().join("none"), 4), Err(Error::Read { .. })));
    }
}
