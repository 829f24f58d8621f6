//! Messages on standard error, in the form of the program's errors: `warning: ...`.

use std::fmt;
use std::io::{self, Write};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::progress::between_bars;
use crate::terminal::{stderr_width, wrapped};

/// The format of a message: its level in a word, then its text.
pub(crate) struct Messages;

impl<S, N> FormatEvent<S, N> for Messages
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (word, colour) = match *event.metadata().level() {
            Level::ERROR => ("error", 31),
            Level::WARN => ("warning", 33),
            Level::INFO => ("info", 32),
            Level::DEBUG => ("debug", 34),
            _ => ("trace", 35),
        };
        match writer.has_ansi_escapes() {
            true => write!(writer, "\x1b[{colour}m{word}:\x1b[0m ")?,
            false => write!(writer, "{word}: ")?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error with wrapped lines, printed between the progress bars.
pub(crate) struct WrappedStderr {
    width: Option<usize>,
}

impl WrappedStderr {
    pub(crate) fn new() -> Self {
        Self { width: stderr_width() }
    }
}

impl Write for WrappedStderr {
    /// Receives whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        between_bars(|| match std::str::from_utf8(bytes) {
            Ok(text) => io::stderr().write_all(wrapped(text, self.width).as_bytes()),
            Err(_) => io::stderr().write_all(bytes),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
