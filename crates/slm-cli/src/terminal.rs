//! Terminals: their width, and text that fits it.

use std::io::{self, IsTerminal, Write};

use textwrap::{Options, WordSeparator, WordSplitter};

use crate::progress::between_bars;

/// Maximum width in columns of a label at the start of a line to which continuation lines are indented.
const WIDEST_LABEL: usize = 24;

/// Start of clap's usage line.
const USAGE: &str = "Usage: ";

/// Columns of a terminal that does not tell.
const USUAL_WIDTH: usize = 80;

/// Width in columns of the terminal on standard output; `None` if it is not a terminal.
pub(crate) fn stdout_width() -> Option<usize> {
    let stdout = io::stdout();
    stdout.is_terminal().then(|| columns(terminal_size::terminal_size_of(stdout)))
}

/// Width in columns of the terminal on standard error; `None` if it is not a terminal.
pub(crate) fn stderr_width() -> Option<usize> {
    let stderr = io::stderr();
    stderr.is_terminal().then(|| columns(terminal_size::terminal_size_of(stderr)))
}

/// The width of a terminal, or what `COLUMNS` says if the terminal does not know it.
fn columns(size: Option<(terminal_size::Width, terminal_size::Height)>) -> usize {
    let known = size.map(|(width, _)| usize::from(width.0));
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    known.or_else(said).filter(|&width| width > 0).unwrap_or(USUAL_WIDTH)
}

/// Returns `true` if messages may be coloured: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn colours() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && io::stderr().is_terminal()
}

/// Breaks lines of `text` that are wider than `width` at spaces, and indents continuation lines to the text of the
/// line: after its leading spaces, a bullet, or a label followed by two spaces. A single word that is too wide, such as
/// a path, is not broken.
pub(crate) fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let wrap = |line: &str| {
        if textwrap::core::display_width(line) <= width {
            return line.trim_end().to_owned();
        }
        let indent = " ".repeat(hanging(line).min(width / 2));
        let options = Options::new(width)
            .subsequent_indent(&indent)
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation);
        textwrap::wrap(line, options).join("\n")
    };
    text.split('\n').map(wrap).collect::<Vec<_>>().join("\n")
}

/// Number of columns before the text of a line.
fn hanging(line: &str) -> usize {
    let spaces = line.len() - line.trim_start().len();
    let text = &line[spaces..];
    for (start, columns) in [("- ", 2), (USAGE, USAGE.len())] {
        if text.starts_with(start) {
            return spaces + columns;
        }
    }
    let label = text.find("  ").map(|end| end + text[end..].len() - text[end..].trim_start().len());
    label.map_or(spaces, |label| match spaces + label {
        columns if columns <= WIDEST_LABEL => columns,
        _ => spaces,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_their_text() {
        let wrap = |text| wrapped(text, Some(30));
        assert_eq!(wrap("short"), "short");
        assert_eq!(
            wrap("weights     int8 tensor, symmetric, f32"),
            "weights     int8 tensor,\n            symmetric, f32"
        );
        assert_eq!(wrap("- one two three four five six seven"), "- one two three four five six\n  seven");
        assert_eq!(wrap("a  b\n\nc"), "a  b\n\nc");
        assert_eq!(
            wrap("--one --two --three --four --five --six"),
            "--one --two --three --four\n--five --six"
        );
        let path = "wrote /a/path/that/is/longer/than/a/line/of/the/terminal";
        assert_eq!(wrap(path), path.replace("wrote ", "wrote\n"));
        assert_eq!(wrapped(path, None), path);
    }

    #[test]
    fn no_line_is_too_wide_and_nothing_is_lost() {
        let text =
            "perplexity        1.7827 float -> 1.7830 quantized (+0.02 % ± 0.02 %), and some more words";
        for width in 40..100 {
            let shown = wrapped(text, Some(width));
            assert!(
                shown.lines().all(|line| textwrap::core::display_width(line) <= width),
                "{width}:\n{shown}"
            );
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&shown), words(text));
        }
    }
}
