//! Results on standard output: for people, or one JSON object for machines.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Error, Result};

pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
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
        write_stdout(&format!("{text}\n"))
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
