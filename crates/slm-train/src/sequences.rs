//! A corpus of token ids, such as text sampled from a model.

use std::path::Path;

use slm_text::ids_to_json;

use crate::{Error, Result};

/// Sequences of token ids. Written `{"ids": [[...], ...]}` in a file, which is also the input format of `slm logits`.
///
/// Unlike a text, sequences have bounds: no training window crosses from one into the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// The sequences.
    pub ids: Vec<Vec<u32>>,
    /// SHA-256 of the sequences as `slm sample` writes them.
    pub sha256: String,
}

impl Sequences {
    /// Checks the content `ids` of the file at `path`, for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Error::Sequences`] for an id outside the vocabulary.
    pub fn new(path: &Path, ids: Vec<Vec<u32>>, vocab_size: usize) -> Result<Self> {
        check_sequences(path, &ids, vocab_size)?;
        let sha256 = slm_checkpoint::sha256(&ids_to_json(path, ids.clone())?);
        Ok(Self { ids, sha256 })
    }
}

/// Rejects token ids, read from `path`, that are outside a vocabulary of `vocab_size` tokens.
///
/// # Errors
/// [`Error::Sequences`] with the first such id.
pub fn check_sequences(path: &Path, ids: &[Vec<u32>], vocab_size: usize) -> Result<()> {
    for (index, sequence) in ids.iter().enumerate() {
        if let Some(id) = sequence.iter().find(|&&id| id as usize >= vocab_size) {
            let detail = format!(
                "ids[{index}] has token {id}, and the model has {vocab_size} tokens; use sequences of the same \
                 tokenizer"
            );
            return Err(Error::Sequences { path: path.to_owned(), detail });
        }
    }
    Ok(())
}

/// Training data of a model.
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
        let bytes = slm_text::ids_to_json(&path, ids.clone()).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let sequences = Sequences::new(&path, ids.clone(), 5).unwrap();
        assert_eq!((&sequences.ids, sequences.sha256), (&ids, slm_checkpoint::sha256(&bytes)));
        let refused = Sequences::new(&path, ids, 4).unwrap_err().to_string();
        assert!(refused.contains("ids[1] has token 4, and the model has 4 tokens"), "{refused}");
    }
}
