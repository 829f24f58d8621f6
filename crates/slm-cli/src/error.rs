//! Errors that end the program.

use std::io;
use std::path::{Path, PathBuf};

use slm_checkpoint::StoreError;
use slm_store::remedy_of_writing;

use crate::out_file::relative;
use crate::remedies::Remedy;
use crate::signals::Signal;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit code for an invalid command line.
pub(crate) const USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}{options}", options = .0.options())]
    Checkpoint(#[source] slm_checkpoint::Error),
    /// A file of tensors that cannot be read or written.
    #[error("{0}{options}", options = .0.options())]
    Store(#[source] StoreError),
    #[error("{0}{options}", options = .0.options())]
    Exchange(#[source] slm_exchange::Error),
    #[error("{0}{options}", options = .0.options())]
    Model(#[source] slm_model::Error),
    #[error("{0}{options}", options = .0.options())]
    Ptq(#[source] slm_ptq::Error),
    #[error(transparent)]
    Text(#[from] slm_text::Error),
    #[error("{0}{options}", options = .0.options())]
    Train(#[source] slm_train::Error),
    #[error(transparent)]
    Chat(#[from] slm_chat::Error),
    #[error("{0}{options}", options = .0.options())]
    Serve(#[source] slm_serve::Error),
    #[error(transparent)]
    Core(#[from] slm_quant_core::Error),
    #[cfg(not(feature = "wgpu"))]
    #[error(
        "this build has no GPU support; build it with `cargo build --release -p slm-cli --features wgpu`, or \
         use --device flex"
    )]
    NoWgpu,
    #[error(
        "this build has no NdArray backend; build it with `cargo build --release -p slm-cli --features ndarray`, or \
         use --device flex"
    )]
    NoNdarray,
    #[error("{path}: {detail}", path = path.display())]
    File { path: PathBuf, detail: String },
    #[error("{0}")]
    Usage(String),
    #[error("threads could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("interrupted")]
    Interrupted,
    /// A signal such as SIGTERM in a command that continues after Ctrl-C.
    #[error("ended by a signal")]
    Terminated,
    /// Ctrl-C while an output was written that appears complete or not at all.
    #[error("interrupted; nothing was written to {path}", path = path.display())]
    Unwritten { path: PathBuf },
    /// A quantization that ended early, whose finished layers are kept.
    #[error(
        "{error}; {count} of {total} layers are kept in {dir}: the same command with --resume continues from there",
        dir = dir.display()
    )]
    Unfinished {
        /// The cause.
        error: Box<Error>,
        count: usize,
        total: usize,
        dir: PathBuf,
    },
    /// The reader of standard output, such as `head`, has closed it. This is not a failure.
    #[error("standard output was closed")]
    OutputClosed,
}

/// Converts errors of the libraries; a read or write that Ctrl-C stopped becomes [`Error::Interrupted`].
macro_rules! from_libraries {
    ($($variant:ident($library:ty)),* $(,)?) => {
        $(impl From<$library> for Error {
            fn from(error: $library) -> Self {
                match error.store() {
                    Some(StoreError::Stopped) => Self::Interrupted,
                    _ => Self::$variant(error),
                }
            }
        })*
    };
}

from_libraries!(
    Checkpoint(slm_checkpoint::Error),
    Store(StoreError),
    Exchange(slm_exchange::Error),
    Model(slm_model::Error),
    Ptq(slm_ptq::Error),
    Train(slm_train::Error),
    Serve(slm_serve::Error),
);

impl Error {
    /// Adds to an interruption that nothing was written to `out`. Other errors stay as they are.
    pub(crate) fn unwritten(self, out: &Path) -> Self {
        match self {
            Self::Interrupted => Self::Unwritten { path: relative(out).to_owned() },
            other => other,
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, detail: impl ToString) -> Self {
        Self::File { path: path.into(), detail: detail.to_string() }
    }

    /// A file or directory that cannot be written.
    pub(crate) fn unwritable(path: impl Into<PathBuf>, source: &io::Error) -> Self {
        Self::file(path, format!("cannot be written: {source}; {}", remedy_of_writing(source)))
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Interrupted | Self::Unwritten { .. } => Signal::ctrl_c().exit_code(),
            Self::Terminated => Signal::termination().exit_code(),
            Self::Unfinished { error, .. } => error.code(),
            Self::OutputClosed => 0,
            _ => 1,
        }
    }

    /// Returns the kind of the error, one word for JSON output.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Checkpoint(_) | Self::Store(_) => "checkpoint",
            Self::Exchange(_) => "exchange",
            Self::Model(_) => "model",
            Self::Ptq(_) | Self::Core(_) => "quantization",
            Self::Text(_) => "text",
            Self::Chat(_) => "chat_template",
            Self::Train(_) => "training",
            Self::Serve(_) => "server",
            #[cfg(not(feature = "wgpu"))]
            Self::NoWgpu => "device",
            Self::NoNdarray => "device",
            Self::File { .. } => "file",
            Self::Usage(_) => "usage",
            Self::Threads(_) => "threads",
            Self::Interrupted | Self::Terminated | Self::Unwritten { .. } => "interrupted",
            Self::Unfinished { error, .. } => error.kind(),
            Self::OutputClosed => "output",
        }
    }
}
