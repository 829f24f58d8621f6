//! The error type of this crate.

use std::path::{Path, PathBuf};

use slm_store::Error as StoreError;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from reading, writing or importing a checkpoint. Its message names the file, the problem, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error in a file: it cannot be read or written, or its content is invalid.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A directory that is not a checkpoint of slm.
    #[error("{}: not an slm checkpoint: {reason}; {remedy}", path.display())]
    NotACheckpoint {
        /// The directory.
        path: PathBuf,
        /// Reason why it is not a checkpoint.
        reason: String,
        /// Remedy.
        remedy: String,
    },
    /// A file from a later release.
    #[error(
        "{}: format version {found}, written by slm {written_by}; this release reads up to version {newest}: \
         use slm {written_by} or later", path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Format version of the file.
        found: u64,
        /// The newest supported version.
        newest: u64,
        /// The program version that wrote the file, according to the file.
        written_by: String,
    },
    /// A file with a format version that never existed or is no longer supported.
    #[error("{}: format version {found} is not one that this release reads ({known}); restore the file from a good copy", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Format version of the file.
        found: u64,
        /// The supported versions.
        known: String,
    },
    /// A file or directory that cannot be imported for a known reason, such as a Git LFS pointer in place of the
    /// weights.
    #[error("{}: {problem}; {remedy}", path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// Description of the problem.
        problem: String,
        /// Remedy.
        remedy: String,
    },
    /// Quantized weights for which slm has no scheme, so that they can only become floats.
    #[error("{}: {problem}; import it with the option `dequantize`, which makes floats of all weights", path.display())]
    NeedsDequantizing {
        /// The file or directory.
        path: PathBuf,
        /// Description of the weights.
        problem: String,
    },
    /// An option of an import that does not suit the model.
    #[error("{}: {reason}; leave the option `{option}` out", path.display())]
    ImportOption {
        /// The file or directory.
        path: PathBuf,
        /// The field of [`ImportOptions`](crate::hf::ImportOptions).
        option: &'static str,
        /// The reason.
        reason: String,
    },
    /// A quantized checkpoint where a float one is needed.
    #[error("{}: the checkpoint is quantized, a float one is needed; use the checkpoint it was made from", path.display())]
    NeedsFloat {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A float checkpoint where a quantized one is needed.
    #[error("{}: the checkpoint is not quantized; quantize it first", path.display())]
    NeedsQuantized {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A tokenizer with ids for which the model has no embedding.
    #[error(
        "{}: the tokenizer's ids go up to {highest_id}, the model's vocab_size is {vocab_size}: it is another \
         model's tokenizer; replace it by the model's own", path.display()
    )]
    Vocabulary {
        /// The tokenizer file.
        path: PathBuf,
        /// Highest id of the tokenizer.
        highest_id: u64,
        /// Number of rows of the model's embedding.
        vocab_size: usize,
    },
    /// An unsupported model architecture.
    #[error("{}: architecture {found} is not supported; supported: {supported}", path.display())]
    Architecture {
        /// The config file.
        path: PathBuf,
        /// Architecture named by the file.
        found: String,
        /// Architectures that can be imported.
        supported: String,
    },
    /// An unsupported model option.
    #[error("{}: field {field:?} is {found}, which is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The config file.
        path: PathBuf,
        /// Dotted name of the field.
        field: String,
        /// Its value.
        found: String,
        /// Architectures that can be imported.
        supported: String,
    },
    /// A configuration or an input that the model rejects.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: slm_model::Error,
    },
}

impl Error {
    /// Creates the error for the option `dequantize` or `dynamic` of an import of a model without quantized weights.
    pub fn import_of_floats(path: &Path, dequantize: bool) -> Self {
        Self::ImportOption {
            path: path.to_owned(),
            option: if dequantize { "dequantize" } else { "dynamic" },
            reason: "the model is not quantized".to_owned(),
        }
    }

    /// Converts the error of reading a model at `path`. An error of this crate that passed through the model is
    /// unwrapped.
    pub(crate) fn from_model(path: &Path, error: slm_model::Error) -> Self {
        match error {
            slm_model::Error::Source { name, source } => {
                let source = match source.downcast::<Self>() {
                    Ok(error) => return *error,
                    Err(source) => source,
                };
                match source.downcast::<StoreError>() {
                    Ok(error) => Self::Store(*error),
                    Err(source) => {
                        let source = slm_model::Error::Source { name, source };
                        Self::Model { path: path.to_owned(), source }
                    }
                }
            }
            source => Self::Model { path: path.to_owned(), source },
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| StoreError::io(path, action)(source).into()
    }

    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| StoreError::json(path)(source).into()
    }

    pub(crate) fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        StoreError::field(path, field, expected, found).into()
    }
}
