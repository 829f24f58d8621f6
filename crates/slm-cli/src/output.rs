//! Results on standard output: for people, or one JSON object for machines.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};

pub(crate) struct Output {
    json: bool,
    /// Whether the one object for machines was printed.
    done: AtomicBool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, done: AtomicBool::new(false) }
    }

    /// Prints text for people; nothing in JSON mode.
    pub(crate) fn say(&self, text: impl AsRef<str>) -> Result<()> {
        if self.json { Ok(()) } else { write_stdout(&format!("{}\n", text.as_ref())) }
    }

    /// Prints part of a line for people at once; nothing in JSON mode.
    pub(crate) fn stream(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { write_stdout(text) }
    }

    /// Prints one of several results for machines, on a line of its own; nothing otherwise.
    pub(crate) fn line<T: Serialize>(&self, value: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value)
            .map_err(|error| Error::file("standard output", format!("cannot be written as JSON: {error}")))?;
        write_stdout(&format!("{text}\n"))
    }

    /// Prints the result for machines; nothing otherwise.
    pub(crate) fn result<T: Serialize>(&self, value: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::file("standard output", format!("cannot be written as JSON: {error}")))?;
        self.done.store(true, Ordering::Relaxed);
        write_stdout(&format!("{text}\n"))
    }

    /// Prints an error for machines: `{"error": {"kind", "message", "exit_code"}}`, unless there is a result; nothing
    /// otherwise.
    pub(crate) fn error(&self, kind: &str, message: &str, exit_code: u8) -> Result<()> {
        if self.done.load(Ordering::Relaxed) {
            return Ok(());
        }
        let error = json!({"kind": kind, "message": message, "exit_code": exit_code});
        self.result(&json!({ "error": error }))
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
