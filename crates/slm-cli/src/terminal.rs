//! Terminals: their width, and text that fits it.

use std::io::{self, IsTerminal};

use textwrap::{Options, WordSeparator, WordSplitter};

/// Maximum width in columns of a label at the start of a line to which continuation lines are indented.
const WIDEST_LABEL: usize = 24;

/// Start of clap's usage line.
const USAGE: &str = "Usage: ";

/// End of a line of a command that continues on the next line.
const CONTINUED: &str = " \\";

/// Number of columns before the continuation lines of a command.
const COMMAND_INDENT: usize = 6;

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

/// Returns `true` if messages may be coloured: on a terminal that knows colours, unless `NO_COLOR` is set.
pub(crate) fn colours() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let able = std::env::var_os("TERM").is_none_or(|name| name != "dumb");
    wanted && able && io::stderr().is_terminal()
}

/// Breaks lines of `text` that are wider than `width` at spaces, and indents continuation lines to the text of the
/// line: after its leading spaces, a bullet, or a label followed by two spaces. A single word that is too wide, such as
/// a path, is not broken.
pub(crate) fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut continues_command = false;
    let wrap = |line: &str| {
        let is_command = continues_command || is_command(line);
        continues_command = is_command && line.ends_with(CONTINUED);
        if textwrap::core::display_width(line) <= width {
            line.trim_end().to_owned()
        } else if is_command {
            wrapped_command(line, width)
        } else {
            broken(line, width, hanging(line).min(width / 2)).join("\n")
        }
    };
    text.split('\n').map(wrap).collect::<Vec<_>>().join("\n")
}

/// Breaks a line at spaces, and indents all lines but the first.
fn broken(line: &str, width: usize, indent: usize) -> Vec<String> {
    let indent = " ".repeat(indent);
    let options = Options::new(width)
        .subsequent_indent(&indent)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(line, options).into_iter().map(std::borrow::Cow::into_owned).collect()
}

/// Returns `true` for the first line of an example that can be pasted into a shell.
fn is_command(line: &str) -> bool {
    line.strip_prefix("  slm ").is_some_and(|rest| !rest.contains("  "))
}

/// Breaks a line of a command outside of quotes, so that it can still be pasted into a shell.
fn wrapped_command(line: &str, width: usize) -> String {
    const SPACE_IN_QUOTES: char = '\u{a0}';
    let (line, end) = match line.strip_suffix(CONTINUED) {
        Some(line) => (line, CONTINUED),
        None => (line, ""),
    };
    let mut in_quotes = false;
    let line: String = line
        .chars()
        .map(|letter| {
            in_quotes ^= letter == '\'' || letter == '"';
            if in_quotes && letter == ' ' { SPACE_IN_QUOTES } else { letter }
        })
        .collect();
    let lines = broken(&line, width.saturating_sub(CONTINUED.len()), COMMAND_INDENT);
    lines.join(&format!("{CONTINUED}\n")).replace(SPACE_IN_QUOTES, " ") + end
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
    fn examples_can_be_pasted_into_a_shell() {
        let example = "Examples:\n  slm qat --checkpoint my-model --prompt 'Once upon a time' \\\n      --layer 'a b' --steps 20\n  \
                       slm ptq       quantize";
        for width in 30..80 {
            let shown = wrapped(example, Some(width));
            assert!(shown.lines().all(|line| line.len() <= width), "{width}:\n{shown}");
            let shell = |text: &str| {
                let text = text.replace("\\\n", " ");
                let command = text.lines().nth(1).unwrap_or_default();
                command.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(shell(&shown), shell(example), "{width}:\n{shown}");
            assert!(shown.contains("'Once upon a time'"), "{width}:\n{shown}");
        }
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
