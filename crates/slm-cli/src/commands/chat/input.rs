//! Input lines from a terminal, with editing and history, or from a pipe.

use std::io::{self, BufRead, IsTerminal};

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use crate::context::Context;
use crate::error::{Error, Result};

const PROMPT: &str = "> ";

/// The outcome of reading a line.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: the line was abandoned.
    Stopped,
    /// The end of the input: Ctrl-D on an empty line, or the end of a pipe.
    End,
}

pub(super) enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

impl Input {
    pub(super) fn new() -> Result<Self> {
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Ok(Self::Pipe);
        }
        // The prompt appears on the terminal even if standard output is a file.
        let config = Config::builder().behavior(Behavior::PreferTerm).auto_add_history(true).build();
        let editor = DefaultEditor::with_config(config).map_err(|error| Error::file("terminal", error))?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub(super) fn read(&mut self, context: &Context) -> Result<Line> {
        let _waiting = context.interrupt.while_waiting();
        match self {
            Self::Terminal(editor) => match editor.readline(PROMPT) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Stopped),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(Error::file("terminal", error)),
            },
            Self::Pipe => {
                let mut line = String::new();
                let read = io::stdin().lock().read_line(&mut line);
                match read.map_err(unreadable)? {
                    0 => Ok(Line::End),
                    _ => Ok(Line::Text(line)),
                }
            }
        }
    }
}

/// The error of a pipe that cannot be read.
fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            Error::file("standard input", "is not a text in UTF-8; convert it, for example with iconv")
        }
        _ => Error::file("standard input", error),
    }
}
