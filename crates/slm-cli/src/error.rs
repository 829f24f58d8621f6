//! Errors that end the program.

use std::path::PathBuf;

use crate::remedies::Remedy;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit code for an invalid command line.
pub(crate) const USAGE: u8 = 2;

/// Exit code after Ctrl-C, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}{options}", options = .0.options())]
    Checkpoint(#[from] slm_checkpoint::Error),
    /// A file of tensors that cannot be read or written.
    #[error("{0}{options}", options = .0.options())]
    Store(#[from] slm_checkpoint::StoreError),
    #[error("{0}{options}", options = .0.options())]
    Exchange(#[from] slm_exchange::Error),
    #[error("{0}{options}", options = .0.options())]
    Model(#[from] slm_model::Error),
    #[error("{0}{options}", options = .0.options())]
    Ptq(#[from] slm_ptq::Error),
    #[error(transparent)]
    Text(#[from] slm_text::Error),
    #[error("{0}{options}", options = .0.options())]
    Train(#[from] slm_train::Error),
    #[error(transparent)]
    Chat(#[from] slm_chat::Error),
    #[error("{0}{options}", options = .0.options())]
    Serve(#[from] slm_serve::Error),
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

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>, detail: impl ToString) -> Self {
        Self::File { path: path.into(), detail: detail.to_string() }
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Interrupted => INTERRUPTED,
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
            Self::Interrupted => "interrupted",
            Self::Unfinished { error, .. } => error.kind(),
            Self::OutputClosed => "output",
        }
    }
}
