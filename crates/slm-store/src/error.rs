//! The error type of this crate.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::shown_as::shown;
use crate::stop::Stopped;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from reading or writing files. Its message names the file, the problem, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("{}: cannot {action}: {source}{}", path.display(), remedy_of_io(source))]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The attempted action, such as `"read"`.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or directory that does not exist although it must.
    #[error("{}: not found; {remedy}", path.display())]
    Missing {
        /// The path that was looked for.
        path: PathBuf,
        /// Remedy.
        remedy: String,
    },
    /// A file larger than any legitimate one of its kind.
    #[error("{}: {found} bytes, but such a file has at most {limit}: it is not what its name says; restore it from a good copy", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The largest accepted size in bytes.
        limit: u64,
    },
    /// A JSON file that does not parse, lacks a field or has an unknown field.
    #[error("{}: {source}; restore the file from a good copy", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// A field with an invalid value.
    #[error("{}: field {field:?}: expected {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Dotted name of the field.
        field: String,
        /// Accepted values.
        expected: String,
        /// Value found.
        found: String,
    },
    /// A file that differs from its record in the manifest.
    #[error(
        "{}: {what} is {found}, the manifest says {expected}: the file was changed or damaged after it was \
         written; restore it from a good copy", path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The differing property: `"size"`, `"SHA-256"`, or the name of the checksum and of the part that it covers.
        what: String,
        /// Value in the manifest.
        expected: String,
        /// Value in the file.
        found: String,
    },
    /// A source file that changed while it was read.
    #[error(
        "{}: the file changed while it was read, so nothing was written; try again when it no longer changes", path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file of the checkpoint that the manifest does not list.
    #[error("{}: not listed in manifest.json, so it does not belong to this checkpoint; remove it", path.display())]
    Unlisted {
        /// The file.
        path: PathBuf,
    },
    /// A safetensors file that ends early or has excess bytes.
    #[error("{}: expected {expected} bytes, found {found}: the file is truncated or damaged; restore it from a good copy", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Size in bytes that its header requires.
        expected: u64,
        /// Actual size in bytes.
        found: u64,
    },
    /// A truncated file of tensors.
    #[error(
        "{}: expected {expected} bytes, found {found}: the file is truncated, which affects tensors {tensors}; \
         restore it from a good copy", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Names of the tensors that are not complete.
        tensors: String,
        /// Size in bytes that its header requires.
        expected: u64,
        /// Actual size in bytes.
        found: u64,
    },
    /// A file of tensors with an invalid header.
    #[error("{}: not a valid {what} file: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Expected format: `"safetensors"` or `"burnpack"`.
        what: &'static str,
        /// Description of the problem.
        reason: String,
    },
    /// A file with missing or unexpected tensors.
    #[error("{}: {}; {remedy}", path.display(), describe_sets(missing, unexpected))]
    TensorSet {
        /// The file, or the directory of a model in several files.
        path: PathBuf,
        /// Tensors that should be there.
        missing: Vec<String>,
        /// Tensors that should not.
        unexpected: Vec<String>,
        /// Remedy.
        remedy: String,
    },
    /// A tensor with the wrong shape.
    #[error(
        "{}: tensor {tensor:?}: expected shape {expected:?}, found {found:?}: the file and its config.json do \
         not belong together", path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Value in the configuration.
        expected: Vec<usize>,
        /// Value in the file.
        found: Vec<usize>,
    },
    /// A tensor with the wrong element type.
    #[error("{}: tensor {tensor:?}: expected type {expected}, found {found}", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Accepted types.
        expected: String,
        /// Type found.
        found: Dtype,
    },
    /// A weight that is NaN or infinite.
    #[error(
        "{}: tensor {tensor:?}: value {value} at index {index} is not finite: the model diverged in training or \
         the file is damaged", path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// An invalid quantized weight of a layer.
    #[error("{}: layer {layer:?}: {source}", path.display())]
    Layer {
        /// The file.
        path: PathBuf,
        /// The linear layer.
        layer: String,
        /// Description of the problem.
        source: slm_quant_core::Error,
    },
    /// A `quantization_metadata.json` that contradicts the tensors or the configuration.
    #[error(
        "{}: layer {layer:?}: {field} is {found}, the tensors say {expected}: the files do not belong together",
        path.display()
    )]
    Metadata {
        /// The metadata file.
        path: PathBuf,
        /// The linear layer.
        layer: String,
        /// Field of the layer.
        field: &'static str,
        /// Value in the tensors.
        expected: String,
        /// Value in the metadata.
        found: String,
    },
    /// An output that already exists.
    #[error("{}: already exists; choose another output, or overwrite it", path.display())]
    OutputExists {
        /// The output directory.
        path: PathBuf,
    },
    /// An output that another process is writing.
    #[error("{}: {by} is writing to it; wait for it to end, or choose another output", path.display())]
    OutputLocked {
        /// The output directory.
        path: PathBuf,
        /// Holder of the lock.
        by: String,
    },
    /// An output for which the system denies write access.
    #[error("{}: cannot be written: {source}; {}", path.display(), remedy_of_writing(source))]
    OutputUnwritable {
        /// The output directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An output whose replacement would destroy something that is not a checkpoint.
    #[error("{}: not overwritten, because {reason}; choose another output, or remove it yourself", path.display())]
    OutputNotOurs {
        /// The output directory.
        path: PathBuf,
        /// Reason why the directory must not be replaced.
        reason: String,
    },
    /// A directory that contains something else than expected.
    #[error("{}: it is {found}, not {expected}; {remedy}", path.display())]
    WrongKind {
        /// The directory.
        path: PathBuf,
        /// Kind of content found.
        found: String,
        /// Kind of content expected.
        expected: &'static str,
        /// Remedy.
        remedy: &'static str,
    },
    /// A module that cannot be saved or loaded into.
    #[error("{name}: {problem}")]
    Module {
        /// Layer or parameter.
        name: String,
        /// Description of the problem, and the remedy.
        problem: String,
    },
    /// A read or copy that was stopped by its [`StopFlag`](crate::StopFlag).
    #[error("stopped on request")]
    Stopped,
    /// A file that was not written as declared. This is a bug in the caller, not an invalid input.
    #[error("{}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Description of the misuse.
        reason: String,
    },
}

impl Error {
    /// Creates an [`Error::Io`] for an operation on `path`, or [`Error::Stopped`] if it was stopped. A temporary path of
    /// an output is named as the output.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.get_ref().is_some_and(|reason| reason.is::<Stopped>()) {
            true => Self::Stopped,
            false => Self::Io { path: shown(path), action, source },
        }
    }

    /// Creates an [`Error::Json`] for the file `path`.
    pub fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { path: path.to_owned(), source }
    }

    /// Creates an [`Error::Field`] for the file `path`.
    pub fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: field.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// Remedy for an output that the system refuses to write.
pub fn remedy_of_writing(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or choose an output on another disk"
        }
        ErrorKind::ReadOnlyFilesystem => "choose an output on a disk that may be written to",
        ErrorKind::NotFound => "create the directory, or choose another output",
        ErrorKind::InvalidFilename => "choose an output with a shorter name",
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            "a part of its path is a file; choose an output in a directory"
        }
        _ => "choose an output in a directory that may be written to",
    }
}

/// Remedy for an operation, after a semicolon; empty unless the reason is one for which only writing fails.
fn remedy_of_io(source: &io::Error) -> String {
    use ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match source.kind() {
        StorageFull | QuotaExceeded | ReadOnlyFilesystem => format!("; {}", remedy_of_writing(source)),
        _ => String::new(),
    }
}

fn describe_sets(missing: &[String], unexpected: &[String]) -> String {
    /// Maximum number of names in a message.
    const LISTED: usize = 5;
    let list = |what: &str, names: &[String]| match names {
        [] => None,
        [name] => Some(format!("{what} tensor {name:?}")),
        names if names.len() > LISTED => Some(format!(
            "{} {what} tensors: {} and {} more",
            names.len(),
            names[..LISTED].join(", "),
            names.len() - LISTED
        )),
        names => Some(format!("{} {what} tensors: {}", names.len(), names.join(", "))),
    };
    let parts: Vec<String> =
        [list("missing", missing), list("unexpected", unexpected)].into_iter().flatten().collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_writes_comes_with_its_remedy() {
        let said = |kind: ErrorKind| Error::io(Path::new("out"), "write")(kind.into()).to_string();
        assert!(
            said(ErrorKind::StorageFull).ends_with("; free some space, or choose an output on another disk")
        );
        assert!(said(ErrorKind::ReadOnlyFilesystem).ends_with("a disk that may be written to"));
        assert!(!said(ErrorKind::PermissionDenied).contains(';'), "it may have been a read");
    }
}
