//! The error type of this crate.

use std::path::{Path, PathBuf};

use slm_store::Error as StoreError;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an export or import.
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
    /// A file that violates its format.
    #[error(
        "{}: not a valid {format} file: {field}: {problem}; download it again, or convert the model again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The expected format.
        format: &'static str,
        /// The part of the file: a key, a tensor, or the header.
        field: String,
        /// The problem.
        problem: String,
    },
    /// A model that the other program cannot compute, or a file with content that is not supported.
    #[error("{}: {what}; {remedy}", path.display())]
    Unsupported {
        /// The checkpoint or file.
        path: PathBuf,
        /// The unsupported property.
        what: String,
        /// The remedy.
        remedy: String,
    },
    /// A model that a format cannot hold, or that the programs that read it compute otherwise.
    #[error("{}: {what}; export it as a Hugging Face directory for programs that compute it", path.display())]
    NotInFormat {
        /// The checkpoint, or its tokenizer.
        path: PathBuf,
        /// The unsupported property.
        what: String,
    },
    /// A model that the operators of [`OnnxProfile::OrtGenai`](crate::OnnxProfile::OrtGenai) do not compute.
    #[error("{}: {what}; export it with the standard operators of ONNX", path.display())]
    NotInProfile {
        /// The checkpoint.
        path: PathBuf,
        /// The unsupported property.
        what: String,
    },
    /// An export that is not exact although `strict` was set.
    #[error("{}: the export is not exact, as it must be with `strict`: {}", path.display(), reasons.join("; "))]
    Inexact {
        /// The checkpoint.
        path: PathBuf,
        /// The changes that the export would make.
        reasons: Vec<String>,
        /// True if scales would be rounded to F16. Scales of a model that was quantized with F16 scales are kept.
        rounds_scales: bool,
        /// True if codes would become floats. Layers that are not quantized are kept.
        dequantizes: bool,
    },
}

impl Error {
    /// Creates the error for a damaged GGUF file.
    pub(crate) fn damaged(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::damaged_file(path, "GGUF", field, problem.into())
    }

    /// Creates the error for a damaged file of the format `format`.
    pub(crate) fn damaged_file(
        path: &Path,
        format: &'static str,
        field: impl Into<String>,
        problem: String,
    ) -> Self {
        Self::Damaged { path: path.to_owned(), format, field: field.into(), problem }
    }

    pub(crate) fn not_in_format(path: &Path, what: impl Into<String>) -> Self {
        Self::NotInFormat { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into(), remedy: remedy.into() }
    }
}
