//! Results on standard output: text, or a single JSON object.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::terminal::{stdout_width, wrapped};
use crate::word_wrap::WordWrap;

pub(crate) struct Output {
    json: bool,
    quiet: bool,
    /// Width of the terminal in columns; `None` if there is no terminal.
    width: Option<usize>,
    /// True once the JSON object was printed.
    done: AtomicBool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, width: stdout_width(), done: AtomicBool::new(false) }
    }

    /// Width of the terminal in columns; `None` if there is no terminal.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Prints the one-line result, the only output with `--quiet`; does nothing in JSON mode.
    pub(crate) fn headline(&self, text: impl AsRef<str>) -> Result<()> {
        let text = text.as_ref();
        let shown = if self.quiet { text.lines().next().unwrap_or_default() } else { text };
        self.stream(&format!("{}\n", wrapped(shown, self.width)))
    }

    /// Prints text, wrapped to fit the terminal; does nothing in JSON mode or with `--quiet`.
    pub(crate) fn say(&self, text: impl AsRef<str>) -> Result<()> {
        if self.quiet { Ok(()) } else { self.headline(text) }
    }

    /// Prints a warning that belongs to the result, after an empty line.
    pub(crate) fn warning(&self, text: &str) -> Result<()> {
        self.say(format!("\nwarning: {text}"))
    }

    /// Prints lines unchanged, such as those of a table; does nothing in JSON mode or with `--quiet`.
    pub(crate) fn lines(&self, text: &str) -> Result<()> {
        if self.quiet { Ok(()) } else { self.stream(&format!("{text}\n")) }
    }

    /// Begins a text that arrives in pieces.
    pub(crate) fn typing(&self) -> Typing<'_> {
        Typing { output: self, wrap: self.width.map(WordWrap::new) }
    }

    /// Prints part of a line immediately; does nothing in JSON mode.
    pub(crate) fn stream(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { write_stdout(text) }
    }

    /// Prints one of several JSON results on a separate line; does nothing outside JSON mode.
    pub(crate) fn line<T: Serialize>(&self, value: &T) -> Result<()> {
        if self.json { self.json_line(value) } else { Ok(()) }
    }

    /// Prints one of several results that are JSON in every mode, on a separate line.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|error| Error::file("standard output", format!("cannot be written as JSON: {error}")))?;
        write_stdout(&format!("{text}\n"))
    }

    /// Prints the JSON result; does nothing outside JSON mode.
    pub(crate) fn result<T: Serialize>(&self, value: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::file("standard output", format!("cannot be written as JSON: {error}")))?;
        self.done.store(true, Ordering::Relaxed);
        write_stdout(&format!("{text}\n"))
    }

    /// Prints an error as JSON, `{"error": {"kind", "message", "exit_code"}}`, unless a result was printed; does
    /// nothing outside JSON mode.
    pub(crate) fn error(&self, kind: &str, message: &str, exit_code: u8) -> Result<()> {
        if self.done.load(Ordering::Relaxed) {
            return Ok(());
        }
        let error = json!({"kind": kind, "message": message, "exit_code": exit_code});
        self.result(&json!({ "error": error }))
    }
}

/// A text that is printed as it arrives, wrapped at words on a terminal; prints nothing in JSON mode.
pub(crate) struct Typing<'a> {
    output: &'a Output,
    wrap: Option<WordWrap>,
}

impl Typing<'_> {
    /// Prints the next piece. On a terminal, the last word follows with the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Result<()> {
        match &mut self.wrap {
            Some(wrap) => self.output.stream(&wrap.push(piece)),
            None => self.output.stream(piece),
        }
    }

    /// Prints what was held back, and ends the line.
    pub(crate) fn finish(self) -> Result<()> {
        let rest = self.wrap.map(WordWrap::finish).unwrap_or_default();
        self.output.stream(&(rest + "\n"))
    }
}

/// Writes to standard output.
fn write_stdout(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::file("standard output", error),
    })
}
