//! A corpus that is token ids already, such as text sampled from a model.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    ids: Vec<Vec<u32>>,
}

impl Sequences {
    /// Reads a file of sequences for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Sequences`] for a file of another form, without sequences, or with an id outside
    /// the vocabulary.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let refuse = |detail: String| Error::Sequences { path: path.to_owned(), detail };
        let file: File = serde_json::from_slice(&bytes).map_err(|error| {
            refuse(format!("{error}; expected {{\"ids\": [[...], ...]}} with lists of token ids"))
        })?;
        if file.ids.is_empty() {
            return Err(refuse("it has no sequences; make some with `slm sample`".to_owned()));
        }
        for (index, sequence) in file.ids.iter().enumerate() {
            if let Some(id) = sequence.iter().find(|&&id| id as usize >= vocab_size) {
                let detail = format!("ids[{index}] has token {id}, and the model has {vocab_size} tokens");
                return Err(refuse(format!("{detail}; use sequences of the same tokenizer")));
            }
        }
        Ok(Self { ids: file.ids, sha256: slm_checkpoint::sha256(&bytes) })
    }

    /// The content of a file of sequences.
    ///
    /// # Errors
    /// [`Error::State`] when they cannot be written as JSON.
    pub fn to_json(ids: Vec<Vec<u32>>) -> Result<Vec<u8>> {
        serde_json::to_vec(&File { ids }).map_err(|error| Error::State { detail: error.to_string() })
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
    fn what_is_written_reads_back_and_what_does_not_fit_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("ids.json");
        let ids = vec![vec![1, 2, 3], vec![4]];
        fs::write(&path, Sequences::to_json(ids.clone()).unwrap()).unwrap();
        assert_eq!(Sequences::read(&path, 5).unwrap().ids, ids);
        let refused = |path: &Path| Sequences::read(path, 4).unwrap_err().to_string();
        assert!(refused(&path).contains("ids[1] has token 4, and the model has 4 tokens"));
        for (content, part) in
            [("{\"ids\": []}", "no sequences"), ("[[1]]", "expected {\"ids\""), ("{", "expected {\"ids\"")]
        {
            fs::write(&path, content).unwrap();
            assert!(refused(&path).contains(part), "{}", refused(&path));
        }
        assert!(matches!(Sequences::read(&root.path().join("none"), 4), Err(Error::Read { .. })));
    }
}
