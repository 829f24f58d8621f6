//! Errors of chat templates.

/// Errors of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A template that is not valid Jinja.
    #[error("the chat template is not valid Jinja (line {line}): {detail}")]
    Syntax {
        /// Line of the template, counted from 1; 0 if unknown.
        line: usize,
        /// Description of the problem.
        detail: String,
    },
    /// A conversation that the template rejects with `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// Message of the template.
        message: String,
    },
    /// A template that failed while it was rendered.
    #[error("the chat template failed (line {line}): {detail}")]
    Render {
        /// Line of the template, counted from 1; 0 if unknown.
        line: usize,
        /// Description of the problem.
        detail: String,
    },
    /// A template larger than any legitimate one.
    #[error("the chat template has {bytes} bytes; at most {limit} are accepted")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The largest accepted size in bytes.
        limit: usize,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The message of a template's `raise_exception`, carried through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Raised(pub(crate) String);

/// The error for a template that does not compile.
pub(crate) fn syntax(error: &minijinja::Error) -> Error {
    Error::Syntax { line: error.line().unwrap_or(0), detail: detail(error) }
}

/// The error for a template that failed while it was rendered.
pub(crate) fn render(error: &minijinja::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
            return Error::Refused { message: message.clone() };
        }
        source = current.source();
    }
    Error::Render { line: error.line().unwrap_or(0), detail: detail(error) }
}

fn detail(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
