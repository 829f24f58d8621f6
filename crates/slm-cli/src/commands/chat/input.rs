//! Input lines from a terminal, with editing and history, or from a pipe.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, IsTerminal};

use dialoguer::theme::Theme;
use dialoguer::{BasicHistory, Input as Prompt};

use crate::error::{Error, Result};

/// The outcome of reading a line.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: the line was abandoned.
    Stopped,
    /// The end of the input.
    End,
}

pub(super) enum Input {
    Terminal(BasicHistory),
    Pipe,
}

impl Input {
    pub(super) fn new() -> Self {
        // The prompt is written to standard error.
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            Self::Terminal(BasicHistory::new().max_entries(1000).no_duplicates(true))
        } else {
            Self::Pipe
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub(super) fn read(&mut self) -> Result<Line> {
        match self {
            Self::Terminal(history) => {
                let prompt = Prompt::<String>::with_theme(&Arrow).allow_empty(true).history_with(history);
                match prompt.interact_text() {
                    Ok(line) => Ok(Line::Text(line)),
                    Err(dialoguer::Error::IO(error)) => match error.kind() {
                        ErrorKind::Interrupted => Ok(Line::Stopped),
                        ErrorKind::UnexpectedEof => Ok(Line::End),
                        _ => Err(Error::file("terminal", error)),
                    },
                }
            }
            Self::Pipe => {
                let mut line = String::new();
                let read = io::stdin().lock().read_line(&mut line);
                match read.map_err(|error| Error::file("standard input", error))? {
                    0 => Ok(Line::End),
                    _ => Ok(Line::Text(line)),
                }
            }
        }
    }
}

/// A prompt that consists of an arrow.
struct Arrow;

impl Theme for Arrow {
    fn format_input_prompt(
        &self,
        f: &mut dyn fmt::Write,
        _prompt: &str,
        _default: Option<&str>,
    ) -> fmt::Result {
        f.write_str("> ")
    }

    fn format_input_prompt_selection(
        &self,
        f: &mut dyn fmt::Write,
        _prompt: &str,
        line: &str,
    ) -> fmt::Result {
        write!(f, "> {line}")
    }
}
