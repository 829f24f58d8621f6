//! The one error type of this crate.

use std::path::{Path, PathBuf};

use slm_store::Error as StoreError;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model was not exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] slm_checkpoint::Error),
    /// A tokenizer that cannot be used.
    #[error(transparent)]
    Text(#[from] slm_text::Error),
    /// A file that is not what its format says.
    #[error("{}: not a {format} file that can be used: {field}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format that it should be of.
        format: &'static str,
        /// The part of it: a key, a tensor, or the header.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A model that the other program cannot compute, or a file that holds what is not read here.
    #[error("{}: {what}; {remedy}", path.display())]
    Unsupported {
        /// The checkpoint or file.
        path: PathBuf,
        /// What it has.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// An export that would not be exact, and had to be.
    #[error(
        "{}: the export is not exact, and --strict was given; {}", path.display(), reasons.join("; ")
    )]
    Inexact {
        /// The checkpoint.
        path: PathBuf,
        /// What would change, and the remedies.
        reasons: Vec<String>,
    },
}

impl Error {
    /// A GGUF file that is not one.
    pub(crate) fn damaged(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::damaged_file(path, "GGUF", field, problem.into())
    }

    /// A file of the format `format` that is not one.
    pub(crate) fn damaged_file(
        path: &Path,
        format: &'static str,
        field: impl Into<String>,
        problem: String,
    ) -> Self {
        Self::Damaged { path: path.to_owned(), format, field: field.into(), problem }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into(), remedy: remedy.into() }
    }
}
